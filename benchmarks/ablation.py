"""What each idea is worth: rows of trainings on one dataset, several seeds, one table.

    python benchmarks/ablation.py photos/ --out /tmp/ablation --epochs 12 --seeds 3
    python benchmarks/ablation.py photos/ --out /tmp/ablation --rows fixed,adaptive --record photos

Every training leaves its checkpoint and its result in --out, and is not done again: an interrupted
call goes on where it was, and calls with different rows may run side by side. Rows that start from
another row's checkpoint take the one of the same seed. --out may not lie in this repository: the
licence of the pictures decides what may be done with weights made of them. Lengths are epochs, not
minutes: rows that ran beside other work must compare.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from recording import RESULTS, keep

from cir_rt.export.checkpoint import open_checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.data.formats import open_dataset
from cir_rt.export.evaluate import Report, ask, report
from cir_rt.export.models.encoder import open_encoder
from cir_rt.export.models.scorer import open_scorer
from cir_rt.export.rerank import reranked
from cir_rt.export.train.limn_plus import train_limn_plus
from cir_rt.export.train.recipes import RECIPES, LimnPlus, Progressive, Recipe, read_recipe
from cir_rt.export.train.run import train
from cir_rt.machine import environment

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = click.Path(path_type=Path, file_okay=False)
CANDIDATES = 50


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training; `over` is the row whose candidates a re-ranker puts in a new order."""

    recipe: str
    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    over: str | None = None
    labelled: float = 1.0  # share of the training queries that it sees
    lasts: float = 1.0  # its epochs, as a multiple of --epochs


WARM = {"tower_learning_rate": 1e-3}  # towers that were themselves trained for minutes
SMALL = {  # a captioner that is trained, and writes, within a row's minutes
    "captioner": {"width": 128, "layers": 1},
    "captioning": {"epochs": 8},
    "self_training": {"rounds": 2, "mining": {"neighbours": 2}},
}
FEW = 0.25
PICTURES = 4  # epochs over pictures for one over queries, which shows each of them several times
ROWS = {
    "fixed": Row(recipe="progressive", says="stage 3, weights 0.5 / 0.5", settings={"weight": 0.5}),
    "adaptive": Row(recipe="progressive", says="stage 3, adaptive weights"),
    "1": Row(
        recipe="progressive",
        says="stage 1 alone",
        settings={"image_text": 1.0},
        lasts=PICTURES,
    ),
    "1+3": Row(recipe="progressive", says="stages 1, 3", init="1", settings=WARM),
    "1+2": Row(
        recipe="progressive",
        says="stages 1, 2",
        init="1",
        settings={**WARM, "domain": 1.0, "products": 0.5},
        lasts=PICTURES,
    ),
    "1+2+3": Row(recipe="progressive", says="stages 1, 2, 3", init="1+2", settings=WARM),
    "1+2+fixed": Row(
        recipe="progressive",
        says="stages 1, 2, 3, weights 0.5 / 0.5",
        init="1+2",
        settings={**WARM, "weight": 0.5},
    ),
    "limn": Row(recipe="limn", says="LIMN on the towers of 1+2+3", init="1+2+3", settings=WARM),
    "limn-few": Row(
        recipe="limn",
        says="LIMN, a quarter of the queries labelled",
        labelled=FEW,
    ),
    "limn-more": Row(
        recipe="limn",
        says="the same, trained on as long as LIMN+",
        init="limn-few",
        settings=WARM,
        labelled=FEW,
        lasts=3,
    ),
    "limn-plus": Row(
        recipe="limn-plus",
        says="LIMN+, the other pictures unlabelled",
        init="limn-few",
        settings={**WARM, **SMALL},
        labelled=FEW,
    ),
    "prune": Row(recipe="rerank-prune", says="stage I on the tower of 1+2+3", init="1+2+3"),
    "rerank-batch": Row(
        recipe="rerank",
        says="stage II, negatives of the batch",
        init="prune",
        over="prune",
        settings={"queries": 16, "negatives": "batch"},
        lasts=0.25,
    ),
    "rerank-hard": Row(
        recipe="rerank",
        says="stage II, hard negatives",
        init="prune",
        over="prune",
        settings={"queries": 16, "negatives": "hard"},
        lasts=0.25,
    ),
}


@click.command()
@click.argument("data", type=FOLDER)
@click.option("--out", type=FOLDER, default=Path("/tmp/ablation"), show_default=True)
@click.option("--rows", default=",".join(ROWS), help="Some of them; what they start from joins.")
@click.option("--seeds", type=int, default=3, show_default=True)
@click.option("--epochs", type=float, default=12.0, show_default=True, help="Of most rows.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML of what all rows share.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result only.")
@click.option("--record", help="Write ablation_NAME.json and .md under benchmarks/results/ too.")
def main(
    data: Path,
    out: Path,
    rows: str,
    seeds: int,
    as_json: bool,
    record: str | None,
    **how: Any,
) -> None:
    """Train the rows on DATA, each with several seeds, and compare them on its val split."""
    if out.resolve().is_relative_to(REPOSITORY):
        raise click.UsageError(f"{out} lies in the repository. Name a folder outside:  --out DIR")
    unknown = [name for name in rows.split(",") if name not in ROWS]
    if unknown:
        raise click.UsageError(f"no rows {unknown}. Known: {', '.join(ROWS)}")
    dataset = open_dataset(data)
    wanted = _with_starts(rows.split(","))
    for seed in range(seeds):
        for name in wanted:
            _done(name, seed, dataset, out, how)
    found = {
        name: _summary([_done(name, s, dataset, out, how) for s in range(seeds)]) for name in wanted
    }
    result = {
        "dataset": dataset.name,
        "protocol": str(dataset.split("val").protocol),
        "queries": len(dataset.split("val").queries),
        "seeds": seeds,
        "epochs": how["epochs"],
        "rows": found,
        "environment": environment(),
    }
    if record:
        keep(f"ablation_{record}", result)
        (RESULTS / f"ablation_{record}.md").write_text(_page(result), encoding="utf-8")
    click.echo(json.dumps(result) if as_json else _page(result))


