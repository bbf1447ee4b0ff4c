"""The compiler over every recorded API of TensorRT; no real plan is built and no GPU runs here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_gpu import FakeGpu
from fake_trt import SURFACES, fake_trt, plan_facts
from onnx import TensorProto, helper, numpy_helper

from cir_rt.config import from_dict, to_dict
from cir_rt.engines.plan import Plan, Range
from cir_rt.engines.protocol import TensorSpec
from cir_rt.errors import BackendMissing, CompileError, UsageError
from cir_rt.export.compile.compiler import compile_plan
from cir_rt.export.compile.graph import Graph
from cir_rt.export.compile.options import GPUS, CompileOptions
from cir_rt.kernels import cuda
from cir_rt.kernels.build import default_cache

BUCKETS = (
    {"batch": Range(minimum=1, optimum=1, maximum=1)},
    {"batch": Range(minimum=1, optimum=8, maximum=32)},
)


class Compiler:
    """A machine with a played GPU and a played TensorRT, and a cache folder."""

    def __init__(self, surface: str, patch: pytest.MonkeyPatch, cache: Path) -> None:
        self.package = "tensorrt-rtx" if surface == "rtx" else "tensorrt"
        self.cross_builds = surface == "rtx"
        self.gpu, self.cache = FakeGpu(), cache
        self.gpu.install(patch)
        self.trt = fake_trt(surface, self.gpu)
        patch.setitem(sys.modules, self.package.replace("-", "_"), self.trt)

    def options(self, **changes: Any) -> CompileOptions:
        return CompileOptions(package=self.package, **{"profiles": BUCKETS, **changes})

    def __call__(self, graph: Path, progress: Any = None, **changes: Any) -> Plan:
        return compile_plan(graph, self.cache, self.options(**changes), progress=progress)

    def facts(self, plan: Plan) -> dict[str, Any]:
        return plan_facts(self.cache / plan.file)


@pytest.fixture(params=list(SURFACES))
def compiler(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Compiler]:
    with pytest.MonkeyPatch.context() as patch:
        yield Compiler(request.param, patch, tmp_path / "cache")


def write(path: Path, *nodes: onnx.NodeProto, shape: tuple = ("batch", 4), **weights: Any) -> Path:
    """Write x -> y with `w`, a matrix of ones, and other weights by name."""
    constants = {"w": np.ones((4, 3), np.float32), **weights}
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 3])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write(tmp_path / "image.onnx")


def test_a_plan_and_its_facts(compiler: Compiler, graph: Path) -> None:
    plan = compiler(graph)
    assert plan.package == compiler.package
    assert plan.version == compiler.trt.__version__
    assert plan.inputs == (TensorSpec(name="x", dtype="float32", shape=("batch", 4)),)
    assert plan.outputs == (TensorSpec(name="y", dtype="float32", shape=("batch", 3)),)
    assert plan.layers == {"FLOAT": 1}
    assert plan.file.startswith("image-")
    assert from_dict(Plan, json.loads(json.dumps(to_dict(plan)))) == plan
    others = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")  # sm_75 has no FP32 products there
    assert plan.capabilities == (others if compiler.cross_builds else ("sm_89",))
    profiles = compiler.facts(plan)["profiles"]
    assert profiles == [{"x": [[1, 4]] * 3}, {"x": [[1, 4], [8, 4], [32, 4]]}]


def test_options_reach_the_builder(compiler: Compiler, graph: Path) -> None:
    assert compiler.facts(compiler(graph))["flags"] == []  # TF32 is on unless it is cleared
    compatible = not compiler.cross_builds
    plan = compiler(graph, tf32=True, version_compatible=compatible, workspace_mb=64, level=5)
    facts = compiler.facts(plan)
    assert facts["flags"] == ["TF32", *(["VERSION_COMPATIBLE"] * compatible)]
    assert facts["limits"] == {"WORKSPACE": 64 << 20}
    assert plan.version_compatible == compatible
    if not compatible:
        with pytest.raises(UsageError, match="TensorRT-RTX has no lean runtime"):
            compiler(graph, version_compatible=True)


def test_a_network_is_strongly_typed(
    compiler: Compiler, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is a number in TensorRT 10 and no more in 11: a wrong one would be refused."""
    flags = []
    create = compiler.trt.Builder.create_network

    def watched(self: Any, given: int = 0) -> Any:
        flags.append(given)
        return create(self, given)

    monkeypatch.setattr(compiler.trt.Builder, "create_network", watched)
    compiler(graph)
    assert flags == [1 << int(compiler.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)]


