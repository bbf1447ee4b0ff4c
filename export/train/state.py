"""Where an interrupted run stands: a safetensors file that is replaced whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cir_rt.config import from_dict, to_dict
from cir_rt.errors import CheckpointError, UsageError


@dataclass(frozen=True, kw_only=True)
class Place:
    """The step that comes next."""

    stage: int = 0
    epoch: int = 0  # of the stage
    step: int = 0  # of the epoch
    steps: int = 0  # taken in the whole run
    seconds: float = 0.0  # trained so far
    score: float | None = None  # the stage's best validation
    stale: int = 0  # validations since then


class StateFile:
    """Saves a run at most every `every` seconds, and reads it back."""

    def __init__(self, path: Path, run: Mapping, every: float = 120.0) -> None:
        """`run` says what is trained (recipe, data, seed); only its own state is taken back."""
        self.path = path
        self.run = json.dumps(run, sort_keys=True)
        self.every = every
        self._saved = time.monotonic()

    def save(self, place: Place, tensors: Mapping[str, Tensor]) -> None:
        """Replace the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        facts = {"run": self.run, "place": json.dumps(to_dict(place))}
        save_file(dict(tensors), partial, metadata=facts)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self.path)
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether the last save lies long enough back."""
        return time.monotonic() - self._saved >= self.every

    def load(self) -> tuple[Place, dict[str, Tensor]]:
        """Return what was saved.

        Raises UsageError where nothing was, or another run's state; CheckpointError for a file
        that does not read.
        """
        if not self.path.exists():
            raise UsageError(f"{self.path.parent}: no interrupted run to resume. Drop --resume.")
        try:
            with safe_open(self.path, "pt") as file:
                facts = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path}: not readable ({error}). Delete it.") from error
        if facts["run"] != self.run:
            names = ", ".join(_differences(facts["run"], self.run))
            raise UsageError(
                f"{self.path.parent}: the interrupted run differs in {names}. "
                "Give the same, or another --out."
            )
        return from_dict(Place, json.loads(facts["place"]), str(self.path)), tensors

    def delete(self) -> None:
        """Forget the run: it is complete."""
        self.path.unlink(missing_ok=True)


def _differences(ours: str, theirs: str) -> list[str]:
    a, b = json.loads(ours), json.loads(theirs)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
