"""A profile as people read it: Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cir_rt.profile.comparison import Compared

PERCENTS = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


def page(report: Mapping[str, Any]) -> str:
    """Return the report's tables: results, stages, and what to know before quoting them."""
    parts = [f"# {report['scenario']}", _machine(report), _results(report)]
    if report["scenario"] == "server":
        parts.append(_rates(report))
    parts += [_stages(report), _notes(report)]
    return "\n\n".join(part for part in parts if part)


def compared_page(compared: Sequence[Compared]) -> str:
    """Return what became of each figure since the older profile."""
    header = ["batch", "rerank", "figure", "old", "new", "worse by", "allowed", "verdict"]
    rows = []
    for c in compared:
        points = c.figure.startswith("R@")
        shown = [_points(v) if points else _share(v) for v in (c.worse, c.allowed)]
        verdict = "not judged: too few runs" if c.worse is None else "holds"
        rows.append(
            [
                *(c.batch, c.rerank, c.figure, _number(c.old), _number(c.new), *shown),
                "REGRESSED" if c.regressed else verdict,
            ]
        )
    return f"## Since the older profile\n\n{_table(header, rows)}"


def _machine(report: Mapping[str, Any]) -> str:
    there, asked = report["environment"], report["settings"]
    precisions = ", ".join(f"{role} {name}" for role, name in there["precisions"].items())
    threads = asked["threads"] or "all"
    return (
        f"{there['device']} of a {there['machine']} with {there['cores']} cores "
        f"({there['instruction_set']}), {threads} threads, {there['backend']}: {precisions}. "
        f"k = {asked['k']}; queries {asked['queries']}, references by {asked['reference']}."
    )


def _results(report: Mapping[str, Any]) -> str:
    recalls = [r["recall"] for r in report["results"] if r["recall"]]
    names = list(recalls[0]) if recalls else []
    header = [
        *("batch", "rerank", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "CV", "queries/s"),
        *names,
        *("first answer ms", "peak MB", "J/query"),
    ]
    rows = [
        [
            *(r["batch"], r["rerank"], *(_number(r["total"][p]) for p in PERCENTS)),
            *(_share(r["total"]["cv"]), _number(r["qps"])),
            *(_number((r["recall"] or {}).get(name)) for name in names),
            *(_number(r["cold_start_ms"]), _number(r["peak_rss_mb"])),
            _number(r["energy_j_per_query"]),
        ]
        for r in report["results"]
    ]
    return _table(header, rows)


def _rates(report: Mapping[str, Any]) -> str:
    header = ["batch", "rerank", "highest rate/s", "goodput/s", "in time", "bound ms"]
    rows = [
        [
            *(r["batch"], r["rerank"], _number(r["rate_qps"]), _number(r["goodput_qps"])),
            *(_share(r["in_time"]), _number(r["bound_ms"])),
        ]
        for r in report["results"]
    ]
    return _table(header, rows)


def _stages(report: Mapping[str, Any]) -> str:
    header = ["batch", "rerank", "stage", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "CV", "share"]
    rows = []
    for r in report["results"]:
        mean = r["total"]["mean_ms"]
        for name, values in {**r["stages"], "unaccounted": r["unaccounted"]}.items():
            rows.append(
                [
                    *(r["batch"], r["rerank"], name, *(_number(values[p]) for p in PERCENTS)),
                    *(_share(values["cv"]), _share(values["mean_ms"] / mean)),
                ]
            )
    return f"## Stages\n\n{_table(header, rows)}"


def _notes(report: Mapping[str, Any]) -> str:
    notes = [f"**Do not quote these figures:** {w}" for w in report["noise"]["warnings"]]
    notes += [f"rerank {s['rerank']} was left out: {s['reason']}" for s in report["skipped"]]
    notes += [f"no {name}: {reason}" for name, reason in report["unmeasured"].items()]
    return "\n".join(f"- {note}" for note in notes)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table, its columns aligned for those who read it as it stands."""
    lines = [list(header), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[c]) for line in lines) for c in range(len(header))]
    padded = [[cell.rjust(w) for cell, w in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * (w - 1) + ":" for w in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
