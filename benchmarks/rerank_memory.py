"""What re-ranking costs in memory, with the tokens of 1,000, 10,000 and 100,000 pictures on disk.

    python benchmarks/rerank_memory.py --record

The shipped model is built with a re-ranker of random weights beside it, over 65 tokens of 768
numbers a picture. One gallery of random vectors and tokens grows from size to size: 5 GB at the
largest, under --scratch, removed at the end. Each number of candidates is asked for in a process of
its own, by ids from all over the gallery, first without re-ranking and then with.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from recording import keep

from cir_rt import Retriever
from cir_rt.bundle import open_bundle
from cir_rt.export import pretrained
from cir_rt.export.build import BuildOptions, build_engine
from cir_rt.export.checkpoint import ModelConfig, TowerSpec, open_checkpoint
from cir_rt.gallery import Gallery, Item
from cir_rt.gallery.facts import TokenFormat
from cir_rt.machine import environment
from cir_rt.preprocess import Preprocess
from cir_rt.profile.memory import peak_rss_mb, reset_peak
from cir_rt.report import table

SHIPPED = Path(next(iter(pretrained.__path__)))
PLACES, WIDTH, SIZE = 65, 768, 128  # tokens of a picture, numbers in one, pixels a side
TEXT = {"width": 256, "heads": 4, "layers": 3, "inner": 1024, "image_width": WIDTH, "dim": 256}
BATCH = 64  # pictures stored together
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(invoke_without_command=True)
@click.option("--sizes", default="1000,10000,100000", show_default=True)
@click.option("--candidates", default="8,50,100", show_default=True)
@click.option("--scratch", type=FOLDER, default=Path("/tmp/cir-rt-memory"), show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--queries", default=50, show_default=True, help="Asked without, and with.")
@click.option("--json", "as_json", is_flag=True, help="Print the result only.")
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
@click.pass_context
def main(context: click.Context, **options: Any) -> None:
    """Measure the memory of re-ranking on this machine."""
    if context.invoked_subcommand is None:
        compare(**options)


def compare(
    sizes: str,
    candidates: str,
    scratch: Path,
    threads: int,
    queries: int,
    as_json: bool,
    record: bool,
) -> None:
    """Grow the gallery and measure it at each size, a process for each number of candidates."""
    wanted = sorted(int(n) for n in sizes.split(","))
    bundle, gallery = scratch / "bundle.cir", scratch / "gallery"
    if not bundle.exists():
        make_bundle(scratch, bundle, threads)
    rows = []
    for size in wanted:
        fill(bundle, gallery, size)
        for k in candidates.split(","):
            asked = [str(bundle), str(gallery), k, str(threads), str(queries)]
            command = [sys.executable, __file__, "measure", *asked]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            rows.append({"gallery": size, "candidates": int(k), **json.loads(done.stdout)})
            if not as_json:
                click.echo(f"… {rows[-1]}", err=True)
    settings = open_bundle(bundle).manifest.rerank
    assert settings
    result = {
        "results": rows,
        "tokens": {"places": PLACES, "width": WIDTH, "precision": settings.token_precision},
        "buckets": settings.buckets,
        "layers": TEXT["layers"],
        "threads": threads,
        "queries": queries,
        "environment": environment(),
    }
    shutil.rmtree(gallery)
    if record:
        keep("rerank_memory", result)
    click.echo(json.dumps(result) if as_json else summary(rows))


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    return table(list(rows[0]), [list(row.values()) for row in rows])


def make_bundle(scratch: Path, bundle: Path, threads: int) -> None:
    """Build the shipped model with a re-ranker of random weights; its quality is not judged."""
    import torch

    from cir_rt.export.models.storage import save_model
    from cir_rt.export.models.systems import build_model
    from cir_rt.export.onnx_export import export_graphs
    from cir_rt.export.train.vocabulary import mark

    torch.manual_seed(0)
    second = scratch / "reranker"
    second.mkdir(parents=True, exist_ok=True)
    shipped = open_checkpoint(SHIPPED)
    tokenizer = shutil.copyfile(SHIPPED / "tokenizer.json", second / "tokenizer.json")
    enc = mark(tokenizer)
    words = {"vocabulary": enc + 1, "enc_id": enc, "context": 48}
    tower = {"stem": 16, "widths": [32, 64, WIDTH], "dim": TEXT["dim"]}
    config = ModelConfig(
        system="rerank",
        image=TowerSpec(kind="conv", settings=tower),
        text=TowerSpec(kind="grounded-text", settings={**TEXT, **words}),
        composer={"early_layers": 1},
        preprocess=Preprocess(size=SIZE),
    )
    save_model(build_model(config), tokenizer, second)
    graphs = scratch / "graphs"
    export_graphs(shipped, graphs, reranker=open_checkpoint(second))
    options = BuildOptions(precision="fp32", threads=threads, max_recall_drop=100)
    build_engine(graphs, bundle, options)


def fill(bundle: Path, folder: Path, size: int) -> None:
    """Let the gallery grow to so many random pictures, by the store's own way."""
    manifest = open_bundle(bundle).manifest
    assert manifest.rerank
    assert manifest.fingerprints.tokens
    kept = TokenFormat(
        fingerprint=manifest.fingerprints.tokens,
        count=manifest.rerank.places,
        width=manifest.rerank.width,
        precision=manifest.rerank.token_precision,
    )
    fingerprint, dim = manifest.fingerprints.vectors, manifest.dim
    with Gallery.open_writer(folder, fingerprint=fingerprint, dim=dim, tokens=kept) as gallery:
        while (start := len(gallery)) < size:
            rng, count = np.random.default_rng(start), min(BATCH, size - start)
            vectors = rng.standard_normal((count, dim), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            tokens = rng.standard_normal((count, kept.count, kept.width), np.float32)
            gallery.add([item(start + n, vectors[n], tokens[n]) for n in range(count)])


def item(row: int, vector: np.ndarray, tokens: np.ndarray) -> Item:
    """Return a picture that nobody looks at."""
    return Item(
        id=name(row),
        vector=vector,
        thumbnail=b"\xff\xd8",
        source_hash=f"{row:064x}",
        tokens=tokens,
    )


def name(row: int) -> str:
    """Return a picture's id."""
    return f"picture-{row:07d}"


@main.command(hidden=True)
@click.argument("bundle", type=FOLDER)
@click.argument("gallery", type=FOLDER)
@click.argument("candidates", type=int)
@click.argument("threads", type=int)
@click.argument("queries", type=int)
def measure(bundle: Path, gallery: Path, candidates: int, threads: int, queries: int) -> None:
    """Ask in this process; print peaks in MB of 2^20 bytes."""
    with Gallery.open(gallery) as stored:
        rows = np.linspace(0, len(stored) - 1, queries, dtype=int)
    with Retriever.open(bundle, gallery, threads=threads) as retriever:
        opened = peak_rss_mb()

        def ask(rerank: int) -> float:
            for n, row in enumerate(rows):
                text = f"the same but in {('red', 'blue', 'green')[n % 3]}"
                hits = retriever.search(image=name(row), text=text, k=10, rerank=rerank)
                assert hits.reranked == rerank
            return peak_rss_mb()

        reset = reset_peak()
        without = ask(0)
        reset_peak()
        found = {"open_mb": opened, "without_mb": without, "with_mb": ask(candidates)}
    found["rerank_mb"] = round(found["with_mb"] - without, 1)
    click.echo(json.dumps(found | {"peak_of": "run" if reset else "process"}))


if __name__ == "__main__":
    main()