def test_a_plan_is_built_once(compiler: Compiler, graph: Path) -> None:
    first = compiler(graph)
    compiler.trt.Builder = None  # nothing may ask for it
    assert compiler(graph) == first


def test_what_a_plan_depends_on_names_it(compiler: Compiler, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other/image.onnx", w=np.zeros((4, 3), np.float32))
    names = {
        compiler(graph).file,
        compiler(graph, profiles=BUCKETS[:1]).file,
        compiler(graph, level=4).file,
        compiler(graph, tf32=True).file,
        compiler(other).file,
    }
    compiler.trt.__version__ = "99.0.0"
    names.add(compiler(graph).file)
    assert len(names) == 6


def test_weights_outside_the_graph_count(compiler: Compiler, tmp_path: Path) -> None:
    names = set()
    for value in (0, 1):
        path = write(tmp_path / "image.onnx", w=np.full((4, 3), value, np.float32))
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        names.add(compiler(path).file)
    assert len(names) == 2


def test_a_damaged_plan_in_the_cache_is_built_anew(compiler: Compiler, graph: Path) -> None:
    plan = compiler(graph)
    path = compiler.cache / plan.file
    path.write_bytes(path.read_bytes()[:-1])
    again = compiler(graph)
    assert replace(again, seconds=plan.seconds) == plan


def test_timings_are_kept(compiler: Compiler, graph: Path) -> None:
    compiler(graph)
    kept = [path.read_bytes() for path in compiler.cache.glob("timing-*")]
    if compiler.cross_builds:  # it times nothing
        assert kept == []
        return
    assert kept == [b"timed"]
    compiler(graph, level=4)
    (path,) = compiler.cache.glob("timing-*")
    assert path.read_bytes() == b"timedtimed"
    assert compiler.trt.__version__ in path.name
    assert "sm_89" in path.name


def test_the_inspectors_report_lies_beside_the_plan(compiler: Compiler, graph: Path) -> None:
    plan = compiler(graph)
    report = compiler.cache / plan.file.replace(".plan", ".layers.json")
    if compiler.cross_builds:  # there is no GPU to load it on
        assert not report.exists()
    else:
        assert json.loads(report.read_text()) == {"Layers": ["product"]}


def test_progress_is_told(compiler: Compiler, graph: Path) -> None:
    told: list[tuple[str, int, int]] = []
    compiler(graph, progress=lambda *step: told.append(step))
    assert ("Optimizing graph", 2, 3) in told
    assert told[0] == ("Building engine", 0, 2)
    assert told[-1] == ("Building engine", 2, 2)


def test_a_callback_that_raises_ends_the_build(compiler: Compiler, graph: Path) -> None:
    calls = []

    def stop(phase: str, done: int, steps: int) -> None:
        calls.append(phase)
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiler(graph, progress=stop)
    assert calls[-1] == "Optimizing graph"
    assert not list(compiler.cache.glob("*"))
    compiler(graph)


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("MatMulInteger", ["x", "w"]),
        ("DynamicQuantizeLinear", ["x"]),
        ("QuantizeLinear", ["x", "scale", "zero"]),
    ],
)
def test_what_the_parser_refuses_is_told_with_its_node(
    compiler: Compiler, tmp_path: Path, operator: str, inputs: list[str]
) -> None:
    outputs = ["y", "s", "z"] if operator == "DynamicQuantizeLinear" else ["y"]
    node = helper.make_node(operator, inputs, outputs, f"bad {operator}")
    path = write(tmp_path / "bad.onnx", node, scale=np.float32(1), zero=np.uint8(128))
    said = rf"bad\.onnx: .*{compiler.trt.__version__} cannot read it: {operator} 'bad {operator}' "
    with pytest.raises(CompileError, match=said + r"\(node 0\)"):
        compiler(path)


