"""What the first query after the start of a process waits for."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cir_rt.errors import CirRtError
from cir_rt.profile.questions import Question

# One process: open, answer, then again many times. The clock is the system's, so that the process
# that started this one reads the same.
PROCESS = """
import json, sys, time
begun = time.monotonic()
from cir_rt import Retriever
imported = time.monotonic()
asked = json.loads(sys.argv[1])
with Retriever.open(**asked["open"]) as retriever:
    opened = time.monotonic()
    retriever.search(**asked["search"])
    marks = [begun, imported, opened, time.monotonic()]
    steady = []
    for _ in range(asked["runs"]):
        start = time.perf_counter()
        retriever.search(**asked["search"])
        steady.append(1000 * (time.perf_counter() - start))
from cir_rt.profile.memory import peak_rss_mb
print(json.dumps({"marks": marks, "steady_ms": steady, "peak_rss_mb": peak_rss_mb()}))
"""


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """One process's first query, part by part, and those that followed."""

    interpreter_ms: float
    import_ms: float
    open_ms: float
    first_query_ms: float
    steady_ms: tuple[float, ...]
    peak_rss_mb: float

    @property
    def first_answer_ms(self) -> float:
        """From the start of the process to its first answer."""
        return self.interpreter_ms + self.import_ms + self.open_ms + self.first_query_ms


def cold_start(opening: Mapping[str, Any], search: Mapping[str, Any], *, runs: int) -> ColdStart:
    """Answer one query in a fresh process, then `runs` more.

    The arguments are those of `Retriever.open` and `search`, as JSON can hold them. The files are
    wherever earlier processes left them: in memory, as a rule. Raises CirRtError with the
    process's last words where it fails.
    """
    asked = json.dumps({"open": opening, "search": search, "runs": runs})
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, asked], capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise CirRtError(f"a fresh process could not answer: {words}")
    said = json.loads(done.stdout)
    marks = [started, *said["marks"]]
    parts = [1000 * (b - a) for a, b in pairwise(marks)]
    return ColdStart(
        interpreter_ms=parts[0],
        import_ms=parts[1],
        open_ms=parts[2],
        first_query_ms=parts[3],
        steady_ms=tuple(said["steady_ms"]),
        peak_rss_mb=said["peak_rss_mb"],
    )


def cold_starts(
    opening: Mapping[str, Any],
    question: Question,
    search: Mapping[str, Any],
    *,
    processes: int,
    runs: int,
) -> list[ColdStart]:
    """Let several fresh processes answer a question, one after another."""
    with tempfile.TemporaryDirectory() as folder:
        image = question.image
        if isinstance(image, bytes):
            data, image = image, Path(folder, "query.jpg")
            image.write_bytes(data)
        asked = {**search, "image": str(image), "text": question.text}
        return [cold_start(opening, asked, runs=runs) for _ in range(processes)]


def medians(starts: Sequence[ColdStart]) -> dict[str, float]:
    """Return the median of each part over the processes, in milliseconds and MB."""
    parts = ("interpreter_ms", "import_ms", "open_ms", "first_query_ms", "peak_rss_mb")
    found = {name: statistics.median(getattr(s, name) for s in starts) for name in parts}
    found["first_answer_ms"] = statistics.median(s.first_answer_ms for s in starts)
    found["steady_ms"] = statistics.median(ms for s in starts for ms in s.steady_ms)
    return {name: round(value, 3) for name, value in found.items()}
