"""Build a re-ranker into a bundle: what is chosen, what is refused, and that it ranks rightly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builds import LOOSE, options
from command_line import THREADS, json_of, refused, run
from onnx import helper

from cir_rt.bundle import Bundle, open_bundle
from cir_rt.calibration.gate import Duel
from cir_rt.calibration.margin import cascaded
from cir_rt.config import to_dict
from cir_rt.errors import BundleError, DataError, GateError, UsageError
from cir_rt.export.build import BuildOptions, BuildReport, build_engine
from cir_rt.export.build.graphs import graphs_of, reranker_of
from cir_rt.export.build.reranker import forms
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.evaluate import ask, open_model, report
from cir_rt.export.models.scorer import Scorer, open_scorer
from cir_rt.export.rerank import reranked
from cir_rt.export.runtime_scorer import RuntimeScorer
from cir_rt.rerank import Reranker

ROLES = ("rerank_image", "rerank_query", "rerank")
CASCADE = ("rerank_early", "rerank_late")


def stub_race(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """Let every form but the plain one, and every cascade, take `ratio` times as long."""

    def duel(before: object, after: object, **settings: object) -> Duel:
        return Duel(before_ms=1.0, after_ms=ratio, spread=0.0)

    monkeypatch.setattr("cir_rt.export.build.reranker.race.duel", duel)


def spoil(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let some forms rank upside down."""
    write = forms.write_rerank_graphs

    def spoilt(model: Any, out: Path, *, form: str, **settings: Any) -> dict[str, Path]:
        files = write(model, out, form=form, **settings)
        if form in names:
            graph = onnx.load(files["rerank"])
            for node in graph.graph.node:
                if "scores" in node.output:
                    node.output[0] = "before"
            graph.graph.node.append(helper.make_node("Neg", ["before"], ["scores"]))
            onnx.save(graph, files["rerank"])
        return files

    monkeypatch.setattr(forms, "write_rerank_graphs", spoilt)


@pytest.fixture(scope="module", params=["plain", "absorbed"])
def ranking(
    request: pytest.FixtureRequest, carrying: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, BuildReport]]:
    """An FP32 bundle of either form; the faster one has a cascade."""
    out = tmp_path_factory.mktemp("ranking") / "made.cir"
    with pytest.MonkeyPatch.context() as monkeypatch:
        stub_race(monkeypatch, 2.0 if request.param == "plain" else 0.5)
        near = 0.0 if request.param == "plain" else 3.0
        settings = options("fp32", max_recall_drop=LOOSE, keep_slower=True, prune_weight=near)
        yield out, build_engine(carrying, out, settings)


