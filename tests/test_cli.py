"""The command line: help, JSON, exit codes, one clear line where something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cir_rt.bundle import open_bundle
from cir_rt.cli import cli
from cir_rt.gallery import Gallery
from cir_rt.retriever import Retriever

OWN, TEXT = "dress-val-00000", "the same but in red"
THREADS = "--threads=1"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="cir-rt")


def json_of(result: Result) -> dict[str, Any]:
    """Return the one object on stdout; there must be nothing else."""
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    values = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert isinstance(values, dict)
    return values


def refused(result: Result, code: int, *said: str) -> None:
    """Check that a command failed by one clear line on stderr, with nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert code == 2 or len(lines) == 1, result.stderr
    for words in said:
        assert words in result.stderr


def shell(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cir_rt.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_ends_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    summary, example = result.stdout.split("Example:")
    assert f"cir-rt {name}" in example
    assert "--json" in summary
    assert "--debug" in summary
    parts = example.split("cir-rt ", 1)[1].split()
    asked = {p for p in parts if p.startswith("-")}
    known = {o for p in cli.commands[name].params if isinstance(p, click.Option) for o in p.opts}
    assert asked <= known


def test_the_list_of_commands() -> None:
    for result in (run("--help"), run("-h")):
        assert result.exit_code == 0
        assert all(name in result.stdout for name in cli.commands)
    assert {"demo", "train", "evaluate", "export", "build-engine", "index", "search"} <= set(
        cli.commands
    )


def test_version() -> None:
    import cir_rt

    assert run("--version").stdout == f"cir-rt, version {cir_rt.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-command"], "No such command"),
        (["search", "--no-such-option"], "--no-such-option"),
        (["search"], "Missing argument"),
        (["search", "a", "b", "-k", "many"], "not a valid integer"),
        (["search", "a", "b", "--threads", "0"], "threads"),
        (["evaluate", "a"], "--data"),
        (["evaluate", "a", "--data", "b", "--weight", "1.5"], "weight"),
        (["build-engine", "a", "--out", "b", "--max-recall-drop", "-1"], "max-recall-drop"),
        (["index", "a", "--gallery", "b"], "Name an IMAGE_DIR"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], said: str) -> None:
    refused(run(*arguments), 2, said)


def test_search_json(bundle: Path, gallery: Path, garments: Path) -> None:
    file = garments / "images" / f"{OWN}.jpg"
    values = json_of(
        run("search", bundle, gallery, "--image", file, "--text", TEXT, "-k3", THREADS, "--json")
    )
    assert set(values) == {"hits", "weights", "timing_ms"}
    assert [h["rank"] for h in values["hits"]] == [1, 2, 3]
    for hit in values["hits"]:
        assert set(hit) == {"id", "score", "prune_score", "rank", "metadata"}
        assert hit["metadata"] == {"article": hit["id"].split("-")[0]}
    assert values["weights"]["image"] + values["weights"]["text"] == pytest.approx(1)
    total = values["timing_ms"].pop("total")
    assert sum(values["timing_ms"].values()) == pytest.approx(total)
    with Retriever.open(bundle, gallery, threads=1) as retriever:
        hits = retriever.search(image=file, text=TEXT, k=3)
    assert [h["id"] for h in values["hits"]] == [h.id for h in hits]


def test_search_with_one_of_both(bundle: Path, gallery: Path) -> None:
    words = json_of(run("search", bundle, gallery, "--text", TEXT, THREADS, "--json"))
    assert words["weights"] == {"image": 0, "text": 1}
    assert len(words["hits"]) == 10
    own = json_of(run("search", bundle, gallery, "--image", OWN, THREADS, "--json"))
    assert own["weights"] == {"image": 1, "text": 0}
    assert OWN not in [h["id"] for h in own["hits"]]
    half = run("search", bundle, gallery, "--image", OWN, "--text", TEXT, "--weight", 0.5, "--json")
    assert json_of(half)["weights"] == {"image": 0.5, "text": 0.5}


def test_search_for_people(bundle: Path, gallery: Path) -> None:
    result = run("search", bundle, gallery, "--image", OWN, "--text", TEXT, "-k", 2, THREADS)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rank", "id", "score"]
    assert lines[2].split()[0] == "1"
    assert "picture " in lines[5]
    assert "total " in lines[6]


