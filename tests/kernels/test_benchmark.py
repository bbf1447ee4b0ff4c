"""benchmarks/kernels.py on the host harness at small sizes: it runs, not what it measures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner
from conftest import Bench

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/kernels.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_kernels", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as when it is run
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_every_kernel_is_checked_and_timed(
    bench: Bench, script: ModuleType, host_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bench.host is None:
        pytest.skip("on a GPU the benchmark itself is run")
    image = SimpleNamespace(read_bytes=lambda: str(host_library).encode())
    monkeypatch.setattr(script, "build", lambda archs: SimpleNamespace(path=image, log=""))
    small = {"CHECKED_ROWS": 200, "STORE_ROWS": 300, "WIDTH": 64, "K": 10, "COPY_BYTES": 1 << 16}
    for name, value in {**small, "FLUSH_BYTES": 1 << 12, "LAUNCHES": 1, "WARM_UP": 0}.items():
        assert hasattr(script, name)
        monkeypatch.setattr(script, name, value)
    result = script.measure(bench.device, rows=300, repeats=1)
    assert {"device", "copy_gb_s", "kernels"} <= set(result)
    names = set(result["kernels"])
    assert {"compose_f16_b1", "scan_f16_b64", "scan_i8_b1", "scan_b1_b8"} <= names
    for figures in result["kernels"].values():
        assert {"us", "gb_s", "share_of_copy", "vs_torch"} <= set(figures)


def test_another_answer_than_the_oracles_ends_it(script: ModuleType) -> None:
    from cir_rt.errors import CirRtError

    with pytest.raises(CirRtError, match="off by 1 from the oracle"):
        script.near(script.np.ones(3), script.np.zeros(3), 1e-3)
    with pytest.raises(CirRtError, match="off by nan"):
        script.near(script.np.full(3, script.np.nan), script.np.zeros(3), 1e-3)


def test_without_a_gpu_it_says_so_in_one_line(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cir_rt.kernels import cuda

    def missing() -> None:
        raise OSError("libcuda.so.1")

    monkeypatch.setattr(cuda, "_driver", missing)
    done = CliRunner().invoke(script.main, ["--quick"])
    assert done.exit_code == 1
    assert done.output.startswith("kernels: no NVIDIA driver here")
    assert done.output.count("\n") == 1