@pytest.fixture(scope="module")
def pictures(carrying: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of pictures: a gate of agreement, which needs no right answers."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in sorted((carrying / "calibration/images").glob("*.jpg"))[:40]:
        shutil.copyfile(path, folder / path.name)
    return folder


def form_of(bundle: Bundle) -> str:
    return str(bundle.role("rerank").recipe["form"])


def test_the_bundle_says_what_it_holds(ranking: tuple[Path, BuildReport], carrying: Path) -> None:
    bundle, made = open_bundle(ranking[0]), ranking[1]
    manifest, cascade = bundle.manifest, form_of(bundle) == "absorbed"
    assert set(manifest.roles) == {"image", "text", "compose", *ROLES, *(CASCADE * cascade)}
    settings = manifest.rerank
    assert settings is not None
    config = open_checkpoint(carrying / "reranker").config
    assert manifest.roles["rerank_image"].preprocess == config.preprocess
    assert manifest.roles["rerank_image"].outputs[0].shape[1:] == (settings.places, settings.width)
    assert manifest.roles["rerank_query"].text is not None
    assert (settings.candidates, settings.margin is not None) == (50, cascade)
    assert manifest.fingerprints.tokens not in (None, manifest.fingerprints.vectors)
    assert {name: made.precisions[name] for name in ROLES} == dict.fromkeys(ROLES, "fp32")
    assert Reranker.open(bundle, threads=1).settings == settings
    facts = json_of(run("inspect", ranking[0], "--verify", "--json"))
    assert facts["rerank"] == json.loads(json.dumps(to_dict(settings)))
    assert "rerank_query" in run("inspect", ranking[0]).stdout


def test_the_manifest_says_what_was_measured(ranking: tuple[Path, BuildReport]) -> None:
    manifest = open_bundle(ranking[0]).manifest
    found = json.loads(json.dumps(manifest.quality["rerank"]))
    assert found == json.loads(json.dumps(ranking[1].to_json()["quality"]["rerank"]))
    assert set(found["recall_before"]) == set(found["recall_after"]) == set(found["recall_pruned"])
    assert found["recall_after"] == found["recall_mixed"]  # the image engine is FP32 itself
    assert found["agreement_top10"] > 90
    assert list(found["ms_per_candidate"]) == ["8", "16", "32", "50", "100"]
    assert min(found["ms_per_candidate"].values()) > 0
    gates = [gate["what"] for gate in manifest.quality["gates"]]
    assert "re-ranked" in gates
    ways = [point for point in manifest.quality["frontier"] if point["role"] == "rerank"]
    assert [point["chosen"] for point in ways] == [True]
    if cascade := found["cascade"]:
        assert (cascade["early_layers"], cascade["least"]) == (1, 10)
        assert 0 < cascade["share"] <= 1
        assert cascade["lost"] <= LOOSE


def test_the_engines_rank_as_pytorch_does(
    ranking: tuple[Path, BuildReport], reranker: Checkpoint, drawn: Dataset
) -> None:
    split, truth = drawn.split("val"), open_scorer(reranker)
    scorer = RuntimeScorer.open(open_bundle(ranking[0]), threads=1)
    rows = scorer.read(drawn.paths(split.pictures[:19]))
    tokens = scorer.rows.decode(rows)
    exact = truth.read(drawn.paths(split.pictures[:19])).astype(np.float32)
    assert np.abs(tokens - exact).max() < 0.02 * np.abs(exact).max()  # a code is 1 / 127
    queries = split.queries[:19]
    references = np.arange(len(queries)) % 19
    texts = [query.text for query in queries]
    got = scorer.score(rows[references], texts, np.tile(rows, (len(queries), 1)))
    each = np.tile(tokens, (len(queries), 1, 1, 1))
    wanted = truth.score(tokens[references], texts, each)
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.array_equal(np.argsort(-got, 1), np.argsort(-wanted, 1))


class Decoded:
    """PyTorch's scores of tokens as the bundle's gallery holds them."""

    def __init__(self, stored: RuntimeScorer, exact: Scorer) -> None:
        self.stored, self.exact = stored, exact

    def read(self, sources: Sequence[Path]) -> np.ndarray:
        return self.stored.rows.decode(self.stored.read(sources))

    def score(
        self,
        reference: np.ndarray,
        texts: Sequence[str],
        candidates: np.ndarray,
        pruned: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        return self.exact.score(reference, texts, candidates, pruned)


def test_recall_is_that_of_pytorch(
    ranking: tuple[Path, BuildReport], reranker: Checkpoint, drawn: Dataset
) -> None:
    split, bundle = drawn.split("val"), open_bundle(ranking[0])
    assert bundle.manifest.rerank
    near = bundle.manifest.rerank.prune_weight
    assert near == (3.0 if form_of(bundle) == "absorbed" else 0.0)
    exact = open_scorer(reranker, prune_weight=near)
    scorer = Decoded(RuntimeScorer.open(bundle, threads=1), exact)
    pruned = ask(open_model(ranking[0], threads=1), drawn, split)
    wanted = report(reranked(pruned, scorer, drawn, split, 10), drawn.name, split, rerank=10)
    asked = ("evaluate", ranking[0], "--data", drawn.folder, THREADS, "--json")
    assert json_of(run(*asked, "--rerank", 10)) == json.loads(json.dumps(wanted.to_json()))
    usual, none = json_of(run(*asked)), json_of(run(*asked, "--rerank", 0))
    assert (usual["rerank"], none["rerank"]) == (50, 0)
    assert usual["recall"]["R@50"] == none["recall"]["R@50"]  # the same fifty
    if bundle.manifest.rerank.margin is None:
        refused(run(*asked[:-1], "--mode", "fast"), 2, "mode is fast")
    else:
        assert json_of(run(*asked, "--mode", "fast"))["rerank"] == 50


def test_the_cascade_ranks_as_its_rule_says(
    ranking: tuple[Path, BuildReport], drawn: Dataset
) -> None:
    bundle = open_bundle(ranking[0])
    settings = bundle.manifest.rerank
    assert settings is not None
    if settings.margin is None:
        return
    split = drawn.split("val")
    whole, fast = (RuntimeScorer.open(bundle, mode=mode) for mode in ("exact", "fast"))
    rows = whole.read(drawn.paths(split.pictures[:41]))
    text = split.queries[0].text
    state = whole.reranker.query(text, whole.rows.decode(rows[0]))
    engine = whole.reranker._engines["rerank_early"]
    given = {**state, "tokens": rows["codes"], "scales": rows["scales"]}
    early = engine.run({spec.name: given[spec.name] for spec in engine.inputs})["scores"]
    scores = whole.score(rows[:1], [text], rows[None])
    wanted, _ = cascaded(early[None], scores, settings.margin, settings.least)
    found = fast.score(rows[:1], [text], rows[None])
    assert np.array_equal(np.argsort(-found[0]), np.argsort(-wanted[0]))


def test_a_gallery_may_keep_fewer_tokens(
    ranking: tuple[Path, BuildReport], carrying: Path, drawn: Dataset, tmp_path: Path
) -> None:
    settings = options("fp32", tokens=5, max_recall_drop=LOOSE, keep_slower=True)
    build_engine(carrying, tmp_path / "made.cir", settings)
    few, all_ = (Reranker.open(open_bundle(b)) for b in (tmp_path / "made.cir", ranking[0]))
    assert (few.settings.places, all_.settings.places) == (5, 17)
    assert few.fingerprint != all_.fingerprint
    pixels = few.preprocess(drawn.paths(drawn.split("val").pictures[:7]))
    tokens = all_.encode_tokens(pixels)
    squares = tokens[:, 1:].reshape(7, 2, 2, 2, 2, -1).mean((2, 4)).reshape(7, 4, -1)
    wanted = np.concatenate([tokens[:, :1], squares], axis=1)
    assert np.abs(few.encode_tokens(pixels) - wanted).max() < 1e-5


def test_neither_building_nor_evaluating_needs_torch(
    carrying: Path, drawn: Dataset, tmp_path: Path
) -> None:
    code = """
import sys
sys.modules.update(torch=None, transformers=None, onnxscript=None)
from cir_rt.cli import cli
cli(sys.argv[1:])
"""

    def shell(*arguments: object) -> dict[str, Any]:
        command = [sys.executable, "-c", code, *map(str, arguments), THREADS, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    loose = ("--max-recall-drop", LOOSE, "--precision", "int8", "--keep-slower")
    made = shell("build-engine", carrying, "--out", tmp_path / "made.cir", *loose)
    assert {made["precisions"][role] for role in ROLES} == {"int8"}
    assert made["quality"]["rerank"]["form"] in ("absorbed-int8", "plain-int8")
    assert made["quality"]["rerank"]["agreement_top10"] > 80
    found = shell("evaluate", tmp_path / "made.cir", "--data", drawn.folder, "--rerank", 7)
    assert found["rerank"] == 7


def test_auto_passes_over_a_form_that_ranks_wrongly(
    carrying: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "absorbed", "absorbed-int8", "plain-int8")
    stub_race(monkeypatch, 0.5)
    settings = options("auto", min_agreement=80.0)
    made = build_engine(carrying, tmp_path / "made.cir", settings, calibration=pictures)
    assert made.to_json()["quality"]["rerank"]["form"] == "plain"
    told = [note for note in made.notes if note.startswith("rerank: not absorbed")]
    assert told
    assert all("of FP32's top 10 are found again, the limit is 80" in note for note in told)


def test_a_precision_by_name_fails_where_it_ranks_wrongly(
    carrying: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "absorbed-int8", "plain-int8")
    settings = options("int8", min_agreement=80.0, keep_slower=True)
    with pytest.raises(GateError, match=r"^re-ranked: .* % of FP32's top 10 are found again"):
        build_engine(carrying, tmp_path / "made.cir", settings, calibration=pictures)
    assert not list(tmp_path.iterdir())


def test_a_slower_form_fails_where_it_was_asked_for(
    carrying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_race(monkeypatch, 1.2)
    monkeypatch.setattr(
        "cir_rt.export.build.race.duel",
        lambda *a, **named: Duel(before_ms=1.0, after_ms=0.5, spread=0.0),
    )
    with pytest.raises(GateError, match=r"one query re-ranked: 1\.20 ms, slower than the 1\.00 ms"):
        build_engine(carrying, tmp_path / "made.cir", options("int8", max_recall_drop=LOOSE))
    assert not list(tmp_path.iterdir())


def test_without_words_there_is_nothing_to_ask(
    carrying: Path, pictures: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(carrying, tmp_path / "graphs")
    (bare / "calibration/calibration.jsonl").write_text("")
    out = tmp_path / "made.cir"
    with pytest.raises(DataError, match=r"rerank: nothing to ask.*captions\.txt"):
        build_engine(bare, out, options("fp32"), calibration=pictures)
    with pytest.raises(DataError, match=r"text: nothing to calibrate with.*captions\.txt"):
        build_engine(bare, out, options("int8"), calibration=pictures)
    made = build_engine(bare, out, options("auto"), calibration=pictures, rerank=False)
    assert made.precisions["text"] == "fp32"


def test_a_re_ranker_that_stands_there_is_raced_too(
    ranking: tuple[Path, BuildReport],
    carrying: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = shutil.copytree(ranking[0], tmp_path / "made.cir")
    stood = form_of(open_bundle(out))
    stub_race(monkeypatch, 0.5)
    settings = options("fp32", max_recall_drop=LOOSE)
    made = build_engine(carrying, out, settings)
    assert form_of(open_bundle(out)) == "absorbed"
    raced = [gate for gate in made.gates if gate.what.startswith("one query re-ranked, beside")]
    assert len(raced) == (stood == "plain")  # the same engine replaces itself unasked


def test_a_checkpoint_takes_its_re_ranker_along(
    checkpoint: Checkpoint, reranker: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def export(towers: Checkpoint, out: Path, *, reranker: Checkpoint) -> None:
        asked.extend([towers.folder, reranker.folder])
        shutil.copytree(towers.folder, out)
        shutil.copytree(reranker.folder, out / "reranker")

    monkeypatch.setattr("cir_rt.export.onnx_export.export_graphs", export)
    found = reranker_of(graphs_of(checkpoint.folder, reranker.folder, tmp_path))
    assert asked == [checkpoint.folder, reranker.folder]
    assert found is not None
    assert found.config == reranker.config


def test_what_goes_not_together_is_refused_before_any_work(
    carrying: Path, reranker: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "made.cir"
    with pytest.raises(UsageError, match=r"exported graphs, which carry their own re-ranker"):
        build_engine(carrying, out, options("fp32"), reranker=reranker.folder)
    said = r"no re-ranker in INT8 on cuda.*--precision fp16 or --precision fp32.*--no-rerank"
    with pytest.raises(UsageError, match=said):
        build_engine(carrying, out, BuildOptions(backend="tensorrt", precision="int8"))
    assert not list(tmp_path.iterdir())


def test_the_re_ranker_may_be_left_out(carrying: Path, tmp_path: Path) -> None:
    made = build_engine(carrying, tmp_path / "made.cir", options("fp32"), rerank=False)
    manifest = open_bundle(tmp_path / "made.cir").manifest
    assert set(manifest.roles) == {"image", "text", "compose"}
    assert (manifest.rerank, manifest.fingerprints.tokens, made.rerank) == (None, None, None)


def test_an_altered_engine_does_not_open(ranking: tuple[Path, BuildReport], tmp_path: Path) -> None:
    copy = shutil.copytree(ranking[0], tmp_path / "copy.cir")
    data = bytearray((copy / "onnx/rerank.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "onnx/rerank.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"rerank\.onnx: altered"):
        open_bundle(copy)
