"""What a trained re-ranker keeps of its recall on the way from PyTorch to a bundle.

    python benchmarks/reranked.py photos/ ckpt/ reranker/ --prune-weight 40 --json

CKPT prunes, RERANKER puts its best candidates in a new order: with the PyTorch modules, and with a
bundle's engines, `exact` and, where it has a cascade, `fast`. The bundle goes to --out, which may
not lie in this repository: the licence of the pictures decides what may be done with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from recording import keep

from cir_rt.bundle import Bundle, open_bundle
from cir_rt.encoder import Encoder
from cir_rt.export.build import BuildOptions, build_engine
from cir_rt.export.checkpoint import open_checkpoint
from cir_rt.export.data.dataset import Dataset, Split
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.evaluate import Scored, ask, report
from cir_rt.export.models.encoder import open_encoder
from cir_rt.export.models.scorer import open_scorer
from cir_rt.export.rerank import Scorer, reranked
from cir_rt.export.runtime_scorer import RuntimeScorer
from cir_rt.machine import environment

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = click.Path(path_type=Path, file_okay=False)

Recall = Mapping[str, float]


@click.command()
@click.argument("data", type=FOLDER)
@click.argument("model", type=FOLDER)
@click.argument("reranker", type=FOLDER)
@click.option("--prune-weight", type=float, default=0.0, show_default=True)
@click.option("--candidates", default="20,50", show_default=True, help="How many are re-ranked.")
@click.option("--precision", default="auto", show_default=True, help="Of the bundle.")
@click.option("--split", default="val", show_default=True)
@click.option("--out", type=FOLDER, default=Path("/tmp/reranked"), show_default=True)
@click.option("--reuse", is_flag=True, help="Keep the bundle that --out already holds.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result only.")
@click.option("--record", help="Write reranked_NAME.json under benchmarks/results/ too.")
def main(
    data: Path,
    model: Path,
    reranker: Path,
    prune_weight: float,
    candidates: str,
    precision: str,
    split: str,
    out: Path,
    reuse: bool,
    threads: int,
    as_json: bool,
    record: str | None,
) -> None:
    """Measure RERANKER over the candidates of MODEL on a split of DATA."""
    if out.resolve().is_relative_to(REPOSITORY):
        raise click.UsageError(f"{out} lies in the repository. Name a folder outside:  --out DIR")

    def say(stage: object) -> None:
        if not as_json:
            click.echo(f"… {stage}", err=True)

    dataset = open_dataset(data)
    counts = [int(count) for count in candidates.split(",")]
    asked = Questions(dataset, dataset.split(split), counts)
    say("asking in PyTorch")
    module = open_scorer(open_checkpoint(reranker), prune_weight=prune_weight, threads=threads)
    encoder = open_encoder(open_checkpoint(model), threads=threads)
    asked.measure("torch", list(ask(encoder, dataset, asked.split)), module)
    bundle = out / f"{precision}.cir"
    if not reuse:
        options = BuildOptions(precision=precision, prune_weight=prune_weight, threads=threads)
        build_engine(model, bundle, options, reranker=reranker, progress=say)
    result = in_engines(asked, open_bundle(bundle), threads, say)
    if record:
        keep(f"reranked_{record}", result)
    click.echo(json.dumps(result))


def in_engines(
    asked: Questions, bundle: Bundle, threads: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Ask a bundle in each of its modes, and return all that is known."""
    settings = bundle.manifest.rerank
    assert settings is not None
    pruned = list(ask(Encoder.open(bundle, threads=threads), asked.dataset, asked.split))
    for mode in ("exact", "fast") if settings.margin is not None else ("exact",):
        say(f"asking the bundle, {mode}")
        asked.measure(mode, pruned, RuntimeScorer.open(bundle, mode=mode, threads=threads))
    return {
        "dataset": asked.dataset.name,
        "protocol": str(asked.split.protocol),
        "queries": len(asked.split.queries),
        "prune_weight": settings.prune_weight,
        "places": settings.places,
        "recall": asked.recall,
        "built": bundle.manifest.quality.get("rerank"),
        "environment": environment(),
    }


@dataclass(frozen=True)
class Questions:
    """A split's queries, and the recall that was reached on them, by what answered."""

    dataset: Dataset
    split: Split
    counts: list[int]
    recall: dict[str, dict[str, Recall]] = field(default_factory=dict)

    def measure(self, name: str, pruned: list[Scored], scorer: Scorer) -> None:
        """Note the recall of the candidates as they were pruned, and of so many re-ranked."""
        found = {"0": report(pruned, self.dataset.name, self.split).recall}
        for count in self.counts:
            again = reranked(pruned, scorer, self.dataset, self.split, count)
            found[str(count)] = report(again, self.dataset.name, self.split).recall
        self.recall[name] = found


if __name__ == "__main__":
    main()