def _with_starts(names: list[str]) -> list[str]:
    """Return the rows and those that they start from or rank over, in the table's order."""
    wanted = set(names)
    while True:
        more = {s for name in wanted for s in (ROWS[name].init, ROWS[name].over) if s} - wanted
        if not more:
            return [name for name in ROWS if name in wanted]
        wanted |= more


def _done(
    name: str, seed: int, dataset: Dataset, out: Path, how: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a training's result, from its file where it has been done."""
    path = out / f"{name}-{seed}.json"
    if not path.exists():
        click.echo(f"… {name}, seed {seed}", err=True)
        out.mkdir(parents=True, exist_ok=True)
        result = _train(name, seed, dataset, out, how)
        path.write_text(json.dumps(result), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def _train(
    name: str, seed: int, dataset: Dataset, out: Path, how: Mapping[str, Any]
) -> dict[str, Any]:
    row, folder = ROWS[name], out / f"{name}-{seed}"
    recipe = _fitting(_recipe(row, how["config"]), dataset)
    options = {k: how[k] for k in ("threads", "device")}
    options["epochs"] = max(1, round(row.lasts * how["epochs"]))
    if row.init:
        options["init"] = out / f"{row.init}-{seed}"
    run: Any = train_limn_plus if isinstance(recipe, LimnPlus) else train
    trained = run(_labelled(dataset, row.labelled), folder, recipe, seed=seed, **options)
    found = _evaluated(row, folder, out / f"{row.over}-{seed}", dataset, how)
    return {
        "recall": {**found.recall, **found.precision},
        "mean": found.mean,
        "minutes": round(trained.seconds / 60, 2),
        "steps": trained.steps,
    }


def _recipe(row: Row, config: Path | None) -> Recipe:
    """Return the row's recipe with what all share, as far as it has that setting."""
    kind = RECIPES[row.recipe]
    shared = read_recipe("progressive", config or REPOSITORY / "benchmarks" / "ablation.toml")
    own = kind()
    common = {f.name for f in fields(Recipe)} & {f.name for f in fields(kind)}
    if row.recipe.startswith("rerank"):
        common &= {"augment", "pictures", "weight_decay", "preprocess", "image", "dim"}
    values = {name: getattr(shared, name) for name in common}
    return replace(own, **{**values, **row.settings})


def _fitting(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Return the recipe without pairs of one product where no two pictures show the same."""
    shown = Counter(dataset.products.get(i) for i in dataset.split("train").pictures)
    del shown[None]
    if isinstance(recipe, Progressive) and max(shown.values(), default=0) < 2:
        return replace(recipe, products=0.0)
    return recipe


def _labelled(dataset: Dataset, share: float) -> Dataset:
    """Return the dataset with an evenly spaced share of its training queries."""
    split = dataset.split("train")
    chosen = np.linspace(0, len(split.queries) - 1, round(share * len(split.queries))).astype(int)
    few = replace(split, queries=tuple(split.queries[int(k)] for k in chosen))
    return replace(dataset, splits={**dataset.splits, "train": {split.protocol.name: few}})


def _evaluated(
    row: Row, folder: Path, over: Path, dataset: Dataset, how: Mapping[str, Any]
) -> Report:
    options = {"device": how["device"], "threads": how["threads"]}
    split = dataset.split("val")
    first = open_encoder(open_checkpoint(over if row.over else folder), **options)
    scored = ask(first, dataset, split)
    if not row.over:
        return report(scored, dataset.name, split)
    scorer = open_scorer(open_checkpoint(folder), **options)
    again = reranked(scored, scorer, dataset, split, CANDIDATES)
    return report(again, dataset.name, split, rerank=CANDIDATES)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over the seeds."""
    names = runs[0]["recall"]
    columns = {name: [run["recall"][name] for run in runs] for name in names}
    columns["mean"] = [run["mean"] for run in runs]
    spread = {k: statistics.stdev(v) if len(v) > 1 else 0.0 for k, v in columns.items()}
    return {
        "recall": {k: round(statistics.mean(v), 2) for k, v in columns.items()},
        "std": {k: round(v, 2) for k, v in spread.items()},
        "minutes": round(statistics.mean(run["minutes"] for run in runs), 1),
        "seeds": len(runs),
    }


def _page(result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    measures = list(next(iter(rows.values()))["recall"])
    lines = [
        [
            name,
            ROWS[name].says,
            *(f"{row['recall'][m]:.2f} ± {row['std'][m]:.2f}" for m in measures),
            f"{row['minutes']:.1f}",
        ]
        for name, row in rows.items()
    ]
    head = f"{result['dataset']}, {result['protocol']}; {result['queries']} queries, "
    head += f"{result['seeds']} seeds, mean ± standard deviation"
    cells = [["row", "what", *measures, "minutes"], ["---"] * (len(measures) + 3), *lines]
    return "\n".join([head, "", *(f"| {' | '.join(line)} |" for line in cells), ""])


if __name__ == "__main__":
    main()
