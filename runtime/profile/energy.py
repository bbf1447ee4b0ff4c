"""Joules of a run: a GPU's own counter, or watts that are read again and again and summed up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cir_rt.errors import BackendMissing, DeviceError
from cir_rt.profile.nvml import Nvml
from cir_rt.profile.rails import board_power

FAILURES = (OSError, ValueError, DeviceError)  # of a reading: gone, empty, refused
INTERVAL_S = 0.1  # a reading of a Jetson's rails takes a millisecond or two of a core


class Meter(Protocol):
    """Something that tells the energy between two instants."""

    name: str  # what is counted, as a report says it

    def start(self) -> None:
        """Begin to count."""

    def stop(self) -> float:
        """Return the joules since `start`."""


class Counter:
    """A meter over hardware that counts by itself."""

    def __init__(self, name: str, joules: Callable[[], float]) -> None:
        """Take what reads the count: joules since whenever."""
        self.name = name
        self._joules = joules
        self._before = 0.0

    def start(self) -> None:
        """Note the count."""
        self._before = self._joules()

    def stop(self) -> float:
        """Return the joules since `start`."""
        return self._joules() - self._before


class Sampler:
    """A meter over hardware that tells its watts: a thread reads them, trapezoids sum them up."""

    def __init__(
        self,
        name: str,
        watts: Callable[[], float],
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take what reads the watts, and how often."""
        self.name = name
        self._watts = watts
        self._interval_s = interval_s
        self._clock = clock
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._joules = 0.0
        self._last = 0.0, 0.0  # when, watts

    def start(self) -> None:
        """Read once, then begin to read from a thread."""
        self._joules, self._failure = 0.0, None
        self._last = self._clock(), self._watts()
        self._stopped.clear()
        self._thread = threading.Thread(target=self._sample, name="cir-rt-energy", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Read a last time and return the joules since `start`.

        Raises one of FAILURES where a reading failed.
        """
        assert self._thread is not None, "stop without start"
        self._stopped.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._add()
        return self._joules

    def _sample(self) -> None:
        try:
            while not self._stopped.wait(self._interval_s):
                self._add()
        except FAILURES as error:
            self._failure = error

    def _add(self) -> None:
        now, watts = self._clock(), self._watts()
        before, earlier = self._last
        self._joules += (now - before) * (watts + earlier) / 2
        self._last = now, watts


def find_meter(device: str, root: Path = Path("/")) -> Meter:
    """Return what measures the energy of a device's queries.

    A Jetson's rails count whatever runs on the board, a GPU's counter the GPU alone. Raises
    BackendMissing, with the reason, where nothing here tells.
    """
    power = board_power(root)
    if power is not None:
        return Sampler(f"rails {', '.join(power.rails)}", power.watts)
    if device.partition(":")[0] != "cuda":
        raise BackendMissing(
            "the engines run on the CPU, and this machine has no power rails that tell of it "
            "(a Jetson has)."
        )
    gpu = Nvml(int(device.partition(":")[2] or 0))
    if gpu.counts_energy:
        return Counter(f"{gpu.name}, its own counter", gpu.joules)
    return Sampler(f"{gpu.name}, its power summed up", gpu.watts)
