"""The ONNX Runtime engine: the conformance suite on each device, and what is its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fake_onnxruntime
import numpy as np
import onnxruntime
import pytest
from conformance import Conformance, Kind, feed, oracle, room, write_graph

from cir_rt import engines
from cir_rt.bundle import open_bundle
from cir_rt.engines import open_engine
from cir_rt.engines.onnxruntime import OnnxRuntimeEngine
from cir_rt.engines.onnxruntime_graphs import MOST_RUNS
from cir_rt.errors import BackendMissing, BundleError, EngineMismatch
from cir_rt.kernels.cuda import probe

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


class _OnGpu:
    """An array on the GPU, held by ONNX Runtime."""

    def __init__(self, array: np.ndarray) -> None:
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.value.data_ptr(), False),
            "strides": None,
            "version": 3,
        }


def _fetch(array: Any) -> np.ndarray:
    if isinstance(array, fake_onnxruntime.DeviceArray):
        return array.array
    return array.value.numpy() if isinstance(array, _OnGpu) else array


class TestOnTheCpu(Conformance):
    @pytest.fixture(scope="class")
    def kind(self) -> Kind:
        return Kind(open=partial(OnnxRuntimeEngine, threads=1), device="cpu")


@pytest.mark.skipif(not HAS_CUDA, reason="this onnxruntime has no CUDA provider")
class TestOnCuda(Conformance):
    @pytest.fixture(scope="class", params=[False, True], ids=["plain", "graphs"])
    def kind(self, request: pytest.FixtureRequest) -> Kind:
        try:
            probe()
        except BackendMissing as missing:
            pytest.skip(str(missing))
        return Kind(
            open=partial(OnnxRuntimeEngine, device="cuda:0", graphs=request.param),
            device="cuda:0",
            place=_OnGpu,
            fetch=_fetch,
        )


class TestOnCudaPlayedOnTheHost(Conformance):
    """The calls and the way of the data; not a run on a GPU."""

    @pytest.fixture(scope="class", autouse=True)
    def _library(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            fake_onnxruntime.install(patch)
            yield

    @pytest.fixture(scope="class", params=[False, True], ids=["plain", "graphs"])
    def kind(self, request: pytest.FixtureRequest) -> Kind:
        return Kind(
            open=partial(OnnxRuntimeEngine, device="cuda:1", graphs=request.param),
            device="cuda:1",
            place=fake_onnxruntime.DeviceArray,
            fetch=_fetch,
        )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> type[fake_onnxruntime.FakeSession]:
    """A session class to be changed by the test; the library that has it is in place."""

    class Session(fake_onnxruntime.FakeSession):
        pass

    fake_onnxruntime.install(monkeypatch, Session)
    return Session


@pytest.mark.parametrize("device", ["tpu", "", "cuda:", "cuda:x", "cuda0", "CPU"])
def test_a_device_that_is_not_served_is_refused(path: Path, device: str) -> None:
    with pytest.raises(BackendMissing, match=f"'{device}'.*cpu, cuda"):
        OnnxRuntimeEngine(path, device=device)


def test_a_cpu_engine_takes_no_stream(path: Path) -> None:
    with pytest.raises(EngineMismatch, match="no stream"):
        OnnxRuntimeEngine(path).run(feed(1), stream=7)
    for wrong in ({"stream": 7}, {"graphs": True}):
        with pytest.raises(EngineMismatch, match="no stream and no graphs"):
            OnnxRuntimeEngine(path, **wrong)


def test_a_cpu_engine_takes_no_array_of_a_gpu(path: Path) -> None:
    inputs = feed(2)
    with pytest.raises(EngineMismatch, match="as a numpy array, got DeviceArray"):
        OnnxRuntimeEngine(path).run({**inputs, "x": fake_onnxruntime.DeviceArray(inputs["x"])})


@pytest.mark.parametrize(("device", "extra"), [("cpu", "cpu"), ("cuda", "gpu")])
def test_a_missing_library_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, device: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissing, match=rf"pip install 'cir-rt\[{extra}\]'"):
        OnnxRuntimeEngine(path, device=device)


@pytest.mark.parametrize("spinning", [False, True])
def test_idle_threads_spin_where_that_was_asked_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, spinning: bool
) -> None:
    seen = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path: str, options: Any, **rest: Any) -> None:
            seen.append(options)
            super().__init__(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    OnnxRuntimeEngine(path, threads=3, spinning=spinning)
    (options,) = seen
    assert options.intra_op_num_threads == 3
    for pool in ("intra_op", "inter_op"):
        entry = options.get_session_config_entry(f"session.{pool}.allow_spinning")
        assert entry == str(int(spinning))


def test_an_element_type_that_no_array_has_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.STRING, shape=["n"])
    node = helper.make_node("Identity", ["words"], ["same"])
    graph = helper.make_graph([node], "words", [value("words")], [value("same")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file = tmp_path / "words.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"words is tensor\(string\)"):
        OnnxRuntimeEngine(file)


def test_an_onnxruntime_without_cuda_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_onnxruntime.install(monkeypatch, get_available_providers=lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendMissing, match=r"without CUDA.*pip uninstall.*cir-rt\[gpu\]"):
        OnnxRuntimeEngine(path, device="cuda")


def test_an_onnxruntime_that_cannot_say_where_nodes_run_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        pass

    fake_onnxruntime.install(monkeypatch, Old)
    with pytest.raises(BackendMissing, match=r"Expected 1\.24"):
        OnnxRuntimeEngine(path, device="cuda")


def test_a_machine_without_a_gpu_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_onnxruntime.install(monkeypatch)
    monkeypatch.setattr("cir_rt.engines.onnxruntime.probe", probe)
    monkeypatch.setattr("cir_rt.kernels.cuda._LIBRARY", "libcuda-of-no-machine.so")
    with pytest.raises(BackendMissing, match="no NVIDIA driver here"):
        OnnxRuntimeEngine(path, device="cuda")


def test_a_silent_fall_to_the_cpu_is_refused(
    path: Path, cuda: type[fake_onnxruntime.FakeSession]
) -> None:
    cuda.provides = ("CPUExecutionProvider",)
    with pytest.raises(BackendMissing, match=r"asked for CUDA.*got CPUExecutionProvider.*doctor"):
        OnnxRuntimeEngine(path, device="cuda")


def test_work_that_was_left_to_the_cpu_is_refused(
    path: Path, cuda: type[fake_onnxruntime.FakeSession]
) -> None:
    cuda.strays = ("Shape", "Gather", "QLinearConv", "MatMulInteger")
    with pytest.raises(BackendMissing, match="MatMulInteger, QLinearConv would run on the CPU"):
        OnnxRuntimeEngine(path, device="cuda")


def test_a_device_that_does_not_start_is_told_from_a_graph_that_does_not_load(
    path: Path, cuda: type[fake_onnxruntime.FakeSession]
) -> None:
    cuda.error = RuntimeError("CUDA failure 101: invalid device ordinal")
    with pytest.raises(BackendMissing, match=r"cannot open it on cuda:7.*invalid device.*doctor"):
        OnnxRuntimeEngine(path, device="cuda:7")


def test_what_the_library_prints_stays_out_of_the_result(
    path: Path, cuda: type[fake_onnxruntime.FakeSession], capsys: pytest.CaptureFixture[str]
) -> None:
    OnnxRuntimeEngine(path, device="cuda")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "libcudart" in printed.err


def test_the_session_is_told_device_stream_and_graphs(
    path: Path, cuda: type[fake_onnxruntime.FakeSession]
) -> None:
    engine = OnnxRuntimeEngine(path, device="cuda:2", stream=1234, graphs=True)
    options = engine._session.options
    assert (options["device_id"], options["user_compute_stream"]) == ("2", "1234")
    assert (options["enable_cuda_graph"], options["use_tf32"]) == ("1", "0")
    assert "user_compute_stream" not in OnnxRuntimeEngine(path, device="cuda")._session.options


def test_a_run_is_waited_for_unless_all_is_queued_on_the_callers_stream(
    path: Path, cuda: type[fake_onnxruntime.FakeSession]
) -> None:
    engine = OnnxRuntimeEngine(path, device="cuda", stream=9)
    placed = {name: fake_onnxruntime.DeviceArray(a) for name, a in feed(2).items()}
    out = {name: fake_onnxruntime.DeviceArray(a) for name, a in room(2).items()}
    engine.run(placed, out, stream=9)
    engine.run(placed, out)
    engine.run(placed, stream=9)
    engine.run({**placed, "n": feed(2)["n"]}, out, stream=9)
    assert engine._session.synchronized == [False, True, True, True]
    with pytest.raises(EngineMismatch, match="opened on stream 9, asked to run on 8"):
        engine.run(placed, out, stream=8)
    with pytest.raises(EngineMismatch, match="opened on stream None"):
        OnnxRuntimeEngine(path, device="cuda").run(placed, out, stream=8)


def test_a_strided_array_on_the_gpu_is_refused(
    path: Path, cuda: type[fake_onnxruntime.FakeSession]
) -> None:
    inputs = feed(2)
    wide = fake_onnxruntime.DeviceArray(inputs["x"], strided=True)
    with pytest.raises(EngineMismatch, match=r"x float32.*contiguous on the GPU.*strides \[40, 8"):
        OnnxRuntimeEngine(path, device="cuda").run({**inputs, "x": wide})


def test_a_shape_is_recorded_once_and_replayed(
    path: Path, cuda: type[fake_onnxruntime.FakeSession]
) -> None:
    engine = OnnxRuntimeEngine(path, device="cuda", graphs=True)
    for rows in (1, 1, 8, 1, 8, 0):
        engine.run(feed(rows))
    kept = {name: fake_onnxruntime.DeviceArray(a) for name, a in feed(1).items()}
    for _ in range(2):
        engine.run(kept)
    moved = {name: fake_onnxruntime.DeviceArray(a) for name, a in feed(1).items()}
    engine.run(moved)
    assert engine._session.runs == [
        *("recorded:1", "replayed", "recorded:2", "replayed", "replayed", "plain"),
        *("recorded:3", "replayed", "recorded:4"),
    ]


def test_graphs_are_recorded_up_to_a_number(
    path: Path, cuda: type[fake_onnxruntime.FakeSession]
) -> None:
    engine = OnnxRuntimeEngine(path, device="cuda", graphs=True)
    for rows in range(1, MOST_RUNS + 3):
        inputs = feed(rows)
        np.testing.assert_allclose(engine.run(inputs)["sum"], oracle(inputs)["sum"], atol=1e-5)
    assert engine._session.runs[MOST_RUNS:] == ["plain", "plain"]
    assert engine.run(feed(1)) is not None
    assert engine._session.runs[-1] == "replayed"


def test_a_bundles_engine_is_opened_by_its_backends_name(bundle: Path) -> None:
    opened = open_bundle(bundle)
    engine = open_engine(opened, "text", threads=1)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert engine.inputs == opened.role("text").inputs
    with pytest.raises(BundleError, match="has no 'rerank'"):
        open_engine(opened, "rerank")
    target = replace(opened.manifest.target, backend="abacus")
    foreign = replace(opened, manifest=replace(opened.manifest, target=target))
    with pytest.raises(BackendMissing, match=r"'abacus'.*onnxruntime, tensorrt"):
        open_engine(foreign, "text")


@pytest.mark.parametrize("backend", engines.BACKENDS)
def test_every_backend_of_the_table_is_there(backend: str) -> None:
    from importlib import import_module

    module, name = engines.BACKENDS[backend]
    assert callable(getattr(import_module(module), name).open)
