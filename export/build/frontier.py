"""The frontier of one build: what each way to run a role loses, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cir_rt.errors import BackendMissing


@dataclass(frozen=True, kw_only=True)
class Point:
    """One way to run one role, the others in FP32."""

    role: str
    way: str  # its recipe in a line
    ms: float  # of one input
    drop: float  # points of recall, or of agreement where nothing is labelled
    cosine: float  # mean, on the held-back inputs
    chosen: bool


def table(points: Sequence[Point]) -> str:
    """Return the frontier as a Markdown table, each role's fastest first."""
    rows = [
        "| role | way | ms | recall lost (points) | cosine | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for point in sorted(points, key=lambda p: (p.role, p.ms)):
        mark = "chosen" if point.chosen else ""
        rows.append(
            f"| {point.role} | {point.way} | {point.ms:.3f} | {point.drop:.2f} "
            f"| {point.cosine:.5f} | {mark} |"
        )
    return "\n".join(rows) + "\n"


def plot(points: Sequence[Point], path: Path, limit: float) -> None:
    """Draw recall lost against milliseconds, a panel a role. Raises BackendMissing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendMissing(
            "the frontier's plot needs matplotlib. Install it:  pip install 'cir-rt[plots]'"
        ) from error
    roles = sorted({point.role for point in points})
    figure = Figure(figsize=(5 * max(1, len(roles)), 4), layout="constrained")
    for k, role in enumerate(roles):
        axes = figure.add_subplot(1, len(roles), k + 1)
        own = sorted((p for p in points if p.role == role), key=lambda p: p.ms)
        axes.plot([p.ms for p in own], [p.drop for p in own], color="0.7", zorder=1)
        for point in own:
            axes.scatter(point.ms, point.drop, color="C1" if point.chosen else "C0", zorder=2)
            axes.annotate(point.way, (point.ms, point.drop), fontsize=7)
        axes.axhline(limit, color="C3", linewidth=0.8, linestyle="--")
        axes.set(title=role, xlabel="milliseconds of one input", ylabel="recall lost (points)")
        axes.set_xlim(left=0)
    figure.savefig(path, dpi=120)


def write(points: Sequence[Point], folder: Path, limit: float) -> None:
    """Write frontier.md and frontier.png into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frontier.md").write_text(table(points), encoding="utf-8")
    plot(points, folder / "frontier.png", limit)
