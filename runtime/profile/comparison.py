"""Whether a profile is worse than an older one, beyond what chance and the machine explain.

A figure is worse where it is so by more than the sum of
- what it strayed within the old run, and within the new one (`noise` of each result),
- what the fixed piece of work of both runs differs by: that is the machine's doing,
- 3 %, for what differs from process to process.
Recall is worse where it fell by more than 0.5 points, the limit of a build.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cir_rt.errors import GateError, UsageError

FLOOR = 0.03
RECALL_DROP = 0.5  # points
FIGURES = {  # of a result's `noise`: whether less is better
    "p50_ms": True,
    "p90_ms": True,
    "p99_ms": True,
    "qps": False,
    "rate_qps": False,
}
MACHINE = ("machine", "cores", "instruction_set", "device")  # of the environment
ASKED = ("k", "mode", "reference", "bound_ms", "threads", "index", "queries")  # of the settings


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure of one result, then and now. Changes are shares (points for recall).

    `worse` is by how much it got worse, below 0 where it got better; None where a figure's noise is
    not known, for too few runs, so that nobody can say.
    """

    batch: int
    rerank: int
    figure: str
    old: float
    new: float
    worse: float | None
    allowed: float | None

    @property
    def regressed(self) -> bool:
        """Whether it is worse by more than is allowed."""
        return self.worse is not None and self.allowed is not None and self.worse > self.allowed

    def to_json(self) -> dict[str, Any]:
        """Return all fields, and the verdict."""
        return {**vars(self), "regressed": self.regressed}


def read_report(path: Path) -> dict[str, Any]:
    """Read what `cir-rt profile --json` printed. Raises UsageError for anything else."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if {"environment", "scenario", "settings", "results", "noise"} <= set(report):
            return report
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: not readable as a profile ({error}).") from error
    raise UsageError(f"{path}: not a profile. Expected what this wrote:  cir-rt profile … --json")


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Compared]:
    """Hold each result against the old one of the same batch, candidates and gallery.

    Raises UsageError where no two results were asked the same, on the same kind of machine.
    """
    check_same(old, new)
    before = {_key(result): result for result in old["results"]}
    pairs = [(before[_key(r)], r) for r in new["results"] if _key(r) in before]
    if not pairs:
        raise UsageError(
            "the two profiles share no result of equal batch, rerank and gallery. "
            f"The old one has: {', '.join(str(_key(r)) for r in old['results'])}."
        )
    drift = abs(new["noise"]["spin_ms"] / old["noise"]["spin_ms"] - 1)
    return [found for a, b in pairs for found in _compared(a, b, drift)]


def check_same(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise UsageError where two reports, or what stands at their head, cannot be compared."""
    sides = [("", ("scenario",)), ("environment", MACHINE), ("settings", ASKED)]
    for part, names in sides:
        then, now = (report[part] if part else report for report in (old, new))
        for name in names:
            if then.get(name) != now.get(name):
                raise UsageError(
                    f"the old profile has {name} {then.get(name)}, this one {now.get(name)}. "
                    "Only profiles of one machine that were asked the same can be compared."
                )


def check(compared: Sequence[Compared]) -> None:
    """Raise GateError that names the figures which regressed."""
    found = [
        f"{c.figure} at batch {c.batch}, rerank {c.rerank}: {c.new:g}, was {c.old:g}"
        for c in compared
        if c.regressed
    ]
    if found:
        raise GateError(f"worse than before, beyond the noise of both runs: {'; '.join(found)}")


def _key(result: Mapping[str, Any]) -> tuple[Any, ...]:
    return result["batch"], result["rerank"], result["gallery"]


def _compared(old: Mapping[str, Any], new: Mapping[str, Any], drift: float) -> list[Compared]:
    where = {"batch": new["batch"], "rerank": new["rerank"]}
    found = []
    for figure, less_is_better in FIGURES.items():
        sides = [_value(result, figure) for result in (old, new)]
        if figure not in _quoted(new) or None in sides:
            continue
        then, now = sides
        noises = [result["noise"].get(figure) for result in (old, new)]
        worse = now / then - 1 if less_is_better else then / now - 1
        allowed = None if None in noises else FLOOR + drift + sum(noises)
        found.append(
            Compared(
                **where,
                figure=figure,
                old=then,
                new=now,
                worse=None if allowed is None else worse,
                allowed=allowed,
            )
        )
    recalls = (old.get("recall") or {}, new.get("recall") or {})
    for name in (name for name in recalls[0] if name in recalls[1]):
        then, now = (recall[name] for recall in recalls)
        found.append(
            Compared(**where, figure=name, old=then, new=now, worse=then - now, allowed=RECALL_DROP)
        )
    return found


def _quoted(result: Mapping[str, Any]) -> set[str]:
    """Return the figures that a result is judged by: its scenario's own, and the median."""
    name = result["metric"]["name"]
    return {name, "p50_ms", "p90_ms"} if name.endswith("_ms") else {name}


def _value(result: Mapping[str, Any], figure: str) -> Any:
    return result.get(figure, result["total"].get(figure))
