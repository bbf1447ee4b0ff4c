"""Calls back to back, under a clock that is told how long each takes."""

from __future__ import annotations

import numpy as np
import pytest
from stub_clock import Clock, questions, takes

from cir_rt.profile.scenarios import back_to_back, stages_of


@pytest.mark.parametrize(("batch", "runs"), [(1, 7), (3, 5), (8, 2)])
def test_each_call_is_timed_and_every_question_has_its_turn(batch: int, runs: int) -> None:
    clock, seen = Clock(), []
    ask = takes(clock, lambda n: 0.010 * n, seen)
    run = back_to_back(ask, questions(4), batch=batch, runs=runs, clock=clock)
    assert [len(call) for call in seen] == [batch] * runs
    asked = [image for call in seen for image in call]
    assert asked == [str(i % 4) for i in range(batch * runs)]
    np.testing.assert_allclose(run.latency_ms, np.full(runs, 10.0 * batch))
    np.testing.assert_allclose(run.stages["image"], 6.0 * batch)
    np.testing.assert_allclose(run.stages["prune"], 3.0 * batch)
    np.testing.assert_allclose(run.unaccounted_ms, 1.0 * batch)
    assert run.queries == batch * runs
    assert run.elapsed_s == pytest.approx(0.010 * batch * runs)
    assert run.qps == pytest.approx(100)


def test_a_stage_that_did_not_take_part_took_no_time() -> None:
    found = stages_of([{"text": 1.0, "total": 1.0}, {"text": 2.0, "filter": 3.0, "total": 5.0}])
    assert {name: list(values) for name, values in found.items()} == {
        "text": [1.0, 2.0],
        "filter": [0.0, 3.0],
    }
