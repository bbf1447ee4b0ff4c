"""A Jetson's power rails, as its INA monitors tell of them under /sys/class/hwmon.

Each monitor is a folder with `name`, and per channel N `inN_label`, `inN_input` (millivolts) and
`currN_input` (milliamperes), https://docs.kernel.org/hwmon/ina3221.html; an INA238 has the one
channel `power1_input` (microwatts), https://docs.kernel.org/hwmon/ina238.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Rails that feed all others: the board's or the module's input. Where there is one, it is the sum.
INPUTS = ("VIN", "VDD_IN", "POM_5V_IN")
_CHANNELS = "in[123]_label"  # in7 is a sum of shunt voltages
_UNUSED = "NC"  # not connected


@dataclass(frozen=True, kw_only=True)
class Rail:
    """One measured supply: the files whose product is its power, and what that is divided by."""

    name: str
    factors: tuple[Path, ...]
    per_watt: float

    def watts(self) -> float:
        """Read the power. Raises OSError where the files do not answer."""
        power = 1.0 / self.per_watt
        for file in self.factors:
            power *= float(file.read_text(encoding="ascii"))
        return power


@dataclass(frozen=True, kw_only=True)
class BoardPower:
    """The rails that together are the board's power."""

    parts: tuple[Rail, ...]

    @property
    def rails(self) -> tuple[str, ...]:
        """The names of the rails that are counted."""
        return tuple(rail.name for rail in self.parts)

    def watts(self) -> float:
        """Read all of them. Raises OSError."""
        return sum(rail.watts() for rail in self.parts)


def board_power(root: Path = Path("/")) -> BoardPower | None:
    """Return the rail that feeds the board, or all rails where none does; None without any.

    NOTE: where one rail feeds another and neither is an input, both count. A report names them.
    """
    found = {
        rail.name: rail
        for folder in sorted((root / "sys/class/hwmon").glob("hwmon*"))
        for rail in _rails(folder)
    }
    for name in INPUTS:
        if name in found:
            return BoardPower(parts=(found[name],))
    return BoardPower(parts=tuple(found.values())) if found else None


def _rails(folder: Path) -> Iterator[Rail]:
    monitor = _read(folder / "name")
    if monitor == "ina238":
        yield Rail(name="VIN", factors=(folder / "power1_input",), per_watt=1e6)
    elif monitor == "ina3221":
        for label in sorted(folder.glob(_CHANNELS)):
            name, number = _read(label), re.sub(r"\D", "", label.name)
            factors = tuple(folder / f"{kind}{number}_input" for kind in ("in", "curr"))
            if name and name != _UNUSED and all(file.exists() for file in factors):
                yield Rail(name=name, factors=factors, per_watt=1e6)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
