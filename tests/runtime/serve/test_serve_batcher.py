"""The queue before the engines, with engines that the tests hold still."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from cir_rt.errors import TextError
from cir_rt.results import Hits
from cir_rt.serve.batcher import Batcher
from cir_rt.serve.problem import Problem
from cir_rt.serve.query import How, Query
from cir_rt.serve.settings import Batching

USUAL = Batching(batch=4, queue=10, batch_ms=1e6, budget_ms=1e6)


class Engines:
    """Engines that answer when they are let, and remember what they were asked."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[list[str]] = []
        self.at_work = 0

    def answer(self, queries: Sequence[Query]) -> list[Hits]:
        self.at_work += 1
        assert self.at_work == 1  # never two batches at once
        texts = [str(query.text) for query in queries]
        self.asked.append(texts)
        assert self.go_on.wait(10)
        self.at_work -= 1
        if any("bad" in text for text in texts):
            raise TextError("bad")
        return [Hits(hits=(), weights=None, timing={}, empty_because=t) for t in texts]


def run(
    play: Callable[[Batcher, Engines], Coroutine[Any, Any, None]], settings: Batching = USUAL
) -> None:
    async def scene() -> None:
        engines = Engines()
        batcher = Batcher(engines.answer, settings)
        batcher.start()
        try:
            await play(batcher, engines)
        finally:
            engines.go_on.set()
            await batcher.stop()

    asyncio.run(scene())


def ask(batcher: Batcher, text: str, **how: Any) -> asyncio.Task[str]:
    due_s = how.pop("due_s", float("inf"))

    async def asked() -> str:
        with batcher.admission():
            hits, waited_ms = await batcher.ask(Query(text=text, how=How(**how), due_s=due_s))
        assert waited_ms >= 0
        return hits.empty_because

    return asyncio.ensure_future(asked())


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_what_waits_is_answered_together_and_each_gets_its_own() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        tasks = [ask(batcher, f"{n}") for n in range(8)]
        await settle()
        assert (engines.asked, batcher.depth, batcher.admitted) == ([["0", "1", "2", "3"]], 4, 8)
        engines.go_on.set()
        assert await asyncio.gather(*tasks) == [f"{n}" for n in range(8)]
        assert engines.asked[1:] == [["4", "5", "6", "7"]]
        assert (batcher.depth, batcher.admitted) == (0, 0)

    run(play)


def test_only_searches_of_one_kind_share_a_batch_and_the_oldest_goes_first() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        later = time.perf_counter() + 100
        tasks = [ask(batcher, "first")]
        await settle()
        tasks += [ask(batcher, "b", k=5), ask(batcher, "c"), ask(batcher, "d", k=5)]
        tasks += [ask(batcher, "e", k=5, due_s=later), ask(batcher, "f")]
        await settle()
        engines.go_on.set()
        await asyncio.gather(*tasks)
        assert engines.asked == [["first"], ["b", "d"], ["c", "f"], ["e"]]

    run(play)


def test_one_that_fails_harms_no_other() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        tasks = [ask(batcher, text) for text in ("a", "bad", "c")]
        engines.go_on.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert (answers[0], answers[2]) == ("a", "c")
        assert isinstance(answers[1], TextError)

    run(play)


def test_a_cancelled_search_leaves_the_queue() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        running = ask(batcher, "running")
        await settle()
        waiting, last = ask(batcher, "waiting"), ask(batcher, "last")
        await settle()
        waiting.cancel()
        running.cancel()
        await settle()
        assert (batcher.depth, batcher.admitted) == (1, 1)
        engines.go_on.set()
        assert await last == "last"
        assert engines.asked == [["running"], ["last"]]

    run(play)


def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        tasks = [ask(batcher, f"{n}") for n in range(USUAL.queue)]
        await settle()
        with pytest.raises(Problem, match="10 searches are waiting") as refused:
            await ask(batcher, "one too many")
        assert refused.value.status == 503
        assert refused.value.headers == {"Retry-After": "1"}
        engines.go_on.set()
        await asyncio.gather(*tasks)
        assert await ask(batcher, "now") == "now"

    run(play)


def test_none_is_accepted_that_would_wait_too_long() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        first = ask(batcher, "first")
        await asyncio.sleep(0.1)  # what a search takes here
        engines.go_on.set()
        await first
        engines.go_on.clear()
        tasks = [ask(batcher, f"{n}") for n in range(3)]  # for about 0.3 s
        await settle()
        with pytest.raises(Problem, match="3 searches are waiting"):
            await ask(batcher, "late")
        engines.go_on.set()
        await asyncio.gather(*tasks)

    run(play, Batching(batch=4, queue=10, budget_ms=250))


def test_a_search_whose_turn_does_not_come_is_told_so() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        first = ask(batcher, "first")
        await settle()
        with pytest.raises(Problem, match="did not come in time"):  # the engines stand still
            await ask(batcher, "late")
        assert (batcher.depth, batcher.admitted) == (0, 1)
        engines.go_on.set()
        assert await first == "first"
        assert engines.asked == [["first"]]

    run(play, Batching(batch=4, queue=10, budget_ms=50))


def test_a_batch_is_as_large_as_fits_into_its_time() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        first = ask(batcher, "first")
        await asyncio.sleep(0.1)
        engines.go_on.set()
        await first
        await asyncio.gather(*(ask(batcher, f"{n}") for n in range(8)))
        assert engines.asked[1] == ["0"]  # at 0.1 s each, one alone
        await asyncio.gather(*(ask(batcher, f"{n}") for n in range(4)))
        assert engines.asked[-1] == ["0", "1", "2", "3"]  # it is known to be faster by then

    run(play, Batching(batch=4, queue=10, batch_ms=150, budget_ms=1e6))


def test_stopping_finishes_what_was_accepted() -> None:
    async def play(batcher: Batcher, engines: Engines) -> None:
        tasks = [ask(batcher, f"{n}") for n in range(6)]
        await settle()
        stopping = asyncio.ensure_future(batcher.stop())
        await settle()
        with pytest.raises(Problem):
            await ask(batcher, "too late")
        engines.go_on.set()
        assert await asyncio.gather(*tasks) == [f"{n}" for n in range(6)]
        await stopping

    run(play)
