"""A profile as a picture: stages stacked, latency against candidates, recall against latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cir_rt.report import PICTURE_COLOUR, WORDS_COLOUR, new_figure

RECALL = "R@10"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the plots as one PNG; that of recall where it is known.

    Raises BackendMissing where matplotlib is not installed.
    """
    panels = [_stages, _latency]
    if any(result["recall"] for result in report["results"]):
        panels.append(_recall)
    figure = new_figure(5 * len(panels), 4)
    for panel, axis in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        panel(axis, report["results"])
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report['scenario']}, {report['environment']['device']}")
    figure.savefig(path, dpi=130)


def _stages(axis: Any, results: list[Mapping[str, Any]]) -> None:
    """Stack the means, which sum to the mean of all (medians do not)."""
    from matplotlib import colormaps

    axis.set_prop_cycle(color=colormaps["tab20"](range(20)))  # there are more stages than 10
    labels = [f"batch {r['batch']}, K {r['rerank']}" for r in results]
    names = dict.fromkeys(name for r in results for name in r["stages"])
    left = [0.0] * len(results)
    for name in [*names, "unaccounted"]:
        parts = [{**r["stages"], "unaccounted": r["unaccounted"]} for r in results]
        widths = [part[name]["mean_ms"] if name in part else 0.0 for part in parts]
        axis.barh(labels, widths, left=left, height=0.6, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set(xlabel="milliseconds a call (means)", title="Where the time goes")
    axis.legend(ncols=3, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)


def _latency(axis: Any, results: list[Mapping[str, Any]]) -> None:
    for batch in dict.fromkeys(r["batch"] for r in results):
        own = sorted((r for r in results if r["batch"] == batch), key=lambda r: r["rerank"])
        counts = [r["rerank"] for r in own]
        for name, style in (("p50_ms", "o-"), ("p99_ms", "v:")):
            values = [r["total"][name] for r in own]
            axis.plot(counts, values, style, label=f"batch {batch}, {name.removesuffix('_ms')}")
    axis.set(xlabel="candidates re-ranked (K)", ylabel="milliseconds", title="Latency against K")
    axis.set_xticks(sorted({r["rerank"] for r in results}))
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, frameon=False)


def _recall(axis: Any, results: list[Mapping[str, Any]]) -> None:
    known = [r for r in results if r["recall"]]
    smallest = min(r["batch"] for r in known)
    shown = sorted((r for r in known if r["batch"] == smallest), key=lambda r: r["rerank"])
    times = [r["total"]["p50_ms"] for r in shown]
    recalls = [r["recall"][RECALL] for r in shown]
    axis.plot(times, recalls, "-", color=PICTURE_COLOUR, linewidth=1)
    axis.plot(times, recalls, "o", color=WORDS_COLOUR)
    for r, time, recall in zip(shown, times, recalls, strict=True):
        axis.annotate(f"K {r['rerank']}", (time, recall), xytext=(5, 5), textcoords="offset points")
    axis.set(xlabel="milliseconds (median)", ylabel=f"{RECALL}, percent")
    axis.set_title(f"Recall against latency, batch {smallest}")
