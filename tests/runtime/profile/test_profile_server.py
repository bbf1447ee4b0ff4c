"""Arrivals, a queue and a search for its highest rate, against what theory and brute force say."""

from __future__ import annotations

import numpy as np
import pytest
from stub_clock import Clock, questions, takes

from cir_rt.profile.scenarios import Run
from cir_rt.profile.server import IN_TIME, goodput_qps, highest_rate, in_time, poisson, serve


def run_of(latency_ms: list[float], elapsed_s: float) -> Run:
    return Run(
        latency_ms=np.array(latency_ms), stages={}, elapsed_s=elapsed_s, queries=len(latency_ms)
    )


def test_arrivals_are_a_poisson_process() -> None:
    rate, count = 40.0, 20_000
    arrivals = poisson(rate, count, np.random.default_rng(7))
    gaps = np.diff(arrivals, prepend=0.0)
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / rate, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03)  # exponential
    below = np.arange(1, count + 1) / count
    strayed = np.abs(np.sort(1 - np.exp(-rate * gaps)) - below).max()
    assert strayed < 1.63 / np.sqrt(count)  # Kolmogorov and Smirnov, at 1 %
    neighbours = np.corrcoef(gaps[:-1], gaps[1:])[0, 1]
    assert abs(neighbours) < 3 / np.sqrt(count)  # without memory
    counts = np.histogram(arrivals, np.arange(0, arrivals[-1], 0.5))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.15)
    assert counts.mean() == pytest.approx(rate / 2, rel=0.03)


def test_arrivals_are_the_seeds() -> None:
    first, again, other = (poisson(3.0, 9, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(poisson(30.0, 9, np.random.default_rng(1)), first / 10)


@pytest.mark.parametrize("rate", [20.0, 90.0, 150.0])
def test_queries_wait_in_line(rate: float) -> None:
    arrivals, clock = poisson(rate, 300, np.random.default_rng(0)), Clock()
    clock.now = 1000.0  # a clock's zero means nothing
    run = serve(
        takes(clock, lambda n: 0.010), questions(7), arrivals, clock=clock, sleep=clock.sleep
    )
    done, expected, waited = 0.0, [], []
    for arrival in arrivals:  # Lindley's recursion
        begun = max(arrival, done)
        done = begun + 0.010
        expected.append(1000 * (done - arrival))
        waited.append(1000 * (begun - arrival))
    np.testing.assert_allclose(run.latency_ms, expected, atol=1e-6)
    np.testing.assert_allclose(run.stages["waiting"], waited, atol=1e-6)
    np.testing.assert_allclose(run.unaccounted_ms, 1.0, atol=1e-6)
    assert run.elapsed_s == pytest.approx(done)
    assert run.queries == 300


def test_those_that_wait_share_a_call() -> None:
    clock, seen = Clock(), []
    arrivals = np.array([0.001, 0.002, 0.003, 0.004, 0.005, 0.5])
    ask = takes(clock, lambda n: 0.010, seen)
    run = serve(ask, questions(9), arrivals, batch=3, clock=clock, sleep=clock.sleep)
    assert seen == [["0"], ["1", "2", "3"], ["4"], ["5"]]
    np.testing.assert_allclose(run.latency_ms, [10, 19, 18, 17, 26, 10], atol=1e-9)


def test_a_sleep_that_ends_early_is_slept_again() -> None:
    clock = Clock()
    run = serve(
        takes(clock, lambda n: 0.010),
        questions(1),
        np.array([1.0]),
        clock=clock,
        sleep=lambda seconds: clock.sleep(max(seconds / 2, 1e-6)),
    )
    assert run.latency_ms[0] == pytest.approx(10, abs=0.01)
    assert run.stages["waiting"][0] >= 0


def test_a_late_answer_is_a_bad_one() -> None:
    run = run_of([10.0, 50.0, 50.1, 900.0], 2.0)
    assert in_time(run, 50.0) == 0.5
    assert goodput_qps(run, 50.0) == 1.0  # two of four in two seconds
    assert run.qps == 2.0
    assert goodput_qps(run, 1.0) == 0.0


def queue(service_s: float, bound_ms: float, batch: int = 1) -> tuple[float | None, list[float]]:
    """Search the rate of a server whose calls all take as long, whatever their size."""
    rates = []

    def try_rate(rate: float, attempt: int) -> Run:
        rates.append(rate)
        clock = Clock()
        arrivals = poisson(rate, 2000, np.random.default_rng([0, attempt]))
        ask = takes(clock, lambda n: service_s)
        return serve(ask, questions(1), arrivals, batch=batch, clock=clock, sleep=clock.sleep)

    search = highest_rate(try_rate, batch / service_s, bound_ms)
    assert [t.rate_qps for t in search.tried] == rates
    if search.rate_qps is not None:
        assert in_time(search.run, bound_ms) >= IN_TIME
        assert rates[-2:] == [search.rate_qps] * 2  # confirmed by further arrivals
    return search.rate_qps, rates


def test_the_highest_rate_is_what_theory_says() -> None:
    """A query waits longer than t with about exp(-2 (1 - load) t / service): M/D/1, heavy load."""
    found, _ = queue(0.010, 100.0)
    assert found is not None
    load = found * 0.010
    assert load == pytest.approx(1 + np.log(0.01) / (2 * 9), abs=0.08)


def test_more_time_allows_a_higher_rate_but_none_above_the_limit() -> None:
    rates = [queue(0.010, bound)[0] for bound in (20.0, 60.0, 200.0, 1e6)]
    assert all(rate is not None for rate in rates)
    assert rates == sorted(rates)
    assert rates[-1] == 100.0
    batched, _ = queue(0.010, 60.0, batch=4)
    assert batched > 2 * rates[1]


def test_where_no_rate_holds_there_is_none() -> None:
    found, rates = queue(0.010, 9.0)
    assert found is None
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(100 / 64)


def test_a_rate_that_held_by_luck_is_lowered() -> None:
    def try_rate(rate: float, attempt: int) -> Run:
        good = rate <= (50.0 if attempt == 0 else 40.0)
        return run_of([1.0 if good else 99.0] * 5, 1.0)

    search = highest_rate(try_rate, 64.0, 10.0)
    assert search.rate_qps is not None
    assert 0.95 * 40 <= search.rate_qps <= 40
    assert max(t.rate_qps for t in search.tried if t.in_time == 1.0) == 50.0
    assert search.step_qps == 1.0
