"""Which way to run each role: the fastest that keeps the recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cir_rt.calibration.gate import cosines
from cir_rt.errors import CheckpointError, DataError
from cir_rt.export.build.backends.protocol import Backend
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.build.frontier import Point
from cir_rt.export.build.judge import Judge
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.build.race import Race
from cir_rt.export.build.search import RUNS, between


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A candidate for each role, and how it was found."""

    chosen: dict[str, Candidate]
    notes: list[str] = field(default_factory=list)
    frontier: list[Point] = field(default_factory=list)


def choose(
    fp32: Mapping[str, Candidate], backend: Backend, judge: Judge, race: Race, options: BuildOptions
) -> Choice:
    """Pick each role's fastest candidate; `auto` gives layers back until every gate is open.

    Raises CheckpointError where a role has nothing to serve a precision asked for by name, and
    DataError where it has no inputs to calibrate with.
    """
    if options.precision == "fp32":
        return Choice(chosen=dict(fp32))
    if options.precision == "auto":
        return _searched(fp32, backend, judge, race)
    chosen, notes = {}, []
    for role in fp32:
        if not judge.calibration.samples.feeds(role):
            raise DataError(f"{role}: nothing to calibrate with. {_MORE[role]}")
        ways = backend.candidates(judge.reference[role], options.precision)
        if not ways:
            asked = options.precision.upper()
            raise CheckpointError(f"{role}: the graph has nothing that {asked} could serve.")
        chosen[role], note = _fastest(ways, race, timed=backend.timed)
        notes.append(note)
    return Choice(chosen=chosen, notes=notes)


_MORE = {
    "image": "Give pictures:  --calibration DIR",
    **dict.fromkeys(
        ("text", "compose"),
        "Give captions: a dataset, or captions.txt beside the pictures, one in a line.",
    ),
}


def _searched(fp32: Mapping[str, Candidate], backend: Backend, judge: Judge, race: Race) -> Choice:
    paths: dict[str, list[Candidate]] = {}  # fastest first, FP32 last
    seen: list[Candidate] = []
    notes: list[str] = []
    for role, exact in fp32.items():
        feeds = judge.calibration.samples.feeds(role)
        ways = backend.candidates(judge.reference[role], "auto") if feeds else []
        # Where nothing can be timed, the first way stands for its backend: the simplest.
        entrants = [exact, *ways] if backend.timed else ways[:1] or [exact]
        best, note = _fastest(entrants, race, timed=backend.timed)
        notes.append(note)
        middle = between(exact, best, backend, race) if backend.timed and best.recipe else []
        if middle:
            best, note = _fastest([best, *middle], race, timed=True)
            notes.append(note)
        later = middle[middle.index(best) + 1 :] if best in middle else middle
        paths[role] = [best, *later, *([] if best is exact else [exact])]
        seen += [*entrants, *middle]
    chosen, told = _give_back(paths, judge)
    timed = seen if backend.timed else []
    points = [_point(way, chosen, fp32, judge, race) for way in timed]
    return Choice(chosen=chosen, notes=notes + told, frontier=points)


def _fastest(ways: Sequence[Candidate], race: Race, *, timed: bool) -> tuple[Candidate, str]:
    """Race each way against the best so far at batch 1; return the winner and the story.

    The ways come simplest first, and the simpler stays unless it is beaten by more than chance.
    """
    best, told = ways[0], []
    for way in ways[1:] if timed else ():
        run = race({way.role: best.engine}, {way.role: way.engine})
        told.append(f"{way} {run.after_ms:.2f} ms against {best} {run.before_ms:.2f} ms")
        if run.won:
            best = way
    return best, f"{best.role}: {best}" + (f" ({'; '.join(told)})" if told else "")


def _give_back(
    paths: Mapping[str, Sequence[Candidate]], judge: Judge
) -> tuple[dict[str, Candidate], list[str]]:
    """Walk the paths, the least faithful role first, until every gate is open."""
    place = dict.fromkeys(paths, 0)
    notes: list[str] = []
    while True:
        chosen = {role: path[place[role]] for role, path in paths.items()}
        verdict = judge.verdict(chosen)
        left = [role for role, path in paths.items() if place[role] + 1 < len(path)]
        if verdict.passed or not left:
            return chosen, notes
        role = min(left, key=lambda r: cosines(judge.reference[r].vectors, chosen[r].vectors).mean)
        place[role] += 1
        shut = next(gate for gate in verdict.gates if not gate.passed)
        notes.append(f"{role}: back to {paths[role][place[role]]}; {shut.what}: {shut.told}")


def _point(
    way: Candidate,
    chosen: Mapping[str, Candidate],
    fp32: Mapping[str, Candidate],
    judge: Judge,
    race: Race,
) -> Point:
    """Measure one way to run a role, with the other roles in FP32."""
    role = way.role
    verdict = judge.verdict({**fp32, role: way})
    near = verdict.cosines.get(role)
    return Point(
        role=role,
        way=str(way),
        ms=race({role: fp32[role].engine}, {role: way.engine}, runs=RUNS).after_ms,
        drop=judge.drop(verdict),
        cosine=near.mean if near else 1.0,
        chosen=way is chosen[role],
    )
