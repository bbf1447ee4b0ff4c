"""A profile as Markdown and as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from made_report import RESULT, report
from PIL import Image

from cir_rt.errors import BackendMissing
from cir_rt.profile.comparison import compare
from cir_rt.profile.page import compared_page, page
from cir_rt.profile.plots import draw


def rows(text: str, first: str) -> list[list[str]]:
    """Return the cells of the table whose header holds a word, line by line."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|") and first in line)
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_a_page_holds_results_and_stages() -> None:
    text = page(report({}, {"batch": 8, "recall": None}))
    header, rule, first, second = rows(text, "peak MB")
    assert set("".join(rule)) == set("-:")
    found = dict(zip(header, first, strict=True))
    assert (found["p50 ms"], found["p99 ms"], found["queries/s"]) == ("10.00", "15.00", "95.00")
    assert (found["R@10"], found["J/query"], found["CV"]) == ("60.00", "-", "15.0%")
    assert dict(zip(header, second, strict=True))["R@10"] == "-"
    stages = rows(text, "share")
    assert [row[2] for row in stages[2:]] == ["image", "prune", "unaccounted"] * 2
    assert stages[2][-1] == "57.1%"  # 6 of 10.5 milliseconds
    assert "rerank 50 was left out: the bundle has no re-ranker." in text
    assert "no energy_j_per_query: no rails." in text
    assert "Do not quote" not in text


def test_a_warning_and_a_rate_are_shown() -> None:
    noise = {"warnings": ["the load average was 2.50"]}
    own = {"rate_qps": None, "goodput_qps": 3.0, "in_time": 0.98, "bound_ms": 20.0}
    text = page(report(own, scenario="server", noise=noise))
    assert "**Do not quote these figures:** the load average was 2.50" in text
    assert rows(text, "goodput")[2] == ["1", "0", "-", "3.00", "98.0%", "20.00"]


def test_a_comparison_is_a_table() -> None:
    few = report({"total": {"p50_ms": 20.0}})
    del few["results"][0]["noise"]["p90_ms"]
    found = rows(compared_page(compare(report(), few)), "verdict")
    assert found[2][2:] == ["p50_ms", "10.00", "20.00", "100.0%", "5.0%", "REGRESSED"]
    assert found[3][-1] == "not judged: too few runs"
    assert found[4][-1] == "holds"


@pytest.mark.parametrize("recall", [RESULT["recall"], None])
def test_the_plots_are_a_picture(tmp_path: Path, recall: object) -> None:
    pytest.importorskip("matplotlib")
    made = report({"recall": recall}, {"batch": 8, "rerank": 50, "recall": recall})
    draw(made, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.format == "PNG"
        assert plot.width == (130 * (15 if recall else 10))
        assert len(plot.convert("RGB").getcolors(1 << 20) or ()) > 10


def test_a_missing_plot_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendMissing, match=r"cir-rt\[plots\]"):
        draw(report(), tmp_path / "plot.png")
