"""`cir-rt profile`: its object, its page, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import THREADS, json_of, refused, run
from made_report import report

from cir_rt import machine
from cir_rt.profile import report as reports

SHORT = ("--runs=6", "--warmup=1", "--processes=0", THREADS)


def test_the_object_and_the_page(bundle: Path, gallery: Path) -> None:
    values = json_of(run("profile", bundle, gallery, "-b", "1,4", *SHORT, "--json"))
    assert values["scenario"] == "single-stream"
    assert [r["batch"] for r in values["results"]] == [1, 4]
    shown = run("profile", bundle, gallery, "--rerank=0,50", *SHORT)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("# single-stream\n")
    assert "rerank 50 was left out" in shown.stdout


def test_a_datasets_queries_have_recall(bundle: Path, gallery: Path, garments: Path) -> None:
    asked = ("profile", bundle, gallery, "--queries", garments, *SHORT, "--json")
    values = json_of(run(*asked, "--reference=id"))
    assert values["settings"]["queries"] == "fashioniq val"
    assert set(values["results"][0]["recall"]) == {"R@1", "R@10", "R@50"}
    refused(run(*asked, "--split=test"), 1, "no split 'test'")
    refused(run("profile", bundle, "--queries", garments), 2, "Name GALLERY too")


def test_the_plots_are_written(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    json_of(run("profile", bundle, gallery, *SHORT, "--plot", tmp_path / "p.png", "--json"))
    assert (tmp_path / "p.png").stat().st_size > 1000
    refused(run("profile", bundle, gallery, "--plot", tmp_path / "p.txt"), 2, "ending in .png")


@pytest.mark.parametrize(("now", "code"), [(10.0, 0), (10.4, 0), (20.0, 1)])
def test_a_regression_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: float, code: int
) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(report()))
    found = report({"total": {"p50_ms": now}})
    monkeypatch.setattr(reports, "profile", lambda *_, **__: found)
    monkeypatch.setattr(machine, "environment", lambda: found["environment"])
    asked = ("profile", "shoes.cir", "shoes.gallery", "--threads=2", "--compare", old)
    result = run(*asked, "--json")
    assert result.exit_code == code
    values: dict[str, Any] = json.loads(result.stdout)
    verdicts = {c["figure"]: c["regressed"] for c in values["compared"]}
    assert verdicts == {"p50_ms": code == 1, "p90_ms": False} | dict.fromkeys(
        ("R@1", "R@10", "R@50"), False
    )
    assert ("p50_ms at batch 1, rerank 0: 20, was 10" in result.stderr) is (code == 1)
    page = run(*asked)
    assert page.exit_code == code
    assert "## Since the older profile" in page.stdout
    assert ("REGRESSED" in page.stdout) is (code == 1)


def test_other_questions_are_refused_before_they_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(report()))
    monkeypatch.setattr(reports, "profile", lambda *_, **__: pytest.fail("it was measured"))
    asked = ("profile", "shoes.cir", "shoes.gallery", "--compare", old, "-k", 3)
    monkeypatch.setattr(machine, "environment", lambda: report()["environment"])
    refused(run(*asked), 2, "k 10, this one 3")
    monkeypatch.setattr(machine, "environment", lambda: {"machine": "aarch64"})
    refused(run(*asked), 2, "machine x86_64, this one aarch64")


def test_wrong_usage_is_2(tmp_path: Path, bundle: Path) -> None:
    for option in ("-b=0", "-b=1,x", "--rerank=-1", "--scenario=x", "--bound-ms=0", "--runs=0"):
        refused(run("profile", bundle, *option.split("=")), 2, "Usage")
    broken = tmp_path / "old.json"
    broken.write_text("{}")
    refused(run("profile", bundle, "--compare", broken), 2, "not a profile")
    refused(run("profile", bundle, "--reference=id"), 2, "without a gallery")
    refused(run("profile", tmp_path), 1, "not a bundle")
