"""The kernels on the host harness under AddressSanitizer and UndefinedBehaviorSanitizer.

Another Python runs a part of the other tests with the sanitizers preloaded; shared memory and the
device's arrays are heap blocks of their very size there, so that a read behind one is seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from host_gpu import SANITIZED, compile_kernels, compiler

HERE = Path(__file__).resolve().parent
PART = (
    "test_compose.py::test_compose_is_the_oracle",
    "test_compose.py::test_the_forms_are_filled_with_zeros_behind_the_width",
    "test_compose.py::test_inputs_begin_anywhere_and_have_gaps",
    "test_scan.py::test_deleted_rows_and_the_reference_are_not_found",
    "test_scan.py::test_where_rows_run_out",
    "test_scan.py::test_rows_in_order_of_their_scores",
    "test_scan.py::test_scores_of_real_numbers_are_near[host-989-111-7-i8]",
    "test_scan.py::test_scores_of_real_numbers_are_near[host-989-111-7-f16]",
    "test_rescore.py::test_rescore_is_the_oracle",
)

FAULTS = """
#include "device.cuh"
struct Nothing { int x; };
KERNEL(outside, Nothing, 32, 1) { shared_memory()[a.x + lane()] = 1; }
KERNEL(overflow, Nothing, 32, 1) { shared_memory()[0] = a.x + lane() > 5; }
"""


def environment() -> dict[str, str]:
    """Return the environment of a Python with the sanitizers preloaded; skip without them."""
    found = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so.6"):
        command = [str(compiler()), f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            pytest.skip(f"{compiler()} comes without {name}")
        found.append(str(Path(path).resolve()))
    return {
        **os.environ,
        SANITIZED: "1",
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0,abort_on_error=0",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if compiler() is None:
        pytest.skip("neither g++ nor clang++ is here")


def test_the_kernels_are_clean() -> None:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
    command += [str(HERE / name) for name in PART]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, cwd=HERE.parents[1]
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("kernel", "value", "fault"),
    [("outside", 8, "heap-buffer-overflow"), ("overflow", 2**31 - 1, "signed integer overflow")],
)
def test_a_fault_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str, value: int, fault: str
) -> None:
    """The sanitizers see into the fibres: a kernel with a fault ends the process."""
    source = tmp_path / "faults.cu"
    source.write_text(FAULTS)
    monkeypatch.setenv(SANITIZED, "1")
    library = compile_kernels(tmp_path, source)
    code = f"""
import ctypes
from host_gpu import Launch
library = ctypes.CDLL({str(library)!r})
launch = Launch((ctypes.c_uint * 3)(1, 1, 1), 32, 32, 0)
library.{kernel}(ctypes.byref(ctypes.c_int({value})), ctypes.byref(launch))
print("lived")
"""
    path = os.pathsep.join([str(HERE), str(HERE.parent / "fakes")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert fault in done.stderr
    assert "lived" not in done.stdout
