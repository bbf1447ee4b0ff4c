"""What a kiosk pays for one query: the first answer after process start, steady state, memory.

    python benchmarks/footprint.py demo/garments.cir demo/garments.gallery --json

Each repetition is a fresh process, which asks with a picture's file and a sentence.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from recording import keep

from cir_rt.gallery import Gallery
from cir_rt.machine import environment
from cir_rt.percentile import percentile
from cir_rt.profile.cold_start import cold_starts, medians
from cir_rt.profile.questions import drawn

FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("gallery", type=FOLDER)
@click.option("--runs", default=500, show_default=True)
@click.option("--processes", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rerank", type=int, help="Candidates re-ranked.  [default: as the bundle says]")
@click.option("--json", "as_json", is_flag=True)
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    bundle: Path,
    gallery: Path,
    runs: int,
    processes: int,
    threads: int,
    rerank: int | None,
    as_json: bool,
    record: bool,
) -> None:
    """Measure BUNDLE and GALLERY on this machine."""
    with Gallery.open(gallery) as opened:
        size = len(opened)
        (question,) = drawn(opened, np.random.default_rng(0), reference="picture", count=1)
    opening = {"bundle": str(bundle), "gallery": str(gallery), "threads": threads}
    search = {"rerank": rerank}
    starts = cold_starts(opening, question, search, processes=processes, runs=runs)
    totals = np.array([ms for start in starts for ms in start.steady_ms])
    parts = medians(starts)
    result = {
        "gallery": size,
        "threads": threads,
        "rerank": rerank,
        **{name: parts[name] for name in ("import_ms", "open_ms", "first_query_ms")},
        "first_answer_s": round(max(start.first_answer_ms for start in starts) / 1000, 3),
        "query_ms": {f"p{q}": round(percentile(totals, q), 3) for q in (50, 90, 99)},
        "runs": len(totals),
        "peak_rss_mb": max(start.peak_rss_mb for start in starts),
        "environment": environment(),
    }
    if record:
        keep("footprint", result)
    click.echo(json.dumps(result, indent=None if as_json else 2))


if __name__ == "__main__":
    main()
