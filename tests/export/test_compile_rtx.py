"""Real plans, built by tensorrt-rtx; it needs no GPU to build, and nothing is run on one."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fake_gpu import FakeGpu
from onnx import helper

from cir_rt.calibration.quantize import quantize
from cir_rt.calibration.recipe import tensorrt_candidates
from cir_rt.engines import plan as plans
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.engines.plan import Plan, Range
from cir_rt.engines.tensorrt import TensorRtEngine
from cir_rt.engines.tensorrt_packages import PACKAGES
from cir_rt.errors import BackendMissing, BundleError, CompileError, EngineMismatch
from cir_rt.export import pretrained
from cir_rt.export.build.candidates import reference
from cir_rt.export.checkpoint import CALIBRATION, open_checkpoint
from cir_rt.export.compile.compiler import compile_plan
from cir_rt.export.compile.options import CompileOptions
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.models.clip import ClipConfig, ClipImageTower, ClipTextTower
from cir_rt.export.models.storage import load_model
from cir_rt.export.samples import read_samples
from cir_rt.kernels.cuda import probe

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None,
        reason="tensorrt-rtx is not installed: pip install 'cir-rt[rtx]'",
    ),
]
Feeds = Sequence[dict[str, np.ndarray]]
SIZES = {
    "batch": Range(minimum=1, optimum=8, maximum=32),
    "length": Range(minimum=1, optimum=16, maximum=24),
}
PRECISIONS = {"fp16": "HALF", "int8": "INT8", "fp8": "FP8"}  # and the type of its layers


def profile(graph: Path) -> dict[str, Range]:
    model = onnx.load(graph, load_external_data=False)
    dims = {d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim}
    return {name: SIZES[name] for name in dims - {""}}


def compiled(graph: Path, cache: Path, *arch: str) -> Plan:
    options = CompileOptions(package="tensorrt-rtx", arch=arch, profiles=(profile(graph),))
    return compile_plan(graph, cache, options)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


def shipped(folder: Path) -> dict[str, tuple[Path, Feeds]]:
    """Return the shipped model's engines as FP32 graphs, and real inputs."""
    source = Path(next(iter(pretrained.__path__)))
    checkpoint = open_checkpoint(source)
    samples = read_samples(
        open_dataset(source / CALIBRATION), checkpoint.config.preprocess, checkpoint.tokenizer()
    )
    found: dict[str, tuple[Path, Feeds]] = {}
    vectors = []
    for role in ("image", "text"):
        feeds = samples.feeds(role)[:2]
        exact = reference(role, source, folder, feeds, 1)
        found[role] = exact.path, feeds
        vectors.append(exact.vectors[:32])
    compose = folder / "compose.onnx"
    rows = min(map(len, vectors))
    feed = dict(zip(("v", "u"), (part[:rows] for part in vectors), strict=True))
    to_onnx(load_model(checkpoint).compose, feed, ("vector", "weights"), compose)
    found["compose"] = compose, [feed]
    return found


