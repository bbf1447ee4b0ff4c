"""Train, quantize, index and search real product photos: one command, one JSON line.

    python benchmarks/real_photos.py photos/ --minutes 40 --out /tmp/photos --json

DATA is a `triplets` folder with the splits train and val (docs/data.md). Everything made of the
photos (weights, bundle, gallery, contact sheet) goes to --out, which may not lie in this
repository: the licence of the photos decides what may be done with it.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from recording import keep

from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.export.build import BuildOptions, build_engine
from cir_rt.export.checkpoint import open_checkpoint
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.demo import answers, sources, timed
from cir_rt.export.evaluate import evaluate
from cir_rt.export.models.encoder import open_encoder
from cir_rt.export.train.recipes import read_recipe
from cir_rt.export.train.run import train
from cir_rt.machine import environment
from cir_rt.percentile import percentile
from cir_rt.report import contact_sheet
from cir_rt.retriever import Retriever

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("data", type=FOLDER)
@click.option("--minutes", type=float, default=40.0, show_default=True, help="Of training.")
@click.option("--out", type=FOLDER, default=Path("/tmp/real-photos"), show_default=True)
@click.option("--config", type=click.Path(path_type=Path), default=None, help="Recipe as TOML.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--reuse", is_flag=True, help="Keep the checkpoint that --out already holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the result only.")
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    data: Path,
    minutes: float,
    out: Path,
    config: Path | None,
    threads: int,
    seed: int,
    reuse: bool,
    as_json: bool,
    record: bool,
) -> None:
    """Measure the progressive system on the real photos of DATA."""
    if out.resolve().is_relative_to(REPOSITORY):
        raise click.UsageError(f"{out} lies in the repository. Name a folder outside:  --out DIR")

    def say(stage: object) -> None:
        if not as_json:
            click.echo(f"… {stage}", err=True)

    recipe = read_recipe("progressive", config or REPOSITORY / "benchmarks" / "real_photos.toml")
    result: dict[str, Any] = {"train_minutes": None}
    if not reuse:
        say(f"training for {minutes:g} minutes")
        start = time.perf_counter()
        trained = train(
            open_dataset(data), out / "ckpt", recipe, minutes=minutes, threads=threads, seed=seed
        )
        result = {
            "train_minutes": round((time.perf_counter() - start) / 60, 2),
            "steps": trained.steps,
            "parameters": trained.parameters,
        }
    result |= measure(data, out, threads, say)
    result |= {"seed": seed, "environment": environment()}
    if record:
        keep("real_photos", result)
    click.echo(json.dumps(result))


def measure(data: Path, out: Path, threads: int, say: Any) -> dict[str, Any]:
    """Build, index and evaluate the checkpoint below `out`; draw ten queries."""
    dataset = open_dataset(data)
    split = dataset.split("val")
    checkpoint = open_checkpoint(out / "ckpt")
    say("evaluating in PyTorch")
    torch_report = evaluate(open_encoder(checkpoint, threads=threads), dataset, split)
    options = BuildOptions(threads=threads)
    say("building engines")
    built, reports = {}, {}
    for precision in ("fp32", "int8", "auto"):
        bundle = out / f"{precision}.cir"
        # What INT8 by name loses is measured on val, below; only `auto` is held to the limit.
        limit = options.max_recall_drop if precision == "auto" else 5.0
        asked = replace(options, precision=precision, keep_slower=True, max_recall_drop=limit)
        built[precision] = build_engine(out / "ckpt", bundle, asked, progress=say)
        encoder = Encoder.open(open_bundle(bundle), threads=threads)
        reports[precision] = evaluate(encoder, dataset, split)
    say("indexing and asking")
    with Retriever.open(out / "auto.cir", threads=threads) as retriever:
        indexed = retriever.index(sources(dataset, split), out / "gallery")
    with Retriever.open(out / "auto.cir", out / "gallery", threads=threads) as retriever:
        timings = timed(retriever, dataset, split.queries[::8])
        shown = split.queries[:: len(split.queries) // 10][:10]
        contact_sheet(answers(retriever, dataset, shown)).save(out / "contact-sheet.png")
    return {
        "protocol": str(split.protocol),
        "queries": len(split.queries),
        "gallery": indexed.pictures,
        "recall_torch": torch_report.recall,
        **{f"recall_{name}": report.recall for name, report in reports.items()},
        "cosine_min": {name: round(b.cosine_min, 5) for name, b in built.items()},
        "engines_ms": {name: b.latency_ms()["after"] for name, b in built.items()},
        "auto": built["auto"].precisions,
        "query_ms_p50": round(percentile(timings["total"], 50), 3),
        "query_ms_p99": round(percentile(timings["total"], 99), 3),
        "contact_sheet": str(out / "contact-sheet.png"),
    }


if __name__ == "__main__":
    main()