def test_what_is_no_graph_is_refused(compiler: Compiler, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(CompileError, match=r"text\.onnx: not an ONNX graph"):
        compiler(path)


def test_a_build_that_fails_says_why(
    compiler: Compiler, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, network: Any, config: Any) -> None:
        self._logger.log(self._trt.ILogger.ERROR, "no tactic for product")

    monkeypatch.setattr(compiler.trt.Builder, "build_serialized_network", fail)
    with pytest.raises(CompileError, match=r"cannot build it.*no tactic for product"):
        compiler(graph)


@pytest.mark.parametrize(
    ("profiles", "said"),
    [
        ((), "batch are free. Expected a range for each"),
        (({},), "no range is given for batch"),
        (({**BUCKETS[0], "bach": BUCKETS[0]["batch"]},), "no free dimension 'bach'.*batch"),
    ],
)
def test_profiles_that_do_not_fit_are_refused(
    compiler: Compiler, graph: Path, profiles: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        compiler(graph, profiles=profiles)


def test_a_graph_of_fixed_size_needs_no_profile(compiler: Compiler, tmp_path: Path) -> None:
    compiler(write(tmp_path / "fixed.onnx", shape=(2, 4)), profiles=())


def test_a_dimension_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "nameless.onnx", shape=(None, 4))
    with pytest.raises(CompileError, match="dimension 0 of x has neither size nor name"):
        Graph(path)


@pytest.mark.parametrize(
    "sizes", [(0, 1, 1), (2, 1, 3), (1, 3, 2)], ids=["zero", "falling", "above"]
)
def test_a_range_that_is_none_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="minimum <= optimum <= maximum"):
        Range(minimum=sizes[0], optimum=sizes[1], maximum=sizes[2])


def test_hardware_compatibility(compiler: Compiler, graph: Path) -> None:
    if compiler.cross_builds:
        with pytest.raises(UsageError, match="TensorRT's own"):
            compiler(graph, hardware="ampere_plus")
        return
    assert compiler(graph, hardware="ampere_plus").hardware == "ampere_plus"
    for capability, told in (("sm_75", "T4"), ("sm_87", "Jetson Orin"), ("sm_110", "Jetson Thor")):
        compiler.gpu.capability = capability
        with pytest.raises(UsageError, match=rf"ampere_plus.*{capability} \({told}"):
            compiler(graph, hardware="ampere_plus")
    compiler.gpu.capability = "sm_89"
    if compiler.trt.__version__.startswith("10.3"):
        with pytest.raises(UsageError, match=r"has no hardware 'same.*: ampere_plus, none"):
            compiler(graph, hardware="same_compute_capability")
    else:
        compiler(graph, hardware="same_compute_capability")


def test_rtx_builds_for_gpus_that_are_not_there(tmp_path: Path, graph: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        compiler = Compiler("rtx", patch, tmp_path / "cache")
        patch.setattr(cuda, "_driver", lambda: pytest.fail("no driver is needed"))
        plan = compiler(graph, arch=("sm_89", "sm_120"))
        assert plan.capabilities == ("sm_89", "sm_120")
        assert compiler.facts(plan)["capabilities"] == ["SM120", "SM89"]


@pytest.mark.parametrize("arch", ["sm_87", "sm_90", "sm_110"])
def test_what_rtx_does_not_serve_is_refused_by_name(arch: str) -> None:
    said = rf"TensorRT-RTX does not serve {arch} \(.*{GPUS[arch]}.*--backend tensorrt"
    with pytest.raises(BackendMissing, match=said):
        CompileOptions(package="tensorrt-rtx", arch=(arch,))


def test_tensorrt_builds_for_the_gpu_at_hand(tmp_path: Path, graph: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        compiler = Compiler("11.4", patch, tmp_path / "cache")
        assert compiler(graph, arch=("sm_89",)).capabilities == ("sm_89",)
        with pytest.raises(BackendMissing, match=r"at hand alone, sm_89.*sm_87 \(Jetson Orin\)"):
            compiler(graph, arch=("sm_87",))


def test_tensorrt_without_a_driver_is_not_touched(tmp_path: Path, graph: Path) -> None:
    def no_driver() -> None:
        raise OSError("libcuda.so.1")

    with pytest.MonkeyPatch.context() as patch:
        compiler = Compiler("10.3", patch, tmp_path / "cache")
        patch.setattr(cuda, "_driver", no_driver)
        patch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendMissing, match="no NVIDIA driver"):
            compiler(graph)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"package": "tensorflow"}, BackendMissing, "tensorrt, tensorrt-rtx"),
        ({"arch": ("sm_88",)}, UsageError, "Did you mean sm_8"),
        ({"level": 6}, UsageError, "0 to 5"),
        ({"workspace_mb": 0}, UsageError, "1 or more"),
        ({"hardware": "all"}, UsageError, "none, ampere_plus"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        CompileOptions(**changes)


def test_options_are_json() -> None:
    options = CompileOptions(package="tensorrt-rtx", arch=("sm_89",), profiles=BUCKETS)
    assert from_dict(CompileOptions, json.loads(json.dumps(to_dict(options)))) == options


def test_the_cache_is_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "cir-rt"
