"""The most memory that a process held."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # https://docs.kernel.org/filesystems/proc.html


def peak_rss_mb() -> float:
    """Return the highest resident memory so far, in MB of 2^20 bytes.

    NOTE: Linux's own `ru_maxrss` is inherited from the process that started this one.
    """
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return _maximum()
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(found[0]) / 1024, 1) if found else _maximum()


def reset_peak() -> bool:
    """Begin anew to note the highest; False where this system cannot, and it stays the process's.

    Only Linux can.
    """
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _maximum() -> float:
    import resource  # POSIX alone

    units = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units, 1)
