"""Whether the stages of hits.timing account for the milliseconds that a caller waits.

    python benchmarks/accounted.py shoes.cir shoes.gallery --record

The caller's own clock stands around each call, with a picture's file and a sentence and with an id
and a sentence. The stages' share of it is told as the median and the 1st percentile of the calls;
the exit code is 1 where a median lacks more than 3 %.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from recording import keep

from cir_rt import Retriever
from cir_rt.gallery import Gallery
from cir_rt.machine import environment
from cir_rt.profile.questions import Question, drawn
from cir_rt.report import table

LIMIT = 0.03  # of the caller's time, that no stage may own up to
WARM_UP = 20
FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("gallery", type=FOLDER)
@click.option("--reference", default="picture,id", show_default=True)
@click.option("--rerank", default="0,50", show_default=True)
@click.option("--runs", default=200, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result only.")
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    bundle: Path,
    gallery: Path,
    reference: str,
    rerank: str,
    runs: int,
    threads: int,
    as_json: bool,
    record: bool,
) -> None:
    """Compare BUNDLE's own timing on GALLERY with the caller's."""
    rows = []
    with Retriever.open(bundle, gallery, threads=threads) as retriever:
        for kind, k in product(reference.split(","), map(int, rerank.split(","))):
            with Gallery.open(gallery) as opened:
                rng = np.random.default_rng(0)
                questions = drawn(opened, rng, reference=kind, count=WARM_UP + runs)
            rows.append({"reference": kind, "rerank": k, **shares(retriever, questions, k)})
    if record:
        keep("accounted", {"results": rows, "limit": LIMIT, "environment": environment()})
    lines = [list(row.values()) for row in rows]
    click.echo(json.dumps(rows) if as_json else table(list(rows[0]), lines))
    sys.exit(any(row["share_p50"] < 1 - LIMIT for row in rows))


def shares(retriever: Retriever, questions: list[Question], rerank: int) -> dict[str, Any]:
    """Ask every question; return how much of the caller's time the stages sum to."""
    waited, told = [], []
    for question in questions:
        start = time.perf_counter()
        hits = retriever.search(question.image, question.text, rerank=rerank)
        waited.append(1000 * (time.perf_counter() - start))
        told.append(sum(ms for stage, ms in hits.timing.items() if stage != "total"))
    ms = np.asarray(waited[WARM_UP:])
    share = np.asarray(told[WARM_UP:]) / ms
    return {
        "runs": len(ms),
        "waited_p50_ms": round(float(np.median(ms)), 3),
        "share_p50": round(float(np.median(share)), 4),
        "share_p1": round(float(np.percentile(share, 1)), 4),
    }


if __name__ == "__main__":
    main()
