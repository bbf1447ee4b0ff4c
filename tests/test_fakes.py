"""The played TensorRT is as strict as the bindings, and its record is theirs."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from fake_gpu import FakeGpu
from fake_trt import SURFACES, fake_trt
from trt_surface import parameters, record, recorded


@pytest.fixture(params=list(SURFACES))
def trt(request: pytest.FixtureRequest) -> ModuleType:
    return fake_trt(request.param, FakeGpu())


def logger(trt: ModuleType) -> object:
    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

    return Log()


def test_an_unknown_name_raises(trt: ModuleType) -> None:
    with pytest.raises(AttributeError):
        trt.IInt8EntropyCalibrator  # noqa: B018
    with pytest.raises(AttributeError):
        trt.MemoryPoolType.SCRATCH  # noqa: B018


def test_an_unknown_member_raises(trt: ModuleType) -> None:
    builder = trt.Builder(logger(trt))
    with pytest.raises(AttributeError):
        builder.build_cuda_engine  # noqa: B018
    config = builder.create_builder_config()
    with pytest.raises(AttributeError, match="max_workspace_size"):
        config.max_workspace_size = 1 << 30
    with pytest.raises(AttributeError, match="set_flag"):
        config.set_flag = None


def test_wrong_arguments_raise(trt: ModuleType) -> None:
    builder = trt.Builder(logger(trt))
    config = builder.create_builder_config()
    for call in (
        lambda: builder.create_network("0"),
        lambda: builder.create_network(0, 0),
        lambda: builder.create_network(flag=0),
        lambda: config.set_flag(12),
        lambda: config.set_memory_pool_limit(trt.BuilderFlag.TF32, 1),
        lambda: trt.Builder(),
        lambda: trt.Builder("logger"),
        lambda: trt.IBuilderConfig(),
    ):
        with pytest.raises(TypeError):
            call()


def test_what_is_not_played_says_so(trt: ModuleType) -> None:
    builder = trt.Builder(logger(trt))
    with pytest.raises(NotImplementedError, match=r"Builder\.reset"):
        builder.reset()


def test_versions_differ_as_recorded() -> None:
    ten, eleven = (fake_trt(name, FakeGpu()) for name in ("10.3", "11.4"))
    assert hasattr(ten.BuilderFlag, "FP16")
    assert not hasattr(eleven.BuilderFlag, "FP16")
    assert hasattr(ten.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert not hasattr(eleven.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert int(ten.BuilderFlag.TF32) != int(eleven.BuilderFlag.TF32)


def test_signatures_are_read() -> None:
    read = parameters("f(self: A, b: int, c: List[Dims], d: B = <B.X: 0>, e: str = None) -> C")
    assert [(p.name, p.type, p.required) for p in read] == [
        ("b", "int", True),
        ("c", "List[Dims]", True),
        ("d", "B", False),
        ("e", "str", False),
    ]
    assert parameters("g(self: A) -> Tuple[bool, str]") == ()


@pytest.mark.rtx
def test_the_record_of_rtx_is_the_installed_packages() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed: pip install 'cir-rt[rtx]'")
    kept, here = recorded(SURFACES["rtx"]), record("tensorrt_rtx")
    if here["version"] != kept["version"]:
        pytest.skip(f"recorded is {kept['version']}, installed is {here['version']}")
    assert here == kept
