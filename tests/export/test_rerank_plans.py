"""A re-ranker's plans: run on a played GPU, and really built where none is; none runs on one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builds import LOOSE, options, stub_race
from command_line import json_of, run
from fake_gpu import FakeGpu
from fake_trt import fake_trt, plan_graph

from cir_rt.bundle import open_bundle
from cir_rt.calibration.gate import Duel
from cir_rt.calibration.quantize import quantize
from cir_rt.calibration.recipe import tensorrt_candidates
from cir_rt.engines import plan as plans
from cir_rt.errors import EngineMismatch
from cir_rt.export.build import build_engine
from cir_rt.export.build.backends.sizes import BATCHES, profiles
from cir_rt.export.build.candidates import reference
from cir_rt.export.build.reranker import forms
from cir_rt.export.checkpoint import open_checkpoint
from cir_rt.export.compile.compiler import compile_plan
from cir_rt.export.compile.options import CompileOptions
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.runtime_scorer import RuntimeScorer
from cir_rt.export.samples import read_samples
from cir_rt.gallery.indexing import Source
from cir_rt.kernels import cuda
from cir_rt.rerank import Reranker
from cir_rt.retriever import Retriever

ROLES = ("rerank_image", "rerank_query", "rerank", "rerank_early", "rerank_late")
NEAR = 2e-3  # what FP16 may move a score by; a query's lie over fifty times as far apart

SIZES = {"batch": BATCHES}


def build(carrying: Path, out: Path, **settings: Any) -> Path:
    build_engine(carrying, out, options(max_recall_drop=LOOSE, keep_slower=True, **settings))
    return out


@pytest.fixture(scope="module")
def exact(carrying: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that ONNX Runtime runs in FP32."""
    return build(carrying, tmp_path_factory.mktemp("exact") / "made.cir", precision="fp32")


