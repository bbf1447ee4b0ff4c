"""The gallery's indexes at 10,000, 100,000 and a million rows: time, recall, memory, disk.

    python benchmarks/gallery.py --data photos/ --bundle photos.cir --record

Vectors are the bundle's on augmented photos of DATA (augmented.py); they, the galleries and the
indexes are kept in --scratch, so that a run that broke off goes on, and a second one only measures.
Each index is built and measured in processes of its own, one after the other. Recall is that of
the best 50 against scoring every row in one batch; a filter keeps rows at random.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import augmented
import click
import numpy as np
from one_index import K, keeps
from recording import RESULTS, keep

from cir_rt.errors import BackendMissing
from cir_rt.gallery import ExactIndex, Gallery, Item
from cir_rt.gallery.index import KINDS
from cir_rt.machine import environment, versions
from cir_rt.report import table

HERE = Path(__file__).resolve().parent
FOLDER = click.Path(path_type=Path, file_okay=False)
FILTERS = ("keep 50%", "keep 5%", "keep 0.5%")


@click.command()
@click.option("--sizes", default="10000,100000,1000000", show_default=True)
@click.option("--kinds", default="exact,hnsw,faiss,faiss-fp16", show_default=True)
@click.option("--data", type=FOLDER, default=None, help="A dataset with the splits train and val.")
@click.option("--bundle", type=FOLDER, default=None, help="Whose vectors they are.")
@click.option("--scratch", type=FOLDER, default=Path("/tmp/cir-rt-gallery"), show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--runs", default=300, show_default=True, help="Single queries that are timed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result only.")
@click.option("--record", is_flag=True, help="Write result and plot under benchmarks/results/ too.")
def main(
    sizes: str,
    kinds: str,
    data: Path | None,
    bundle: Path | None,
    scratch: Path,
    threads: int,
    runs: int,
    as_json: bool,
    record: bool,
) -> None:
    """Measure the indexes on this machine."""
    wanted, names = [int(n) for n in sizes.split(",")], kinds.split(",")
    unknown = set(names) - set(KINDS)
    if unknown:
        raise click.UsageError(f"no index {', '.join(unknown)}. Expected: {', '.join(KINDS)}.")
    if data and bundle:
        augmented.make(data, bundle, scratch / "vectors", max(wanted), threads)
    elif not (scratch / "vectors" / "queries.npy").exists():
        raise click.UsageError(f"{scratch}: holds no vectors. Give --data DIR and --bundle BUNDLE.")
    measured: dict[str, Any] = {}
    for size in wanted:
        folder = scratch / str(size)
        fill(folder / "gallery", scratch / "vectors", size)
        find_truth(folder, scratch / "vectors")
        measured[str(size)] = {}
        for kind in names:
            built = {} if kind == "exact" else _apart("build", folder, kind, threads, runs)
            found = built | _apart("measure", folder, kind, threads, runs)
            measured[str(size)][kind] = found
            if not as_json:
                click.echo(f"{size:>9,}  {kind:11} {_line(found)}", err=True)
    result = {
        "sizes": measured,
        "k": K,
        "threads": threads,
        "runs": runs,
        "environment": environment() | {"libraries": versions("hnswlib", "faiss-cpu", "numpy")},
    }
    if record:
        keep("gallery", result)
        growth_plot(measured, RESULTS / "gallery.png")
    click.echo(json.dumps(result) if as_json else summary(measured))


def fill(folder: Path, vectors: Path, size: int) -> None:
    """Make the gallery of the first `size` vectors, a block at a time, or go on with it."""
    dim = augmented.block(vectors, 0).shape[1]
    with Gallery.open_writer(folder, fingerprint="benchmark", dim=dim) as gallery:
        while (start := len(gallery)) < size:
            block = augmented.block(vectors, start // augmented.BLOCK_ROWS)[: size - start]
            gallery.add(
                [
                    Item(
                        id=f"picture-{row:07d}",
                        vector=vector,
                        thumbnail=b"\xff\xd8",
                        source_hash=f"{row:064x}",
                    )
                    for row, vector in enumerate(block, start)
                ]
            )


def find_truth(folder: Path, vectors: Path) -> None:
    """Write the queries and their best rows, without and with each filter, by scoring every row."""
    if (folder / "truth.npz").exists():
        return
    queries = np.load(vectors / "queries.npy")
    with Gallery.open(folder / "gallery") as gallery:
        index = ExactIndex(gallery.vectors)
        found = {"all": index.search(queries, K)[0]}
        for name in FILTERS:
            found[name] = index.search(queries, K, keeps(len(gallery), name))[0]
    np.savez(folder / "partial.npz", queries=queries, **found)
    (folder / "partial.npz").replace(folder / "truth.npz")


def _apart(work: str, folder: Path, kind: str, threads: int, runs: int) -> dict[str, Any]:
    """Run one_index.py and return what it prints."""
    options = ["--threads", str(threads), "--runs", str(runs)]
    command = [sys.executable, str(HERE / "one_index.py"), work, str(folder), kind, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _line(found: Mapping[str, Any]) -> str:
    shown = ("p50_ms", "recall", "rss_mb", "disk_mb", "open_s", "build_s")
    return ", ".join(f"{name} {found[name]}" for name in shown if name in found)


def summary(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table with a row for each index of each size; recall in percent."""
    columns = ("p50_ms", "p99_ms", "rss_mb", "disk_mb", "open_s", "build_s")
    rows: list[Sequence[Any]] = []
    for size, kinds in measured.items():
        for kind, found in kinds.items():
            recalls = [100 * f["recall"] for f in (found, *found["filtered"].values())]
            times = [f["p50_ms"] for f in found["filtered"].values()]
            rows.append([int(size), kind, *map(found.get, columns), *recalls, *times])
    header = ["rows", "index", *columns, "recall"]
    header += [f"{name} {what}" for what in ("recall", "ms") for name in FILTERS]
    return table(header, rows)


def growth_plot(measured: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw time, memory and disk over the rows, a line for each index."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendMissing(
            "matplotlib is not installed. Install it:  pip install 'cir-rt[plots]'"
        ) from error
    panels = {
        "p50_ms": "one query, median ms",
        "rss_mb": "memory, MB",
        "disk_mb": "vectors and index on disk, MB",
    }
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    kinds = list(dict.fromkeys(kind for found in measured.values() for kind in found))
    for axes, (field, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for kind in kinds:
            points = [
                (int(n), found[kind][field]) for n, found in measured.items() if kind in found
            ]
            axes.plot(*zip(*points, strict=True), marker="o", label=kind)
        axes.set(xscale="log", yscale="log", xlabel="rows")
        axes.set_title(label, fontsize=10)
        axes.grid(True, alpha=0.3)
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
