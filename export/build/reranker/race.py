"""Ways to re-rank raced on one real query, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import islice

import numpy as np

from cir_rt.bundle import RerankSettings
from cir_rt.calibration.gate import Duel, duel
from cir_rt.export.build.reranker.judge import RerankJudge, Way
from cir_rt.export.runtime_scorer import RuntimeScorer
from cir_rt.rerank import Tokens

RUNS, FEWEST = 100, 5  # of a race
BUDGET_S = 30.0  # of a race whose runs are long
TIMED = 5  # runs of a bucket


class RerankRace:
    """Times the first held-back query with as many candidates as are asked for by default.

    The calibration's gallery may hold fewer: then some stand more than once.
    """

    def __init__(self, judge: RerankJudge, settings: RerankSettings) -> None:
        self._judge, self._settings = judge, settings

    def __call__(self, before: Way, after: Way) -> Duel:
        """Return the milliseconds of a query through either, measured alternately."""
        return _duel(self._once(before), self._once(after))

    def against(self, old: RuntimeScorer, after: Way) -> Duel:
        """Race a way against a re-ranker that stands elsewhere, on the same rows."""
        return _duel(self._once(after, old), self._once(after))

    def cascade(self, way: Way, settings: RerankSettings, query: int) -> Duel:
        """Race the way's cascade against its full depth, on one of the held-back queries.

        `settings` have the margin.
        """
        exact = self._judge.scorer(way, settings)
        fast = RuntimeScorer(exact.reranker, "fast")
        return _duel(self._once(way, exact, query), self._once(way, fast, query))

    def buckets(self, way: Way) -> dict[int, float]:
        """Return the milliseconds of a candidate by the number of candidates in a run."""
        scorer = self._judge.scorer(way)
        reference, (text,), candidates, _ = next(self._judge.questions(way))
        state = scorer.reranker.query(text, scorer.rows.decode(reference[0]), truncate=True)
        found = {}
        for bucket in self._settings.buckets:
            rows = candidates[0, _repeated(candidates, bucket)]

            def fetch(start: int, stop: int, rows: np.ndarray = rows) -> Tokens:
                return scorer.tokens(rows[start:stop])

            times = []
            for _ in range(TIMED):
                start = time.perf_counter()
                scorer.reranker.rank(state, fetch, bucket)
                times.append(time.perf_counter() - start)
            found[bucket] = 1000 * statistics.median(times) / bucket
        return found

    def _once(
        self, way: Way, scorer: RuntimeScorer | None = None, query: int = 0
    ) -> Callable[[], object]:
        """Return what re-ranks a query once, by the way's own scorer unless said."""
        asks = scorer or self._judge.scorer(way)
        reference, text, rows, pruned = next(islice(self._judge.questions(way), query, None))
        places = _repeated(rows, self._settings.candidates)
        rows, pruned = rows[:, places], pruned[:, places]
        return lambda: asks.score(reference, text, rows, pruned)


def _duel(before: Callable[[], object], after: Callable[[], object]) -> Duel:
    """Race for as many runs as the budget allows: some re-rankers take seconds."""
    start = time.perf_counter()
    before()
    after()
    pair_s = time.perf_counter() - start
    runs = int(np.clip(BUDGET_S / pair_s, FEWEST, RUNS))
    return duel(before, after, runs=runs, warmups=min(10, runs // FEWEST))


def _repeated(candidates: np.ndarray, count: int) -> np.ndarray:
    """Return `count` places of (1, candidates), from the first again where they do not suffice."""
    return np.arange(count) % candidates.shape[1]
