"""What is a regression and what is noise, by made profiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_report import report

from cir_rt.errors import GateError, UsageError
from cir_rt.profile.comparison import Compared, check, compare, read_report


def only(found: list[Compared], figure: str) -> Compared:
    (one,) = [c for c in found if c.figure == figure]
    return one


def test_a_profile_is_no_worse_than_itself() -> None:
    found = compare(report(), report())
    assert [c.figure for c in found] == ["p50_ms", "p90_ms", "R@1", "R@10", "R@50"]
    assert not any(c.regressed for c in found)
    assert all(c.worse == 0 for c in found)
    check(found)


# 3 % for the process, 1 % and 1 % for the noise of both medians: 5 % are allowed
@pytest.mark.parametrize(("now", "regressed"), [(10.4, False), (10.49, False), (10.51, True)])
def test_a_median_may_rise_by_the_noise_of_both(now: float, regressed: bool) -> None:
    found = compare(report(), report({"total": {"p50_ms": now}}))
    assert only(found, "p50_ms").regressed is regressed
    assert only(found, "p50_ms").allowed == pytest.approx(0.05)
    noisy = compare(report({"noise": {"p50_ms": 0.5}}), report({"total": {"p50_ms": now}}))
    assert not only(noisy, "p50_ms").regressed
    noisy = compare(report(), report({"total": {"p50_ms": now}, "noise": {"p50_ms": 0.5}}))
    assert not only(noisy, "p50_ms").regressed


def test_what_the_machine_itself_slowed_down_by_is_not_held_against_the_code() -> None:
    slower = {"total": {"p50_ms": 11.5, "p90_ms": 13.8}}
    assert only(compare(report(), report(slower)), "p50_ms").regressed
    found = compare(report(), report(slower, noise={"spin_ms": 0.6}))
    assert only(found, "p50_ms").allowed == pytest.approx(0.25)
    assert not any(c.regressed for c in found)


def test_faster_is_no_regression() -> None:
    found = compare(report(), report({"total": {"p50_ms": 5.0}, "recall": {"R@1": 99.0}}))
    assert not any(c.regressed for c in found)
    assert only(found, "p50_ms").worse == pytest.approx(-0.5)


@pytest.mark.parametrize(("figure", "scenario"), [("qps", "offline"), ("rate_qps", "server")])
@pytest.mark.parametrize(("now", "regressed"), [(97.0, False), (110.0, False), (90.0, True)])
def test_of_rates_more_is_better(figure: str, scenario: str, now: float, regressed: bool) -> None:
    def side(value: float) -> dict[str, Any]:
        own = {figure: value, "metric": {"name": figure}, "noise": {figure: 0.02}}
        return report(own, scenario=scenario)

    found = compare(side(100.0), side(now))
    assert only(found, figure).regressed is regressed
    assert [c.figure for c in found if not c.figure.startswith("R@")] == [figure]


def test_recall_may_fall_by_half_a_point() -> None:
    for now, regressed in ((59.5, False), (59.4, True)):
        found = compare(report(), report({"recall": {"R@10": now}}))
        assert only(found, "R@10").regressed is regressed
    without = compare(report({"recall": None}), report())
    assert [c.figure for c in without] == ["p50_ms", "p90_ms"]


def test_too_few_runs_are_not_judged() -> None:
    few = merged_noise = report({"total": {"p50_ms": 99.0, "p90_ms": 99.0}})
    few["results"][0]["noise"] = {}
    found = compare(report(), merged_noise)
    assert (only(found, "p50_ms").worse, only(found, "p50_ms").allowed) == (None, None)
    check(found)


def test_a_rate_that_was_not_found_is_not_compared() -> None:
    lost = {"rate_qps": None, "metric": {"name": "rate_qps"}, "noise": {}, "recall": None}
    assert compare(report(lost, scenario="server"), report(lost, scenario="server")) == []


def test_results_are_paired_by_what_was_asked() -> None:
    old = report({}, {"batch": 8, "total": {"p50_ms": 40.0}}, {"rerank": 50})
    new = report({"batch": 8, "total": {"p50_ms": 60.0}}, {"rerank": 100}, {"gallery": 7})
    found = compare(old, new)
    assert {(c.batch, c.rerank) for c in found} == {(8, 0)}
    with pytest.raises(GateError, match=r"p50_ms at batch 8, rerank 0: 60, was 40"):
        check(found)
    with pytest.raises(UsageError, match="share no result"):
        compare(report(), report({"batch": 8}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scenario": "offline"}, "scenario single-stream, this one offline"),
        ({"environment": {"cores": 16}}, "cores 2, this one 16"),
        ({"environment": {"device": "cuda:0"}}, "device"),
        ({"settings": {"threads": 1}}, "threads 2, this one 1"),
        ({"settings": {"queries": "fashioniq val"}}, "queries"),
    ],
)
def test_other_questions_and_other_machines_are_not_compared(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        compare(report(), report(**changes))


def test_only_what_was_measured_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report()))
    assert read_report(path) == report()
    for text in ("{}", "[1]", "no", '{"results": []}', "3"):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"old\.json"):
            read_report(path)
    with pytest.raises(UsageError, match="not readable"):
        read_report(tmp_path / "missing.json")