def clip(folder: Path) -> dict[str, tuple[Path, Feeds]]:
    """Return a tiny CLIP's towers with random weights, and made inputs of the right kind."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    image = ClipConfig(dim=32, values={**shape, "image_size": 32, "patch_size": 8})
    text = ClipConfig(
        dim=32,
        vocabulary=99,
        context=24,
        values={**shape, "vocab_size": 99, "max_position_embeddings": 24, "eos_token_id": 98},
    )
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((8, 3, 32, 32)).astype(np.float32)
    ids = rng.integers(1, 98, (8, 16))
    ids[:, -1] = 98
    found: dict[str, tuple[Path, Feeds]] = {}
    towers = {"image": (ClipImageTower(image), pixels), "text": (ClipTextTower(text), ids)}
    for role, (tower, rows) in towers.items():
        feed = {"pixels" if role == "image" else "ids": rows}
        to_onnx(tower.eval(), feed, ("vector",), folder / f"clip-{role}.onnx")
        found[role] = folder / f"clip-{role}.onnx", [feed]
    return found


def to_onnx(
    module: torch.nn.Module, feed: dict[str, np.ndarray], outputs: tuple[str, ...], path: Path
) -> None:
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in feed.values())
    free = {0: "batch", 1: "length"} if "ids" in feed else {0: "batch"}
    program = torch.onnx.export(
        module,
        tensors,
        dynamo=True,
        input_names=list(feed),
        output_names=list(outputs),
        dynamic_shapes=tuple(free for _ in feed),
        opset_version=18,
        verbose=False,
    )
    assert program is not None
    onnx.save(program.model_proto, path)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Feeds]]:
    folder = tmp_path_factory.mktemp("graphs")
    towers = {f"clip {role}": value for role, value in clip(folder).items()}
    return {**shipped(folder), **towers}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["image", "text", "compose", "clip image", "clip text"])
def test_every_engine_becomes_a_plan(
    graphs: dict[str, tuple[Path, Feeds]], cache: Path, name: str, precision: str, tmp_path: Path
) -> None:
    exact, feeds = graphs[name]
    graph = tmp_path / f"{name.replace(' ', '-')}.onnx"
    (recipe,) = tensorrt_candidates(precision)
    quantize(exact, graph, recipe, feeds)
    wanted = OnnxRuntimeEngine(exact, threads=1).run(feeds[0])
    found = OnnxRuntimeEngine(graph, threads=1, fuse_qdq=precision != "fp8").run(feeds[0])
    assert (wanted["vector"] * found["vector"]).sum(-1).min() > 0.98
    plan = compiled(graph, cache)
    assert plan.layers[PRECISIONS[precision]] > 0
    served = PACKAGES["tensorrt-rtx"].capabilities
    assert plan.capabilities == (served[3:] if precision == "fp8" else served)
    content = plans.read(cache / plan.file, plan)
    assert content[:8].startswith(b"vtrt")  # what its plans begin with
    assert [spec.name for spec in plan.outputs] == list(found)


def test_progress_is_told_and_cancels(
    graphs: dict[str, tuple[Path, Feeds]], tmp_path: Path
) -> None:
    graph = graphs["compose"][0]
    options = CompileOptions(package="tensorrt-rtx", profiles=(profile(graph),))
    told: list[tuple[str, int, int]] = []
    compile_plan(graph, tmp_path, options, progress=lambda *step: told.append(step))
    assert told[0][0] == told[-1][0] == "Building engine"
    assert all(0 <= done <= steps for _, done, steps in told)

    def stop(phase: str, done: int, steps: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_plan(graph, tmp_path / "other", options, progress=stop)
    assert not list(tmp_path.glob("other/*.plan"))


def test_one_gpu_or_several(graphs: dict[str, tuple[Path, Feeds]], tmp_path: Path) -> None:
    graph = graphs["compose"][0]
    one, two = (compiled(graph, tmp_path, *arch) for arch in (("sm_89",), ("sm_86", "sm_120")))
    assert one.capabilities == ("sm_89",)
    assert two.capabilities == ("sm_86", "sm_120")
    assert one.file != two.file


def test_what_rtx_cannot_read_is_told_with_its_node(tmp_path: Path) -> None:
    make = helper.make_tensor_value_info
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"], "bad product")
    wrong = helper.make_graph(
        [node],
        "wrong",
        [make("a", onnx.TensorProto.INT8, [2, 4]), make("b", onnx.TensorProto.INT8, [4, 3])],
        [make("y", onnx.TensorProto.INT32, [2, 3])],
    )
    path = tmp_path / "wrong.onnx"
    model = helper.make_model(wrong, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    with pytest.raises(
        CompileError, match=r"wrong\.onnx: .*MatMulInteger 'bad product' \(node 0\)"
    ):
        compile_plan(path, tmp_path, CompileOptions(package="tensorrt-rtx"))


@pytest.fixture(scope="module")
def plan(graphs: dict[str, tuple[Path, Feeds]], cache: Path) -> Plan:
    return compiled(graphs["compose"][0], cache, "sm_89")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A played GPU: the checks that come before a plan is loaded need no real one."""
    played = FakeGpu()
    played.install(monkeypatch)
    return played


def test_a_corrupted_plan_is_refused(plan: Plan, cache: Path, gpu: FakeGpu, tmp_path: Path) -> None:
    content = bytearray((cache / plan.file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.plan").write_bytes(content)
    with pytest.raises(BundleError, match=r"bad\.plan: altered"):
        TensorRtEngine(tmp_path / "bad.plan", plan)


def test_a_plan_of_another_gpu_is_refused(plan: Plan, cache: Path, gpu: FakeGpu) -> None:
    gpu.capability = "sm_90"
    with pytest.raises(EngineMismatch, match=r"plan built for sm_89 .*this machine is sm_90"):
        TensorRtEngine(cache / plan.file, plan)


def test_an_outdated_plan_is_refused(plan: Plan, cache: Path, gpu: FakeGpu) -> None:
    said = rf"with TensorRT-RTX 1\.0\.0; .*{re.escape(plan.version)}\.\nRebuild.*tensorrt-rtx"
    with pytest.raises(EngineMismatch, match=said):
        TensorRtEngine(cache / plan.file, replace(plan, version="1.0.0"))


def test_a_plan_of_the_other_package_is_refused(plan: Plan, cache: Path, gpu: FakeGpu) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("both packages are installed here")
    with pytest.raises(BackendMissing, match="TensorRT is not installed"):
        TensorRtEngine(cache / plan.file, replace(plan, package="tensorrt"))


def test_without_a_gpu_a_plan_is_refused_and_nothing_crashes(plan: Plan, cache: Path) -> None:
    try:
        probe()
    except BackendMissing:
        with pytest.raises(BackendMissing, match="NVIDIA"):
            TensorRtEngine(cache / plan.file, plan)
    else:
        pytest.skip("there is a GPU here")
