"""LIMN from a checkpoint to a bundle that serves it: held against PyTorch, its plans built."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from builds import LOOSE, options, stub_race
from command_line import THREADS, json_of, refused, run
from fake_gpu import FakeGpu
from fake_trt import fake_trt
from small_models import small
from spoiling import quantizer, turned, use

from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.engines import plan as plans
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.errors import EngineMismatch, GateError, UsageError
from cir_rt.export.build import build_engine
from cir_rt.export.build.fingerprint import fingerprint
from cir_rt.export.checkpoint import Checkpoint, open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.models.encoder import open_encoder
from cir_rt.export.models.storage import load_model, save_model
from cir_rt.export.train.recipes import Limn
from cir_rt.export.train.run import train
from cir_rt.kernels import cuda
from cir_rt.retriever import Retriever

ROLES = ("image", "text", "compose")
SHAPE = {"factors": 3, "width": 32, "heads": 2, "token_width": 12, "match_width": 7}
TEXT = "the same but in red"


@pytest.fixture(scope="module")
def trained(drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small LIMN, trained for a few steps."""
    folder = tmp_path_factory.mktemp("limn")
    train(drawn, folder, small(Limn, composer=SHAPE, epochs=3), seed=1)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def graphs(trained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graphs, in full precision, as the command exports them."""
    folder = tmp_path_factory.mktemp("graphs") / "limn"
    told = json_of(run("export", trained.folder, "--out", folder, "--json"))
    for role in ROLES:
        for kind in ("random_inputs", "real_inputs"):
            assert 0 < told["difference"][role][kind] < 1e-4
    return folder


@pytest.fixture(scope="module")
def bundle(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "limn.cir"
    asked = ("--out", folder, "--precision", "fp32", THREADS, "--json")
    told = json_of(run("build-engine", graphs, *asked))
    assert told["precisions"] == dict.fromkeys(ROLES, "fp32")
    return folder


@pytest.fixture(scope="module")
def gallery(bundle: Path, drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of the pictures to rank; ids are file names without suffix."""
    folder = tmp_path_factory.mktemp("gallery") / "limn.gallery"
    json_of(run("index", bundle, drawn.folder / "images", "--gallery", folder, THREADS, "--json"))
    return folder


def test_the_bundle_holds_an_engine_that_composes(bundle: Path, trained: Checkpoint) -> None:
    manifest = open_bundle(bundle).manifest
    config = trained.config
    assert manifest.dim == config.dim == 12 + 3 * 7
    assert set(manifest.roles) == set(ROLES)
    role = manifest.roles["compose"]
    shapes = {spec.name: spec.shape[1:] for spec in (*role.inputs, *role.outputs)}
    assert shapes == {"v": (33,), "u": (3 * 32,), "vector": (33,)}
    assert "compose.safetensors" not in manifest.files
    assert "compose" in run("inspect", bundle, "--verify").stdout


@pytest.mark.parametrize("n", [1, 7, 19, 33])
def test_the_graphs_are_pytorch(graphs: Path, trained: Checkpoint, n: int) -> None:
    model, rng = load_model(trained), np.random.default_rng(n)
    pixels = rng.standard_normal((n, 3, 32, 32)).astype(np.float32)
    ids = rng.integers(1, 200, (n, 11))
    ids[:, 5 + n % 3 :] = 0
    engines = {role: OnnxRuntimeEngine(graphs / f"{role}.onnx", threads=1) for role in ROLES}
    v = engines["image"].run({"pixels": pixels})["vector"]
    u = engines["text"].run({"ids": ids})["vector"]
    q = engines["compose"].run({"v": v, "u": u})["vector"]
    with torch.inference_mode():
        wanted_v = model.embed_pictures(torch.from_numpy(pixels))
        wanted_u = model.embed_texts(torch.from_numpy(ids))
        wanted = model.compose(wanted_v, wanted_u)[0]
    for got, want in ((v, wanted_v), (u, wanted_u), (q, wanted)):
        assert got.shape == tuple(want.shape)
        assert np.abs(got - want.numpy()).max() < 1e-4 * float(want.abs().max())


def test_evaluating_the_bundle_is_evaluating_the_checkpoint(
    bundle: Path, trained: Checkpoint, drawn: Dataset
) -> None:
    asked = ("--data", drawn.folder, THREADS, "--json")
    found = json_of(run("evaluate", bundle, *asked))
    assert found == json_of(run("evaluate", trained.folder, *asked))
    assert found["queries"] > 50


@pytest.mark.parametrize("by", ["id", "file"])
def test_searching_is_pytorch_over_every_picture(
    bundle: Path, gallery: Path, trained: Checkpoint, drawn: Dataset, by: str
) -> None:
    """A reference from the gallery is composed from its stored vector, and left out."""
    paths = sorted((drawn.folder / "images").glob("*.jpg"))
    ids, encoder = [path.stem for path in paths], open_encoder(trained)
    pictures = encoder.encode_pictures(paths)
    for k in (0, 7, 19):
        q, _ = encoder.compose(pictures[k : k + 1], encoder.encode_texts([TEXT]))
        scores = (q @ pictures.T)[0]
        if by == "id":
            scores[k] = -np.inf
        image = ids[k] if by == "id" else paths[k]
        asked = ("--image", image, "--text", TEXT, "-k", 10, THREADS, "--json")
        answer = json_of(run("search", bundle, gallery, *asked))
        assert answer["weights"] is None
        found = {hit["id"]: hit["score"] for hit in answer["hits"]}
        best = np.sort(scores)[::-1][:10]
        np.testing.assert_allclose(list(found.values()), best, atol=1e-5)
        np.testing.assert_allclose([scores[ids.index(i)] for i in found], best, atol=1e-5)


def test_a_lone_picture_is_the_query_itself(bundle: Path, gallery: Path, drawn: Dataset) -> None:
    with Retriever.open(bundle, gallery, threads=1) as retriever:
        path = sorted((drawn.folder / "images").glob("*.jpg"))[5]
        lone, both = retriever.search_batch([path, path], [None, TEXT], k=5)
        assert (lone[0].id, lone[0].score) == (path.stem, pytest.approx(1.0, abs=1e-5))
        assert lone.weights is not None
        assert lone.weights.image == 1
        assert both.weights is None


def test_what_attention_cannot_be_asked_is_refused(bundle: Path, gallery: Path) -> None:
    search = ("search", bundle, gallery, "--text", TEXT, THREADS)
    refused(run(*search), 2, "words alone")
    reference = ("--image", "dress-val-00000")
    refused(run(*search, *reference, "--weight", "0.5"), 2, "composes by attention")
    encoder = Encoder.open(open_bundle(bundle), threads=1)
    v, u = np.zeros((2, 33), np.float32), np.zeros((2, 96), np.float32)
    with pytest.raises(UsageError, match="composes by attention"):
        encoder.compose(v, u, 0.5)
    empty, _ = encoder.compose(v[:0], encoder.encode_texts([]))
    assert (empty.shape, encoder.encode_texts([]).shape) == ((0, 33), (0, 96))
    encoder.close()
    with pytest.raises(EngineMismatch, match="closed"):
        encoder.compose(v, u)


def test_int8_is_held_to_the_gates(graphs: Path, tmp_path: Path) -> None:
    settings = options("int8", max_recall_drop=LOOSE, min_cosine=0.99, keep_slower=True)
    report = build_engine(graphs, tmp_path / "made.cir", settings)
    assert report.precisions == dict.fromkeys(ROLES, "int8")
    gates = {gate.what: gate for gate in report.gates}
    assert all(gates[role].passed for role in ROLES)
    assert 0.99 < gates["compose"].measured < 1
    assert any("image and text and compose" in what for what in gates)


def test_a_composer_that_lost_its_way_fails_the_build(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, quantizer(turned, "compose"))
    settings = options("int8", max_recall_drop=LOOSE, min_cosine=0.9, keep_slower=True)
    with pytest.raises(GateError, match=r"compose: the cosine to FP32 is -1\.0000"):
        build_engine(graphs, tmp_path / "made.cir", settings)
    auto = options("auto", max_recall_drop=LOOSE, min_cosine=0.9)
    stub_race(monkeypatch, 0.5)
    report = build_engine(graphs, tmp_path / "made.cir", auto)
    assert report.precisions["compose"] == "fp32"
    assert any(note.startswith("compose: back to fp32; compose") for note in report.notes)


def test_a_gallery_belongs_to_the_composer_too(trained: Checkpoint, tmp_path: Path) -> None:
    model = load_model(trained)
    with torch.no_grad():
        model.compose.matching.add_(0.01)
    save_model(model, trained.folder / "tokenizer.json", tmp_path)
    other = open_checkpoint(tmp_path)
    assert fingerprint(other) != fingerprint(trained)
    assert fingerprint(open_checkpoint(trained.folder)) == fingerprint(trained)


@pytest.fixture
def orin(tmp_path: Path) -> Iterator[FakeGpu]:
    with pytest.MonkeyPatch.context() as patch:
        gpu = FakeGpu(capability="sm_87", name="Orin")
        gpu.install(patch)
        patch.setitem(sys.modules, "tensorrt", fake_trt("10.3", gpu))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        stub_race(patch, 0.5)
        yield gpu


def test_plans_compose_as_fp32_does(
    orin: FakeGpu, bundle: Path, graphs: Path, drawn: Dataset, tmp_path: Path
) -> None:
    """On a played GPU and a played TensorRT; no real one is used."""
    settings = options("fp16", backend="tensorrt", max_recall_drop=LOOSE, min_cosine=0.99)
    build_engine(graphs, tmp_path / "orin.cir", settings)
    exact = Encoder.open(open_bundle(bundle), threads=1)
    encoder = Encoder.open(open_bundle(tmp_path / "orin.cir"), device="cuda")
    paths = sorted((drawn.folder / "images").glob("*.jpg"))[:40]
    texts = [TEXT, "longer"] * 20
    queries = [
        e.compose(e.encode_pictures(paths), e.encode_texts(texts))[0] for e in (exact, encoder)
    ]
    assert (queries[0] * queries[1]).sum(-1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(queries[1], axis=1), 1, atol=1e-5)
    encoder.close()
    made = ("--gallery", tmp_path / "gallery", "--device", "cuda", "--workers", 0, "--json")
    told = json_of(run("index", tmp_path / "orin.cir", drawn.folder / "images", *made))
    assert told["added"] == len(list((drawn.folder / "images").glob("*.jpg")))
    search = ("search", tmp_path / "orin.cir", tmp_path / "gallery", "--text", TEXT)
    refused(run(*search), 1, "built for cuda, asked to run on cpu")


@pytest.mark.rtx
@pytest.mark.parametrize(("precision", "kind"), [("fp16", "HALF"), ("int8", "INT8")])
def test_rtx_builds_every_plan(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, kind: str
) -> None:
    """A real build by the real package; nothing of it runs on a GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed: pip install 'cir-rt[rtx]'")

    def no_driver() -> None:
        raise OSError("libcuda.so.1")

    monkeypatch.setattr(cuda, "_driver", no_driver)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = options(precision, backend="tensorrt-rtx", max_recall_drop=LOOSE, min_cosine=0.98)
    build_engine(graphs, tmp_path / "rtx.cir", settings)
    manifest = open_bundle(tmp_path / "rtx.cir").manifest
    for role in ROLES:
        plan = manifest.roles[role].plan
        assert plan is not None
        assert plan.layers[kind] > 0
        assert plans.read(tmp_path / "rtx.cir" / plan.file, plan).startswith(b"vtrt")
