"""What a search returns, and the clock that its timing comes from."""

from __future__ import annotations

import json
import time

import pytest

from cir_rt.results import Hit, Hits, Stopwatch, Weights


def some(count: int) -> Hits:
    hits = [
        Hit(id=f"a/{k}", score=1 / (k + 1), prune_score=0.5, rank=k + 1, metadata={"n": k})
        for k in range(count)
    ]
    return Hits(hits=tuple(hits), weights=Weights(image=0.25, text=0.75), timing={"total": 2.0})


def test_hits_are_a_sequence() -> None:
    hits = some(3)
    assert len(hits) == 3
    assert [h.rank for h in hits] == [1, 2, 3]
    assert hits[0].id == "a/0"
    assert hits[-1] == hits.hits[2]
    assert [h.id for h in hits[1:]] == ["a/1", "a/2"]
    assert hits[1] in hits
    assert not some(0)


def test_json_has_every_field() -> None:
    values = json.loads(json.dumps(some(1).to_json()))
    hit = {"id": "a/0", "score": 1.0, "prune_score": 0.5, "rank": 1, "metadata": {"n": 0}}
    assert values == {
        "hits": [hit],
        "weights": {"image": 0.25, "text": 0.75},
        "reranked": 0,
        "complete": True,
        "timing_ms": {"total": 2.0},
    }
    assert Hits(hits=(), weights=None, timing={}).to_json()["weights"] is None


def test_laps_sum_to_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5, 10.75, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    clock = Stopwatch()
    for stage in ("image", "text", "image"):
        clock.lap(stage)
    assert clock.timing() == {"image": 1750.0, "text": 250.0, "total": 2000.0}


def test_real_laps_leave_no_gap() -> None:
    clock = Stopwatch()
    for k in range(50):
        sum(range(1000))
        clock.lap(f"stage {k % 5}")
    timing = clock.timing()
    total = timing.pop("total")
    assert len(timing) == 5
    assert min(timing.values()) > 0
    assert sum(timing.values()) == pytest.approx(total, abs=1e-6)


def test_a_deadline_is_counted_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.3, 10.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    due = Stopwatch().deadline(400)
    assert due.left_ms == pytest.approx(100)
    assert due.left_ms == pytest.approx(-100)


def test_no_lap_is_no_time() -> None:
    assert Stopwatch().timing() == {"total": 0.0}