@pytest.mark.parametrize("image", [OWN, None, "file"])
def test_search_draws_a_sheet(
    bundle: Path, gallery: Path, garments: Path, tmp_path: Path, image: str | None
) -> None:
    file = garments / "images" / f"{OWN}.jpg"
    chosen = {OWN: ["--image", OWN], None: [], "file": ["--image", str(file)]}[image]
    sheet = tmp_path / "answer.png"
    result = run(
        "search", bundle, gallery, *chosen, "--text", TEXT, "-k4", "--sheet", sheet, "--json"
    )
    assert len(json_of(result)["hits"]) == 4
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 4 * 148


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "neither picture nor words"),
        (["--text", "red", "-k", "0"], 2, "k is 0"),
        (["--text", "red", "--weight", "2"], 2, "outside 0"),
        (["--text", "red", "--rerank", "5"], 2, "rerank is 5"),
        (["--text", ""], 1, "TextError: text is empty"),
        (["--text", "red " * 99], 1, "at most 24"),
        (["--image", "nobody"], 1, "UnknownId: 'nobody' is no file"),
    ],
)
def test_search_refuses(
    bundle: Path, gallery: Path, arguments: list[str], code: int, said: str
) -> None:
    refused(run("search", bundle, gallery, *arguments, THREADS), code, said)
    refused(run("search", bundle, gallery, *arguments, THREADS, "--json"), code, said)


