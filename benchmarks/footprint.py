"""What a kiosk pays for one query: import, first answer after process start, steady state, memory.

    python benchmarks/footprint.py demo/garments.cir demo/garments.gallery --json

Each repetition is a fresh process. Import time is that of `import cir_rt` by `-X importtime`.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from recording import keep

from cir_rt.gallery import Gallery
from cir_rt.machine import environment
from cir_rt.report import percentile

FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)

# One process: open, answer a picture file with words, then again many times.
QUERY = """
import json, resource, sys, time
from cir_rt import Retriever
bundle, gallery, image, runs, threads = sys.argv[1:]
with Retriever.open(bundle, gallery, threads=int(threads)) as retriever:
    hits = retriever.search(image=image, text="the same but in red")
    print("answered", flush=True)
    totals = []
    for _ in range(int(runs)):
        start = time.perf_counter()
        hits = retriever.search(image=image, text="the same but in red")
        totals.append(1000 * (time.perf_counter() - start))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"totals": totals, "peak_rss_mb": peak}))
"""


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("gallery", type=FOLDER)
@click.option("--runs", default=500, show_default=True)
@click.option("--processes", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    bundle: Path,
    gallery: Path,
    runs: int,
    processes: int,
    threads: int,
    as_json: bool,
    record: bool,
) -> None:
    """Measure BUNDLE and GALLERY on this machine."""
    firsts, totals, peaks = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "query.jpg")
        with Gallery.open(gallery) as opened:
            image.write_bytes(opened.thumbnail(next(iter(opened.ids()))))
            size = len(opened)
        for _ in range(processes):
            first, steady = _one_process(bundle, gallery, image, runs, threads)
            firsts.append(first)
            totals += steady["totals"]
            peaks.append(steady["peak_rss_mb"])
    result = {
        "gallery": size,
        "threads": threads,
        "import_ms": round(statistics.median(_import_ms() for _ in range(processes)), 1),
        "first_answer_s": round(max(firsts), 3),
        "query_ms": {f"p{q}": round(percentile(totals, q), 3) for q in (50, 90, 99)},
        "runs": len(totals),
        "peak_rss_mb": round(max(peaks), 1),
        "environment": environment(),
    }
    if record:
        keep("footprint", result)
    click.echo(json.dumps(result, indent=None if as_json else 2))


def _one_process(
    bundle: Path, gallery: Path, image: Path, runs: int, threads: int
) -> tuple[float, dict]:
    """Return seconds from process start to the first answer, and the steady state."""
    arguments = [str(bundle), str(gallery), str(image), str(runs), str(threads)]
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", QUERY, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - start
        steady = json.loads(process.stdout.readline())
    return first, steady


def _import_ms() -> float:
    command = [sys.executable, "-X", "importtime", "-c", "import cir_rt"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    line = next(line for line in report.splitlines() if re.search(r"\| cir_rt$", line))
    return int(line.split("|")[1]) / 1000


if __name__ == "__main__":
    main()
