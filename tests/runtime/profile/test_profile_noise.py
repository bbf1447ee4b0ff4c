"""What is said of a machine that is not quiet, and of its memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cir_rt.profile.memory import peak_rss_mb
from cir_rt.profile.noise import ROUNDS, TURNS, Spin, governors, judged, load_average, spin

QUIET = Spin(median_ms=0.5, cv=0.02)
MEGABYTE = 2**20


def test_a_quiet_machine_is_not_warned_of() -> None:
    found = judged(QUIET, QUIET, load=0.1, governor=("performance",))
    assert found["warnings"] == []
    assert (found["spin_ms"], found["spin_cv"], found["spin_drift"]) == (0.5, 0.02, 0.0)
    assert judged(QUIET, QUIET, load=None, governor=())["warnings"] == []


@pytest.mark.parametrize(
    ("before", "after", "load", "governor", "said"),
    [
        (Spin(median_ms=0.5, cv=0.3), QUIET, 0.0, (), "varied by 30% before"),
        (QUIET, Spin(median_ms=0.5, cv=0.2), 0.0, (), "varied by 20% after"),
        (QUIET, Spin(median_ms=0.6, cv=0.02), 0.0, (), r"took \+20%"),
        (QUIET, Spin(median_ms=0.4, cv=0.02), 0.0, (), "took -20%"),
        (QUIET, QUIET, 2.5, (), "load average was 2.50"),
        (QUIET, QUIET, 0.0, ("powersave",), "governor is powersave"),
    ],
)
def test_each_disturbance_is_named(
    before: Spin, after: Spin, load: float, governor: tuple[str, ...], said: str
) -> None:
    (warning,) = judged(before, after, load=load, governor=governor)["warnings"]
    assert re.search(said, warning)


def test_the_spin_is_timed_by_the_clock() -> None:
    ticks = iter(np.cumsum(np.tile([1.0, 0.002], TURNS)))  # between turns a second, of one 2 ms
    found = spin(lambda: float(next(ticks)))
    assert found.median_ms == pytest.approx(2)
    assert found.cv == pytest.approx(0, abs=1e-6)
    assert ROUNDS > 0


def test_governors_are_those_of_all_cores(tmp_path: Path) -> None:
    assert governors(tmp_path) == ()
    for core, name in enumerate(["performance", "powersave", "performance"]):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert governors(tmp_path) == ("performance", "powersave")


def test_the_load_average_is_a_number() -> None:
    load = load_average()
    assert load is None or load >= 0


# In a process of its own: a large one has room left over that new arrays take.
PEAKS = """
import mmap
from cir_rt.profile.memory import peak_rss_mb, reset_peak

if reset_peak():
    before = peak_rss_mb()
    block = mmap.mmap(-1, 64 << 20)
    block.write(bytes(1 << 20) * 64)
    held = peak_rss_mb()
    block.close()
    kept = peak_rss_mb()
    reset_peak()
    print(before, held, kept, peak_rss_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux notes the peak anew")
def test_the_peak_is_that_since_the_last_reset() -> None:
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    if not done.stdout:
        pytest.skip("this kernel does not let the peak be reset")
    before, held, kept, after = map(float, done.stdout.split())
    assert held - before > 100  # the block, and the bytes that it is written from
    assert kept == held
    assert after < held - 40


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux' way to count")
def test_a_process_does_not_inherit_the_peak_of_its_parent() -> None:
    block = np.ones(256 * MEGABYTE, np.uint8)
    code = "from cir_rt.profile.memory import peak_rss_mb; print(peak_rss_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < len(block) / MEGABYTE < peak_rss_mb()