def test_search_refuses_other_folders(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    refused(run("search", tmp_path / "x", gallery, "--text", "red"), 1, "BundleError", "build-eng")
    refused(run("search", bundle, tmp_path / "x", "--text", "red"), 1, "GalleryError", "index")
    Gallery.open_writer(tmp_path / "other", fingerprint="0" * 64, dim=32).close()
    refused(run("search", bundle, tmp_path / "other", "--text", "red"), 1, "GalleryMismatch")
    (tmp_path / "file").write_text("no folder")
    refused(run("search", bundle, tmp_path / "file", "--text", "red"), 2, "is a file")


@pytest.mark.parametrize("name", ["missing/answer.png", "answer", "answer.txt"])
def test_a_sheet_that_cannot_be_written_is_refused(
    bundle: Path, gallery: Path, tmp_path: Path, name: str
) -> None:
    result = run("search", bundle, gallery, "--text", TEXT, "--sheet", tmp_path / name, THREADS)
    assert result.exit_code in (0, 1, 2)
    assert "--debug shows where" not in result.stderr


def test_index_json(bundle: Path, garments: Path, tmp_path: Path) -> None:
    photos, gallery = tmp_path / "photos", tmp_path / "shop.gallery"
    photos.mkdir()
    for k, path in enumerate(sorted((garments / "images").glob("*.jpg"))[:5]):
        shutil.copy(path, photos / f"{k}.jpg")
    (photos / "bad.jpg").write_text("not a picture")
    (tmp_path / "m.csv").write_text("id,file,price\nfirst,0.jpg,3\n")
    metadata = ["--metadata", tmp_path / "m.csv"]
    values = json_of(run("index", bundle, photos, "--gallery", gallery, *metadata, "--json"))
    (bad,) = values.pop("unreadable")
    assert bad["id"] == "bad"
    assert "not a picture" in bad["reason"]
    counts = {"pictures": 5, "added": 5, "updated": 0, "unchanged": 0, "deleted": 0}
    assert values == {"gallery": str(gallery), **counts}
    again = json_of(run("index", bundle, photos, "--gallery", gallery, *metadata, "--json"))
    assert (again["added"], again["unchanged"]) == (0, 5)
    gone = ["--delete", "first", "--delete", "2"]
    values = json_of(run("index", bundle, "--gallery", gallery, *gone, "--json"))
    assert (values["deleted"], values["pictures"]) == (2, 3)
    refused(run("index", bundle, "--gallery", gallery, "--delete", "first"), 1, "UnknownId")
    refused(run("index", bundle, tmp_path / "none", "--gallery", gallery), 1, "no such folder")
    with Gallery.open(gallery) as opened:
        assert opened.ids() == ["1", "3", "4"]


def test_evaluate_json(bundle: Path, garments: Path) -> None:
    values = json_of(run("evaluate", bundle, "--data", garments, THREADS, "--json"))
    fields = {"dataset", "split", "protocol", "queries", "gallery", "rerank", "recall"}
    assert set(values) == fields | {"groups", "mean"}
    assert (values["dataset"], values["split"], values["rerank"]) == ("fashioniq", "val", 0)
    assert set(values["recall"]) == {"R@1", "R@10", "R@50"}
    assert values["recall"]["R@50"] == 100.0  # galleries of 24
    assert values["gallery"] == 144
    for name, recall in values["recall"].items():
        mean = sum(g[name] for g in values["groups"].values()) / len(values["groups"])
        assert recall == pytest.approx(mean, abs=0.01)
    other = json_of(run("evaluate", bundle, "--data", garments, "--protocol=val-split", "--json"))
    assert other["protocol"].startswith("val-split")


def test_evaluate_for_people_and_refusals(bundle: Path, garments: Path, tmp_path: Path) -> None:
    result = run("evaluate", bundle, "--data", garments, "--weight", 1, THREADS)
    assert result.exit_code == 0
    assert "R@10" in result.stdout
    refused(run("evaluate", bundle, "--data", garments, "--split", "x"), 1, "It has: train, val")
    refused(run("evaluate", bundle, "--data", garments, "--protocol", "x"), 1, "no protocol 'x'")
    refused(run("evaluate", bundle, "--data", tmp_path), 1, "no dataset is recognised")
    refused(run("evaluate", tmp_path, "--data", garments), 1, "neither a bundle nor a checkpoint")
    refused(run("evaluate", bundle, "--data", garments, "--device", "cuda"), 1, "built for cpu")


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_build_engine_json(graphs: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / "new.cir"
    limit = ["--max-recall-drop", "100"]
    values = json_of(
        run("build-engine", graphs, "--out", out, "--precision", precision, *limit, "--json")
    )
    fields = {"bundle", "backend", "device", "precision", "size_bytes", "seconds", "quality"}
    assert fields | {"latency_ms"} <= set(values)
    assert {"cosine_min", "recall_before", "recall_after"} <= set(values["quality"])
    assert set(values["latency_ms"]) == {"before", "after"}
    assert (values["bundle"], values["precision"]) == (str(out), precision)
    opened = open_bundle(out)
    assert values["size_bytes"] == sum(f.size_bytes for f in opened.manifest.files.values())
    if precision == "fp32":
        assert values["quality"]["cosine_min"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        (["--precision", "fp7"], 2, "precision 'fp7' is not known"),
        (["--backend", "abacus"], 1, "BackendMissing: backend 'abacus'"),
        (["--device", "abacus"], 1, "BackendMissing: device 'abacus'"),
    ],
)
def test_build_engine_refuses(
    graphs: Path, tmp_path: Path, option: list[str], code: int, said: str
) -> None:
    refused(run("build-engine", graphs, "--out", tmp_path / "new.cir", *option), code, said)
    assert not (tmp_path / "new.cir").exists()


def test_build_engine_refuses_other_folders(graphs: Path, tmp_path: Path) -> None:
    refused(run("build-engine", tmp_path, "--out", tmp_path / "x"), 1, "CheckpointError")
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    refused(
        run("build-engine", graphs, "--out", tmp_path, "--precision=fp32"), 1, "is not a bundle"
    )
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_inspect(bundle: Path, gallery: Path, graphs: Path, tmp_path: Path) -> None:
    for folder, kind in ((bundle, "bundle"), (gallery, "gallery"), (graphs, "checkpoint")):
        assert json_of(run("inspect", folder, "--json"))["kind"] == kind
        assert kind in run("inspect", folder).stdout.splitlines()[0]
    copy = shutil.copytree(bundle, tmp_path / "copy.cir")
    assert run("inspect", copy, "--verify").exit_code == 0
    weights = copy / "compose.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    refused(run("inspect", copy, "--verify"), 1, "BundleError", "compose.safetensors: altered")
    assert run("inspect", copy).exit_code == 0
    refused(run("inspect", tmp_path), 1, "DataError")


def test_a_surprise_is_one_line_too(
    bundle: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise ZeroDivisionError("what a surprise")

    monkeypatch.setattr(Retriever, "search", surprise)
    result = run("search", bundle, gallery, "--text", "red")
    refused(result, 1, "ZeroDivisionError: what a surprise", "--debug")


def test_a_message_of_several_lines_is_one_line(
    bundle: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise RuntimeError("first\nsecond\nthird")

    monkeypatch.setattr(Retriever, "search", surprise)
    refused(run("search", bundle, gallery, "--text", "red"), 1, "RuntimeError: first")


def test_the_real_command(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    done = shell("search", bundle, gallery, "--text", TEXT, "-k2", THREADS, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert len(json.loads(done.stdout)["hits"]) == 2
    for debug in (False, True):
        done = shell("inspect", tmp_path, *(["--debug"] if debug else []), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert ("Traceback" in done.stderr) is debug
        assert "DataError" in done.stderr
    done = shell("search", "--nonsense", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_the_installed_command() -> None:
    command = Path(sys.executable).with_name("cir-rt")
    if not command.exists():
        pytest.skip("cir-rt is not installed beside this Python")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "cir-rt,")
