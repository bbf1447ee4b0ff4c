"""One index of one gallery, built or measured in a process of its own (see gallery.py).

    python benchmarks/one_index.py build SCRATCH/100000 hnsw --threads 2
    python benchmarks/one_index.py measure SCRATCH/100000 hnsw --threads 2 --runs 300

SCRATCH/100000 holds `gallery/` and `truth.npz`; what is built goes to SCRATCH/100000/hnsw/.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from cir_rt.gallery import Gallery
from cir_rt.gallery.current import CurrentIndex, save_index
from cir_rt.gallery.index import Rows
from cir_rt.percentile import percentile

K = 50
WARM_UP = 20


@dataclass(frozen=True)
class View:
    """A gallery whose indexes lie in a folder of their own, so that several kinds stand beside."""

    folder: Path
    segment: int
    vectors: Rows
    live: np.ndarray


def open_view(folder: Path, kind: str) -> View:
    """Open SIZE/gallery for the index in SIZE/KIND."""
    gallery = Gallery.open(folder / "gallery")
    (folder / kind).mkdir(exist_ok=True)
    return View(folder / kind, gallery.segment, gallery.vectors, gallery.live)


@click.command()
@click.argument("work", type=click.Choice(["build", "measure"]))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("kind")
@click.option("--threads", default=2, show_default=True)
@click.option("--runs", default=300, show_default=True)
def main(work: str, folder: Path, kind: str, threads: int, runs: int) -> None:
    """Print what was measured as one JSON line."""
    found = (
        build(folder, kind, threads) if work == "build" else measure(folder, kind, threads, runs)
    )
    click.echo(json.dumps(found))


def build(folder: Path, kind: str, threads: int) -> dict[str, Any]:
    """Build and save the index, but where it stands already: {build_s, build_peak_rss_mb}."""
    record = folder / kind / "build.json"
    view = open_view(folder, kind)
    if not (record.exists() and CurrentIndex(view, kind, threads=threads).kind == kind):
        start = time.perf_counter()
        save_index(view, kind, threads=threads, now=True)
        found = {
            "build_s": round(time.perf_counter() - start, 1),
            "build_peak_rss_mb": _status_mb("VmHWM"),
        }
        record.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(record.read_text(encoding="utf-8"))


def measure(folder: Path, kind: str, threads: int, runs: int) -> dict[str, Any]:
    """Open, ask `runs` single queries without a filter and with each one, and compare rows."""
    start = time.perf_counter()
    view = open_view(folder, kind)
    index = CurrentIndex(view, kind, threads=threads)
    opened = time.perf_counter() - start
    assert index.kind == kind, f"{index!r} answers, not {kind}"
    with np.load(folder / "truth.npz") as truth:
        queries, known = truth["queries"], {name: truth[name] for name in truth.files}
    index.search(queries[:1], K, view.live)
    first = time.perf_counter() - start
    plain = _asked(index, queries, view.live, known["all"], runs)
    memory = {"rss_mb": _status_mb("VmRSS"), "peak_rss_mb": _status_mb("VmHWM")}
    filtered = {}
    for name in (n for n in known if n.startswith("keep ")):
        mask = view.live & keeps(len(view.vectors), name)
        filtered[name.removeprefix("keep ")] = _asked(index, queries, mask, known[name], runs)
    files = [*(folder / "gallery" / "vectors").iterdir(), *(view.folder / "indexes").glob("*")]
    return {
        **plain,
        **memory,
        "open_s": round(opened, 3),
        "first_answer_s": round(first, 3),
        "disk_mb": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "filtered": filtered,
        "repr": repr(index),
    }


def keeps(rows: int, name: str) -> np.ndarray:
    """Return which rows a filter called "keep 5%" keeps: (rows,) bool, drawn at random."""
    share = float(name.removeprefix("keep ").removesuffix("%")) / 100
    return np.random.default_rng(int(1e4 * share)).random(rows) < share


def _asked(
    index: CurrentIndex, queries: np.ndarray, mask: np.ndarray, known: np.ndarray, runs: int
) -> dict[str, Any]:
    """Ask single queries and time them, then all that truth is known of: recall of K rows."""
    times = []
    for i in range(WARM_UP + runs):
        query = queries[i % len(queries)][None]
        start = time.perf_counter()
        index.search(query, K, mask)
        times.append(1000 * (time.perf_counter() - start))
    found = index.search(queries[: len(known)], K, mask)[0]
    shares = [np.isin(b, a).mean() for a, b in zip(found, known, strict=True)]
    return {
        **{f"p{q}_ms": round(percentile(times[WARM_UP:], q), 3) for q in (50, 90, 99)},
        "recall": round(float(np.mean(shares)), 4),
    }


def _status_mb(name: str) -> float:
    """Return a size of this process as Linux counts it: VmRSS now, VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise click.ClickException(f"/proc/self/status names no {name}. Run this on Linux.")


if __name__ == "__main__":
    main()
