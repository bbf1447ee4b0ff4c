"""The TensorRT engine over every recorded API, played by ONNX Runtime on host memory.

Nothing here runs on a GPU: the calls, their order and the way of the data are held, TensorRT's own
arithmetic is not.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import Conformance, Kind, feed, oracle, room, write_graph
from fake_gpu import FakeGpu
from fake_trt import SURFACES, fake_trt

from cir_rt.engines.plan import Plan, Range
from cir_rt.engines.tensorrt import MOST_GRAPHS, TensorRtEngine
from cir_rt.errors import BackendMissing, BundleError, DeviceError, EngineMismatch
from cir_rt.export.compile.compiler import compile_plan
from cir_rt.export.compile.options import CompileOptions
from cir_rt.kernels import cuda

PROFILES = (
    {"batch": Range(minimum=1, optimum=1, maximum=1)},
    {"batch": Range(minimum=1, optimum=8, maximum=32)},
    {"batch": Range(minimum=16, optimum=256, maximum=1024)},
)


class Machine:
    """A machine with a played GPU and a played TensorRT."""

    def __init__(self, surface: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.package = "tensorrt-rtx" if surface == "rtx" else "tensorrt"
        self.gpu, self.folder = FakeGpu(), folder
        self.gpu.install(monkeypatch)
        self.trt = fake_trt(surface, self.gpu)
        monkeypatch.setitem(sys.modules, self.package.replace("-", "_"), self.trt)

    def compiled(self, graph: Path, **options: Any) -> Plan:
        settings = CompileOptions(package=self.package, **{"profiles": PROFILES, **options})
        return compile_plan(graph, self.folder, settings)

    def open(self, graph: Path, **options: Any) -> TensorRtEngine:
        plan = self.compiled(graph)
        return TensorRtEngine(self.folder / plan.file, plan, device="cuda:0", **options)


@pytest.fixture(scope="module", params=list(SURFACES))
def machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    with pytest.MonkeyPatch.context() as patch:
        yield Machine(request.param, patch, tmp_path_factory.mktemp("plans"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("graph"))


class Plays(Conformance):
    """The shared suite, on arrays that live in played device memory."""

    graphs = False

    @pytest.fixture(scope="class", params=list(SURFACES))
    def kind(
        self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Kind]:
        with pytest.MonkeyPatch.context() as patch:
            machine = Machine(request.param, patch, tmp_path_factory.mktemp("plans"))

            def open_(path: Path) -> TensorRtEngine:
                return machine.open(path, graphs=self.graphs)

            yield Kind(
                open=open_, device="cuda:0", place=machine.gpu.array, fetch=machine.gpu.fetch
            )

    def test_what_does_not_load_is_refused(self, kind: Kind, path: Path, tmp_path: Path) -> None:
        """A plan is damaged here, not a graph, and its checksum is made to fit."""
        plan_of = kind.open(path).plan  # type: ignore[attr-defined]
        whole = next(Path(p) for p in path.parent.parent.rglob(plan_of.file)).read_bytes()
        damaged = tmp_path / "damaged.plan"
        for content in (b"", b"not a plan", whole[:-40]):
            damaged.write_bytes(content)
            vouched = replace(plan_of, sha256=hashlib.sha256(content).hexdigest())
            with pytest.raises(BundleError, match=r"damaged\.plan.*cannot load it"):
                TensorRtEngine(damaged, vouched)
        with pytest.raises(BundleError, match=r"missing\.plan"):
            TensorRtEngine(tmp_path / "missing.plan", plan_of)


class TestTensorRt(Plays):
    """Queued call by call."""


class TestTensorRtGraphs(Plays):
    """Recorded and replayed."""

    graphs = True


def placed(machine: Machine, rows: int, seed: int = 0) -> dict[str, Any]:
    return {name: machine.gpu.array(a) for name, a in feed(rows, seed).items()}


def test_work_on_a_callers_stream_is_not_waited_for(machine: Machine, graph: Path) -> None:
    gpu, stream = machine.gpu, machine.gpu.stream()
    for graphs in (False, True):
        engine = machine.open(graph, graphs=graphs)
        out = {name: gpu.array(array) for name, array in room(7).items()}
        inputs = placed(machine, 7)
        engine.run(inputs, out=out, stream=stream.handle)  # records, where it does
        stream.drain()
        for name in out:
            gpu.at(out[name].buffer.address, out[name].shape, out[name].dtype)[...] = np.nan
        engine.run(inputs, out=out, stream=stream.handle)
        assert np.isnan(gpu.fetch(out["sum"])).all()  # nothing has run yet
        stream.drain()
        np.testing.assert_allclose(gpu.fetch(out["sum"]), oracle(feed(7))["sum"], atol=1e-5)
        engine.close()


def test_host_arrays_on_a_callers_stream_are_ready_on_return(machine: Machine, graph: Path) -> None:
    engine = machine.open(graph)
    found = engine.run(feed(7), stream=machine.gpu.stream().handle)
    np.testing.assert_allclose(found["sum"], oracle(feed(7))["sum"], atol=1e-5)


def test_two_streams_share_one_context_in_turn(machine: Machine, graph: Path) -> None:
    gpu, engine = machine.gpu, machine.open(graph)
    streams = [gpu.stream(), gpu.stream()]
    outs = [{n: gpu.array(a) for n, a in room(7).items()} for _ in streams]
    for seed, (stream, out) in enumerate(zip(streams, outs, strict=True)):
        engine.run(placed(machine, 7, seed), out=out, stream=stream.handle)
    for stream in reversed(streams):  # the later first: it must wait for the earlier
        stream.drain()
    for seed, out in enumerate(outs):
        np.testing.assert_allclose(gpu.fetch(out["sum"]), oracle(feed(7, seed))["sum"], atol=1e-5)


def test_an_array_that_is_still_being_written_is_waited_for(machine: Machine, graph: Path) -> None:
    gpu, stream, inputs = machine.gpu, machine.gpu.stream(), feed(7)
    late = gpu.array(np.full_like(inputs["x"], np.nan), stream=stream.handle)
    view = gpu.at(late.buffer.address, late.shape, late.dtype)
    stream.add(lambda: view.__setitem__(..., inputs["x"]))
    found = machine.open(graph).run({"x": late, "n": inputs["n"]})
    np.testing.assert_allclose(found["sum"], oracle(inputs)["sum"], atol=1e-5)


def test_memory_is_kept_and_doubles(machine: Machine, graph: Path) -> None:
    engine = machine.open(graph)
    engine.run(feed(16))
    before = machine.gpu.allocated
    for rows in (1, 7, 16, 3):
        engine.run(feed(rows))
    kept = machine.gpu.allocated
    engine.run(feed(1024))
    grown = machine.gpu.allocated
    for rows in (1000, 700, 1024):
        engine.run(feed(rows))
    assert kept - before <= 4  # the profile of a batch of 1 has slots of its own
    assert machine.gpu.allocated == grown
    engine.close()


def test_close_frees_all_device_memory(machine: Machine, graph: Path) -> None:
    before = len(machine.gpu.live)
    for graphs in (False, True):
        engine = machine.open(graph, graphs=graphs)
        engine.run(feed(7))
        assert len(machine.gpu.live) > before
        engine.close()
        assert len(machine.gpu.live) == before


def test_graphs_are_replayed_and_counted(machine: Machine, graph: Path) -> None:
    engine = machine.open(graph, graphs=True)
    before = machine.gpu.launches
    for _ in range(3):
        engine.run(feed(2))
    assert machine.gpu.launches == before + 3
    for rows in range(3, 2 + MOST_GRAPHS):
        engine.run(feed(rows))
    with pytest.raises(EngineMismatch, match="graphs are recorded"):
        engine.run(feed(200))
    engine.run(feed(2))
    engine.close()


def test_sizes_outside_the_profiles_are_refused(machine: Machine, graph: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"x \[1025, 5\].*x \[16, 5\] to \[1024, 5\]"):
        machine.open(graph).run(feed(1025))


def test_the_nearest_profile_is_taken(machine: Machine, graph: Path) -> None:
    engine = machine.open(graph)
    for rows in (1, 2, 20, 900):
        engine.run(feed(rows))
    assert sorted(engine._runs) == [0, 1, 2]


def test_layers(machine: Machine, graph: Path) -> None:
    assert machine.open(graph).layers() == {"Layers": ["product", "shift", "sum", "double"]}


def test_repr_names_gpu_and_version(machine: Machine, graph: Path) -> None:
    told = repr(machine.open(graph))
    assert "device=cuda:0, Fake GPU, sm_89" in told
    assert machine.trt.__version__ in told


def vouched(machine: Machine, graph: Path, **changes: Any) -> Callable[[], TensorRtEngine]:
    plan = machine.compiled(graph)
    path = machine.folder / plan.file
    return lambda: TensorRtEngine(path, replace(plan, **changes))


def test_an_outdated_plan_is_refused(machine: Machine, graph: Path) -> None:
    here = machine.trt.__version__
    said = rf"with .* 9\.9\.0; this machine is sm_89 with .* {here}\.\nRebuild.*{machine.package}"
    with pytest.raises(EngineMismatch, match=said):
        vouched(machine, graph, version="9.9.0")()


def test_a_plan_of_another_gpu_is_refused(machine: Machine, graph: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"plan built for sm_90 with .*machine is sm_89"):
        vouched(machine, graph, capabilities=("sm_90",))()


def test_an_altered_plan_is_refused_before_it_is_loaded(
    machine: Machine, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = machine.compiled(graph)
    content = bytearray((machine.folder / plan.file).read_bytes())
    content[-1] ^= 1
    (tmp_path / "altered.plan").write_bytes(content)
    monkeypatch.setattr(machine.trt, "Runtime", None)  # nothing may ask for it
    with pytest.raises(BundleError, match=r"altered\.plan.*the manifest vouches for"):
        TensorRtEngine(tmp_path / "altered.plan", plan)


def test_specs_that_are_not_the_plans_are_refused(machine: Machine, graph: Path) -> None:
    plan = machine.compiled(graph)
    other = replace(plan.outputs[0], name="other")
    with pytest.raises(BundleError, match="the manifest says"):
        vouched(machine, graph, outputs=(other, plan.outputs[1]))()


def test_a_compatible_plan_runs_on_a_later_version(
    machine: Machine, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if machine.package == "tensorrt-rtx":
        pytest.skip("TensorRT-RTX has no lean runtime to put into a plan")
    plan = machine.compiled(graph, version_compatible=True)
    major = plan.version.split(".")[0]
    for later, fits in ((f"{major}.99.0", True), (f"{int(major) + 1}.0.0", False), ("1.0", False)):
        monkeypatch.setattr(machine.trt, "__version__", later)
        if fits:
            engine = TensorRtEngine(machine.folder / plan.file, plan)
            np.testing.assert_allclose(engine.run(feed(1))["double"], 2 * feed(1)["x"])
        else:
            with pytest.raises(EngineMismatch, match="this machine is"):
                TensorRtEngine(machine.folder / plan.file, plan)


def test_a_plan_for_ampere_and_later_runs_there() -> None:
    from cir_rt.engines.plan import check

    plan = Plan(
        file="", sha256="", package="tensorrt", version="11.0", capabilities=("sm_80",),
        hardware="ampere_plus",
    )  # fmt: skip
    check(plan, "TensorRT", "11.0", "sm_120")
    for other in ("sm_75", "sm_87", "sm_110"):  # Jetsons have it not
        with pytest.raises(EngineMismatch):
            check(plan, "TensorRT", "11.0", other)


def test_a_package_that_nobody_knows_is_refused(machine: Machine, graph: Path) -> None:
    with pytest.raises(BackendMissing, match=r"'tensorrt-lite'.*tensorrt, tensorrt-rtx"):
        vouched(machine, graph, package="tensorrt-lite")()


def test_a_missing_package_is_said(
    machine: Machine, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ = vouched(machine, graph)
    monkeypatch.setitem(sys.modules, machine.package.replace("-", "_"), None)
    with pytest.raises(BackendMissing, match=r"not installed.*pip install"):
        open_()


def test_without_a_driver_tensorrt_is_not_touched(
    machine: Machine, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ = vouched(machine, graph)

    def no_driver() -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda, "_driver", no_driver)
    monkeypatch.setitem(sys.modules, machine.package.replace("-", "_"), None)
    with pytest.raises(BackendMissing, match="no NVIDIA driver"):
        open_()


@pytest.mark.parametrize("device", ["cpu", "cuda:7", "tpu", ""])
def test_a_device_that_is_not_there_is_refused(machine: Machine, graph: Path, device: str) -> None:
    plan = machine.compiled(graph)
    with pytest.raises(BackendMissing, match="cuda"):
        TensorRtEngine(machine.folder / plan.file, plan, device=device)


def test_what_tensorrt_refuses_at_run_time_is_told(
    machine: Machine, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = machine.open(graph)
    monkeypatch.setattr(
        machine.trt.IExecutionContext, "execute_async_v3", lambda self, stream_handle: False
    )
    with pytest.raises(DeviceError, match="refused execution"):
        engine.run(feed(1))