@pytest.fixture(scope="module")
def stocked(exact: Path, drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery with tokens, which the FP32 bundle indexed."""
    folder = tmp_path_factory.mktemp("gallery") / "made.gallery"
    pictures = drawn.split("val").pictures
    sources = [Source(id=i, path=p) for i, p in zip(pictures, drawn.paths(pictures), strict=True)]
    with Retriever.open(exact, threads=1) as retriever:
        retriever.index(sources, folder, workers=1)
    return folder


@pytest.fixture(
    scope="module",
    params=[("10.3", "absorbed-fp16"), ("10.16", "plain-fp16"), ("11.4", "absorbed-fp16")],
    ids=lambda param: "-".join(param),
)
def compiled(
    request: pytest.FixtureRequest, carrying: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """An FP16 bundle of either form, of TensorRT as it is recorded, with a cascade."""
    surface, form = request.param
    with pytest.MonkeyPatch.context() as patch:
        gpu = FakeGpu(capability="sm_87", name="Orin")
        gpu.install(patch)
        patch.setitem(sys.modules, "tensorrt", fake_trt(surface, gpu))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(forms, "ON_GPU", (form, "plain"))
        stub_race(patch, 0.5)
        faster = Duel(before_ms=1.0, after_ms=0.5, spread=0.0)
        patch.setattr("cir_rt.export.build.reranker.race.duel", lambda *a, **named: faster)
        out = tmp_path_factory.mktemp("compiled") / "made.cir"
        yield build(carrying, out, backend="tensorrt", precision="fp16")


def test_every_engine_is_a_plan_that_the_bundle_vouches_for(compiled: Path, exact: Path) -> None:
    manifest = open_bundle(compiled).manifest
    assert set(ROLES) <= set(manifest.roles)
    assert manifest.rerank is not None
    assert manifest.rerank.margin is not None
    assert manifest.fingerprints == open_bundle(exact).manifest.fingerprints
    for name in ROLES:
        role = manifest.roles[name]
        assert (role.file, role.precision) == (f"plans/{name}.plan", "fp16")
        assert role.plan is not None
        assert role.plan.sha256 == manifest.files[role.file].sha256
    assert manifest.roles["rerank"].recipe["form"] == manifest.quality["rerank"]["form"]


def test_profiles_are_the_sizes_that_candidates_come_in(compiled: Path) -> None:
    roles = open_bundle(compiled).manifest.roles
    query, whole = roles["rerank_query"].plan, roles["rerank"].plan
    assert query is not None
    assert whole is not None
    assert [p["candidates"].optimum for p in whole.profiles] == [8, 16, 32, 50, 100]
    assert [p["candidates"].minimum for p in whole.profiles] == [1, 9, 17, 33, 51]
    assert {(p["length"].minimum, p["length"].maximum) for p in whole.profiles} == {(1, 16)}
    assert [p["length"].optimum for p in query.profiles] == [4, 8, 12, 16]


def test_the_head_is_in_fp32(compiled: Path) -> None:
    graph = plan_graph(compiled / "plans/rerank.plan")
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    products = {"Gemm": onnx.TensorProto.FLOAT, "MatMul": onnx.TensorProto.FLOAT16}
    seen = set()
    for node in graph.node:
        if node.op_type in products and node.input[1] in types:
            seen.add(node.op_type)
            assert types[node.input[1]] == products[node.op_type], node.name
    assert seen == set(products)


@pytest.mark.parametrize("count", [1, 7, 24])
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_scores_are_those_of_fp32(
    compiled: Path, exact: Path, drawn: Dataset, count: int, mode: str
) -> None:
    split = drawn.split("val")
    wanted = RuntimeScorer.open(open_bundle(exact), threads=1)
    found = RuntimeScorer.open(open_bundle(compiled), mode="exact", device="cuda")
    rows = wanted.read(drawn.paths(split.pictures[:count]))
    texts = [query.text for query in split.queries[:5]]
    asked = rows[:1].repeat(5), texts, np.tile(rows, (5, 1))
    a, b = wanted.score(*asked), found.score(*asked)
    assert np.abs(a - b).max() < NEAR
    assert count == 1 or np.ptp(a, axis=1).min() > 50 * NEAR
    if mode == "fast":  # what goes the full depth has the scores of the full depth
        fast = RuntimeScorer(found.reranker, "fast").score(*asked)
        assert (np.isclose(fast, b, atol=NEAR).sum(1) >= min(10, count)).all()
    found.close()


def test_search_and_evaluate_rank_as_fp32_does(
    compiled: Path, exact: Path, stocked: Path, drawn: Dataset
) -> None:
    split = drawn.split("val")
    with (
        Retriever.open(exact, stocked, threads=1, index="hnsw") as cpu,
        Retriever.open(compiled, stocked, device="cuda", index="hnsw") as gpu,
    ):
        assert gpu.device == "cuda"
        for query in split.queries[:5]:
            asked = {"text": query.captions[0], "k": 24, "rerank": 24}
            for image in (query.reference, drawn.paths([query.reference])[0]):
                wanted, found = cpu.search(image, **asked), gpu.search(image, **asked)
                assert wanted.reranked == found.reranked
                scores = {hit.id: hit.score for hit in wanted}
                order = np.asarray([scores[hit.id] for hit in found])
                assert (np.diff(order) < 2 * NEAR).all()  # near ties may change places
    recalls = [
        json_of(run("evaluate", bundle, "--data", drawn.folder, *extra, "--rerank", 10, "--json"))
        for bundle, extra in ((exact, ["--threads=1"]), (compiled, ["--device", "cuda"]))
    ]
    assert recalls[0]["rerank"] == recalls[1]["rerank"] == 10
    for name, value in recalls[0]["recall"].items():
        assert abs(value - recalls[1]["recall"][name]) <= 100 / len(split.queries)  # one query


def test_a_plan_for_another_gpu_is_refused(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(capability="sm_110", name="Thor").install(monkeypatch)
    with pytest.raises(EngineMismatch, match=r"plan built for sm_87 .*this machine is sm_110"):
        Reranker.open(open_bundle(compiled), device="cuda")


@pytest.mark.rtx
def test_rtx_builds_a_re_rankers_bundle_without_a_gpu(
    carrying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real build by the real package: every plan, early and full, of what `auto` takes."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed: pip install 'cir-rt[rtx]'")

    def no_driver() -> None:
        raise OSError("libcuda.so.1")

    monkeypatch.setattr(cuda, "_driver", no_driver)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = build(carrying, tmp_path / "rtx.cir", backend="tensorrt-rtx", precision="auto")
    manifest = open_bundle(out).manifest
    quality = manifest.quality["rerank"]
    assert quality["latency_ms"] == {"before": None, "after": None}
    assert quality["form"] == "absorbed-fp16"
    assert quality["ms_per_candidate"] == {}
    for name in {*ROLES} & {*manifest.roles}:
        plan = manifest.roles[name].plan
        assert plan is not None
        assert plan.layers["HALF"] > 0
        assert plans.read(out / plan.file, plan).startswith(b"vtrt")
    assert {"rerank_image", "rerank_query", "rerank"} <= set(manifest.roles)


@pytest.mark.rtx
@pytest.mark.parametrize(("precision", "kind"), [("int8", "INT8"), ("fp8", "FP8")])
def test_rtx_builds_what_reads_pictures(
    carrying: Path, tmp_path: Path, precision: str, kind: str
) -> None:
    """The re-ranker's image engine in the precisions that have a recipe for it."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed: pip install 'cir-rt[rtx]'")
    checkpoint = open_checkpoint(carrying / "reranker")
    data, preprocess = open_dataset(carrying / "calibration"), checkpoint.config.preprocess
    feeds = read_samples(data, preprocess, checkpoint.tokenizer(), limit=32).feeds("rerank_image")
    exact = reference("rerank_image", checkpoint.folder, tmp_path, feeds, 1)
    (recipe,) = tensorrt_candidates(precision)
    graph = tmp_path / "rerank_image.onnx"
    assert quantize(exact.path, graph, recipe, feeds) > 0
    settings = CompileOptions(package="tensorrt-rtx", profiles=profiles({"batch"}, SIZES))
    assert compile_plan(graph, tmp_path / "cache", settings).layers[kind] > 0
