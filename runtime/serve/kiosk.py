"""What the operator tells the page at /: frequent changes, the microphone, when a visit ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cir_rt.errors import UsageError

CHIPS = (
    *("in red", "in blue", "in green", "in black", "in white"),
    *("darker", "lighter", "plain", "with stripes", "with flowers"),
    *("shorter", "longer", "with long sleeves", "sleeveless"),
)
MOST_CHIPS, LONGEST_CHIP = 24, 40  # what fits a screen, and a button
LEAST_IDLE_S = 30  # a visit's end is told 20 seconds before


@dataclass(frozen=True, kw_only=True)
class Kiosk:
    """How the page behaves. Raises UsageError for what does not fit it."""

    chips: tuple[str, ...] = CHIPS
    speech: bool = False  # a microphone; browsers send the sound to their maker
    idle_s: int = 90  # without a touch, the visit is forgotten; 0: never

    def __post_init__(self) -> None:
        """Refuse chips that do not fit, and a visit that ends before it begins."""
        if len(self.chips) > MOST_CHIPS:
            raise UsageError(f"{len(self.chips)} chips. Expected at most {MOST_CHIPS}.")
        for chip in self.chips:
            if not 1 <= len(chip) <= LONGEST_CHIP or not chip.isprintable():
                raise UsageError(f"chip {chip[:60]!r}: expected 1 to {LONGEST_CHIP} characters.")
        if self.idle_s and self.idle_s < LEAST_IDLE_S:
            raise UsageError(
                f"--idle-s {self.idle_s}: expected {LEAST_IDLE_S} or more, or 0 for never."
            )

    def to_json(self, *, token: bool, text_characters: int) -> dict[str, Any]:
        """Return what the page reads at /page/settings.json; `token`: whether one is asked for."""
        return {
            "chips": list(self.chips),
            "speech": self.speech,
            "idle_s": self.idle_s,
            "token": token,
            "text_characters": text_characters,
        }


def read_chips(file: Path) -> tuple[str, ...]:
    """Read one chip a line; empty lines and what follows a # at its start are no chips.

    Raises UsageError for a file that is not UTF-8 text.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--chips {file}: {error}. Expected UTF-8 text, a change a line."
        ) from error
    found = (line.strip() for line in lines)
    return tuple(dict.fromkeys(line for line in found if line and not line.startswith("#")))
