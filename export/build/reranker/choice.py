"""Which way to re-rank: the fastest that keeps the ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cir_rt.calibration.gate import Duel
from cir_rt.errors import CheckpointError
from cir_rt.export.build.backends.protocol import Backend
from cir_rt.export.build.candidates import Candidate
from cir_rt.export.build.frontier import Point
from cir_rt.export.build.options import BuildOptions
from cir_rt.export.build.race import Race
from cir_rt.export.build.reranker.forms import PLAIN, Form
from cir_rt.export.build.reranker.judge import RerankJudge, Way
from cir_rt.export.build.reranker.race import RerankRace


@dataclass(frozen=True, kw_only=True)
class RerankChoice:
    """The way that was chosen, and how it was found."""

    way: Way
    duels: Mapping[str, Duel]  # of each other form against the plain one, by its name
    notes: list[str] = field(default_factory=list)
    frontier: list[Point] = field(default_factory=list)

    @property
    def duel(self) -> Duel | None:
        """The chosen form's race against the plain one; None for the plain one itself."""
        return self.duels.get(self.way.form.name)

    @property
    def latency_ms(self) -> dict[str, float | None]:
        """One query's milliseconds through the plain form and through the chosen one."""
        if self.duel:
            return {"before": self.duel.before_ms, "after": self.duel.after_ms}
        plain = _times(self.duels).get(PLAIN)
        return {"before": plain, "after": plain}


def choose_way(
    plain: Form,
    allowed: Sequence[Form],
    images: Sequence[Candidate],
    judge: RerankJudge,
    race: RerankRace | None,
) -> RerankChoice:
    """Try forms and image engines, the fastest first, until every gate is open.

    `allowed` are the forms that the precision allows, the simplest first, `images` the image
    engines, the fastest first. Where no way opens every gate, the last one stays. Without a race
    the forms are tried as they come.
    """
    exact = judge.indexer
    duels = {
        form.name: race(Way(form=plain, image=exact), Way(form=form, image=exact))
        for form in allowed
        if race and form is not plain
    }
    notes = [
        f"rerank: {name} {d.after_ms:.2f} ms against {PLAIN} {d.before_ms:.2f} ms"
        for name, d in duels.items()
    ]
    order = _fastest_first(allowed, duels)
    tried, told = _until_open([Way(form=f, image=i) for f in order for i in images], judge)
    points = [_point(way, tried[-1], judge, duels) for way in tried if duels]
    return RerankChoice(way=tried[-1], duels=duels, notes=[*notes, *told], frontier=points)


def image_engines(
    exact: Candidate, backend: Backend, race: Race, options: BuildOptions
) -> list[Candidate]:
    """Return the ways to read pictures that the precision allows, the fastest first.

    Raises CheckpointError where a precision asked for by name has nothing to serve.
    """
    here = backend.fp32(exact)
    if options.precision == "fp32":
        return [here]
    ways = backend.candidates(exact, options.precision)
    if options.precision != "auto":
        if not ways:
            asked = options.precision.upper()
            raise CheckpointError(f"rerank_image: the graph has nothing that {asked} could serve.")
        entrants = ways
    else:
        entrants = [here, *ways] if backend.timed else ways[:1] or [here]
    best = entrants[0]
    for way in entrants[1:] if backend.timed else ():
        if race({exact.role: best.engine}, {exact.role: way.engine}).won:
            best = way
    return [best] if best is here or options.precision != "auto" else [best, here]


def _fastest_first(forms: Sequence[Form], duels: Mapping[str, Duel]) -> list[Form]:
    """Return the forms by their time; one that did not beat the plain form stands behind it."""

    def place(form: Form) -> float:
        run = duels.get(form.name)
        return 1.0 if run is None else run.ratio if run.won else 1 + run.ratio

    ordered = sorted(forms, key=place)
    plain = next((k for k, form in enumerate(ordered) if form.name == PLAIN), None)
    return ordered if plain is None else ordered[: plain + 1]


def _until_open(ways: Sequence[Way], judge: RerankJudge) -> tuple[list[Way], list[str]]:
    """Return the ways up to the first that opens every gate, and why the others did not."""
    tried, notes = [], []
    for way in ways:
        tried.append(way)
        verdict = judge.verdict(way)
        if verdict.passed:
            break
        shut = next(gate for gate in verdict.gates if not gate.passed)
        notes.append(f"rerank: not {way}; {shut.what}: {shut.told}")
    return tried, notes


def _times(duels: Mapping[str, Duel]) -> dict[str, float]:
    """Return the milliseconds of a query by form, the plain one's at its best."""
    times = {name: run.after_ms for name, run in duels.items()}
    return times | ({PLAIN: min(run.before_ms for run in duels.values())} if duels else {})


def _point(way: Way, chosen: Way, judge: RerankJudge, duels: Mapping[str, Duel]) -> Point:
    verdict = judge.verdict(way)
    return Point(
        role="rerank",
        way=str(way),
        ms=_times(duels)[way.form.name],
        drop=judge.drop(verdict),
        cosine=verdict.scores.mean,
        chosen=way is chosen,
    )
