"""Searches that wait together and are answered together, within a budget of time.

    admitted ─ decoding ─► waiting ─ batch ─► running ─► answered

A batch is what waits when the engines are free: one search where few come, more where many come,
and nobody waits for company. Nor does company pay where a search alone takes long, as one does that
is re-ranked: a batch is as large as is answered within `batch_ms`. One runs at a time, on a thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from cir_rt.results import Hits
from cir_rt.serve.problem import Problem
from cir_rt.serve.query import Query
from cir_rt.serve.settings import Batching

Outcome = Hits | Exception
Answer = Callable[[Sequence[Query]], Sequence[Hits]]

_SMOOTHING = 0.2  # weight of the newest batch in the seconds a search takes


@dataclass(kw_only=True, eq=False)
class _Waiting:
    """A search in the queue."""

    query: Query
    future: asyncio.Future[Hits]
    since_s: float = field(default_factory=time.perf_counter)
    waited_ms: float = 0.0


class Batcher:
    """The queue before the engines; belongs to one event loop."""

    def __init__(
        self, answer: Answer, settings: Batching, observe: Callable[[int], None] = lambda _: None
    ) -> None:
        """Take what answers queries of the same `how`, and what is told each batch's size."""
        self._answer = answer
        self._settings = settings
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._pace_s = 0.0  # of one search, smoothed
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None
        self.admitted = 0  # searches accepted and not answered yet

    @property
    def depth(self) -> int:
        """Searches that wait for the engines."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to answer; called in the event loop."""
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Accept nothing more, and return when what was accepted is answered."""
        self._stopping = True
        self._work.set()
        if self._loop is not None:
            await self._loop
        self._thread.shutdown()

    @contextmanager
    def admission(self) -> Iterator[None]:
        """Accept a search until the end of `with`.

        Raises Problem, with the seconds after which to try again, where as many are accepted as
        may be, or it would wait longer than the budget.
        """
        wait_s = self.admitted * self._pace_s
        budget_s = self._settings.budget_ms / 1000
        if self._stopping or self.admitted >= self._settings.queue or wait_s > budget_s:
            raise Problem(
                "busy",
                f"{self.admitted} searches are waiting. Try again later.",
                retry_after_s=max(1, math.ceil(wait_s)),
            )
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1
            if self._stopping:
                self._work.set()

    async def ask(self, query: Query) -> tuple[Hits, float]:
        """Return the answer and the milliseconds that the query waited.

        Called inside `admission`. Raises Problem where its turn does not come within the budget,
        and what answering raises. A query that is cancelled leaves the queue.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(query=query, future=loop.create_future())
        late = loop.call_later(self._settings.budget_ms / 1000, self._give_up, waiting)
        self._queue.append(waiting)
        self._work.set()
        try:
            return await waiting.future, waiting.waited_ms
        finally:
            late.cancel()
            if waiting in self._queue:
                self._queue.remove(waiting)

    def _give_up(self, waiting: _Waiting) -> None:
        """Refuse a search whose turn has not come."""
        if waiting in self._queue:
            self._queue.remove(waiting)
            refusal = Problem("busy", "Its turn did not come in time.", retry_after_s=1)
            _tell(waiting.future, refusal)

    async def _run(self) -> None:
        while True:
            if batch := self._next():
                await self._answered(batch)
            elif self._stopping and not self.admitted:
                return
            else:
                self._work.clear()
                await self._work.wait()

    async def _answered(self, batch: Sequence[_Waiting]) -> None:
        self._observe(len(batch))
        begun_s = time.perf_counter()
        for waiting in batch:
            waiting.waited_ms = 1000 * (begun_s - waiting.since_s)
        queries = [waiting.query for waiting in batch]
        loop = asyncio.get_running_loop()
        outcomes = await loop.run_in_executor(self._thread, self._outcomes, queries)
        self._note_pace((time.perf_counter() - begun_s) / len(batch))
        for waiting, outcome in zip(batch, outcomes, strict=True):
            _tell(waiting.future, outcome)

    def _next(self) -> list[_Waiting]:
        """Take the oldest search and those that may keep it company."""
        most = self._most_together()
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        for waiting in self._queue:
            if not batch or (len(batch) < most and waiting.query.company == batch[0].query.company):
                batch.append(waiting)
            else:
                rest.append(waiting)
        self._queue = rest
        return batch

    def _most_together(self) -> int:
        """Return how many searches fit into the time that one batch may take."""
        if not self._pace_s:
            return self._settings.batch
        return max(1, min(self._settings.batch, int(self._settings.batch_ms / 1000 / self._pace_s)))

    def _note_pace(self, seconds: float) -> None:
        old = self._pace_s or seconds
        self._pace_s = old + _SMOOTHING * (seconds - old)

    def _outcomes(self, queries: Sequence[Query]) -> list[Outcome]:
        """Answer a batch; where that fails, each on its own, so that one harms no other."""
        try:
            return list(self._answer(queries))
        except Exception as error:
            if len(queries) == 1:
                return [error]
        return [outcome for query in queries for outcome in self._outcomes([query])]


def _tell(future: asyncio.Future[Hits], outcome: Outcome) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
