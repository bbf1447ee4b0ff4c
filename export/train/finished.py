"""Steps of a long run in a folder: what stands there under its own name is finished.

A step works under another name, which is changed when it is done. So an interrupted run goes on
after the last finished step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cir_rt.errors import ConfigError

PARTIAL = ".partial"


class Finished:
    """Results by name below a folder; each is made once."""

    def __init__(self, out: Path, progress: Callable[[str], None] | None = None) -> None:
        """`progress` is told the name of each step that begins."""
        self.out = out
        self.progress = progress or (lambda name: None)

    def folder(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the folder `name`; where it is not there, `make` fills it.

        `make` may find in it what an interrupted call left.
        """
        path, partial = self._places(name)
        if not path.exists():
            self.progress(name)
            partial.mkdir(parents=True, exist_ok=True)
            make(partial)
            os.replace(partial, path)
        return path

    def lines(
        self, name: str, make: Callable[[], Iterable[Mapping[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Return the lines of a JSONL file; where it is not there, `make` gives them."""
        path, partial = self._places(name)
        if not path.exists():
            self.progress(name)
            rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in make()]
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(rows)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        with path.open(encoding="utf-8") as file:  # not splitlines: a caption may hold any break
            return [json.loads(line) for line in file]

    def begun_with(self, name: str, facts: Mapping[str, Any]) -> None:
        """Note what the run depends on, or compare. Raises ConfigError where it has changed."""
        (noted,) = self.lines(name, lambda: [facts])
        changed = sorted(k for k in {*noted, *facts} if noted.get(k) != facts.get(k))
        if changed:
            raise ConfigError(
                f"{self.out}: was begun with other {', '.join(changed)}. "
                "Go on with what it was begun with, or choose another folder."
            )

    def _places(self, name: str) -> tuple[Path, Path]:
        return self.out / name, self.out / (name + PARTIAL)
