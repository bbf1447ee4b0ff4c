"""From pictures to engines: train, evaluate, export, build-engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cir_rt.cli.command import (
    FILE,
    FOLDER,
    bar,
    command,
    needs,
    needs_torch,
    print_facts,
    print_json,
    say,
)
from cir_rt.engines.plan import HARDWARE
from cir_rt.errors import UsageError
from cir_rt.modes import MODES


@command("cir-rt train progressive --data photos/ --out ckpt/ --minutes 40")
@click.argument("recipe")
@click.option("--data", type=FOLDER, required=True, help="Dataset folder.")
@click.option("--out", type=FOLDER, required=True, help="Checkpoint folder to write.")
@click.option("--config", type=FILE, help="TOML file with the recipe's settings.")
@click.option("--init", type=FOLDER, help="Checkpoint, or Hugging Face folder, to start from.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Instead of epochs.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the run that --out holds unfinished.")
def train(recipe: str, as_json: bool, **settings: Any) -> None:
    """Train a RECIPE and write a checkpoint. Needs the extra `export`.

    RECIPE is progressive, limn, limn-plus, rerank-prune (stage I of re-ranking) or rerank (II).
    """
    needs_torch()
    from cir_rt.export.data.formats import open_dataset
    from cir_rt.export.train.limn_plus import train_limn_plus
    from cir_rt.export.train.recipes import LimnPlus, read_recipe
    from cir_rt.export.train.run import train as train_once

    values = read_recipe(recipe, settings.pop("config"))
    run: Any = train_limn_plus if isinstance(values, LimnPlus) else train_once
    dataset = open_dataset(settings.pop("data"))
    with bar(1000, "training") as shown:
        result = run(
            dataset,
            settings.pop("out"),
            values,
            progress=lambda step: shown.update(int(1000 * step.done) - shown.pos),
            **settings,
        )
    facts = {
        "checkpoint": str(result.folder),
        "steps": result.steps,
        "minutes": round(result.seconds / 60, 2),
        "parameters": result.parameters,
        "validation": result.score,
    }
    print_facts(facts, as_json)


@command("cir-rt evaluate ckpt/ --data photos/ --split val")
@click.argument("model", type=FOLDER)
@click.option("--data", type=FOLDER, required=True, help="Dataset folder.")
@click.option("--split", default="val", show_default=True)
@click.option("--protocol", help="Of those that the dataset knows; its own unless said.")
@click.option("--weight", type=click.FloatRange(0, 1), help="1 picture only, 0 words only.")
@click.option(
    "--reranker", type=FOLDER, help="Checkpoint of the recipe rerank; a bundle may have its own."
)
@click.option(
    "--rerank",
    type=click.IntRange(min=0),
    metavar="N",
    help="Candidates to put in a new order, the bundle's own number or 50 unless said; 0: none.",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="exact",
    show_default=True,
    help="Of a bundle's re-ranker.",
)
@click.option(
    "--prune-weight", type=float, help="What inner products count for beside --reranker's scores."
)
@click.option("--submission", type=FOLDER, help="Folder for the files that CIRR's server scores.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
def evaluate(
    data: Path,
    split: str,
    protocol: str | None,
    submission: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure recall of MODEL, a checkpoint or a bundle, by the dataset's own protocol."""
    from cir_rt.export import evaluate as evaluation
    from cir_rt.export.data.formats import open_dataset
    from cir_rt.export.submission import check_submittable, write_submission

    dataset = open_dataset(data)
    chosen = dataset.split(split, protocol)
    if submission:
        check_submittable(chosen)
    else:
        evaluation.check_labelled(dataset.name, chosen)
    dataset.paths(chosen.pictures)  # those that are missing are told of before a model is opened
    scored, candidates = _scored(dataset, chosen, **asked)
    if submission:
        written = [str(path) for path in write_submission(scored, chosen, submission)]
        values = {**evaluation.facts(dataset.name, chosen), "submission": written}
        return print_facts(values, as_json)
    report = evaluation.report(scored, dataset.name, chosen, rerank=candidates)
    if as_json:
        return print_json(report.to_json())
    return _print_report(report)


def _scored(
    dataset: Any,
    split: Any,
    *,
    model: Path,
    reranker: Path | None,
    rerank: int | None,
    mode: str,
    prune_weight: float | None,
    device: str,
    threads: int | None,
    weight: float | None,
) -> tuple[Any, int]:
    """Ask the model, then the re-ranker where there is one; return how many candidates it sees."""
    from cir_rt.export import evaluate as evaluation
    from cir_rt.export.rerank import open_scorer, reranked

    options: dict[str, Any] = {"device": device, "threads": threads}
    how = {"mode": mode, "prune_weight": prune_weight, **options}
    second = open_scorer(model, reranker, **how) if rerank != 0 else None
    if second is None and (rerank or mode != "exact"):
        raise UsageError("no re-ranker here. Expected --reranker CKPT, or a bundle that has one.")
    encoder = evaluation.open_model(model, **options)
    scored = evaluation.ask(encoder, dataset, split, weight=weight)
    if second is None:
        return scored, 0
    scorer, usual = second
    candidates = rerank or usual
    return reranked(scored, scorer, dataset, split, candidates), candidates


def _print_report(report: Any) -> None:
    """Print a table, a line a group."""
    from cir_rt.report import table

    split = report.split
    click.echo(f"{report.dataset} {split.name}, {split.protocol}")
    rows = [[name, *values.values()] for name, values in report.groups.items()]
    if len(rows) > 1:
        rows.append(["average", *report.measures.values()])
    click.echo(table(["group", *report.measures], rows))
    order = f", {report.rerank} candidates re-ranked" if report.rerank else ""
    click.echo(f"mean {report.mean:.2f} over {len(split.queries)} queries{order}")


@command("cir-rt export ckpt/ --out graphs/")
@click.argument("checkpoint", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Graphs folder to write.")
@click.option("--reranker", type=FOLDER, help="Checkpoint of the recipe rerank, to go with it.")
@click.option("--half", is_flag=True, help="Store the weights in half precision.")
def export(checkpoint: Path, out: Path, reranker: Path | None, half: bool, as_json: bool) -> None:
    """Turn CHECKPOINT into ONNX graphs that devices build engines from without torch."""
    needs_torch()
    needs("onnxruntime", "cpu")
    from cir_rt.config import to_dict
    from cir_rt.export.checkpoint import open_checkpoint
    from cir_rt.export.onnx_export import export_graphs

    second = open_checkpoint(reranker) if reranker else None
    parity = export_graphs(open_checkpoint(checkpoint), out, half=half, reranker=second)
    differences = {role: to_dict(p) for role, p in parity.items()}
    print_facts({"graphs": str(out), "difference": differences}, as_json)


@command("cir-rt build-engine ckpt/ --out shoes.cir", name="build-engine")
@click.argument("model", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Bundle folder to write.")
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    help="onnxruntime, tensorrt or tensorrt-rtx.",
)
@click.option("--device", default="", help="cpu, cuda or cuda:N; the backend's own unless said.")
@click.option(
    "--precision", default="auto", show_default=True, help="fp32, fp16, int8, fp8 or auto."
)
@click.option("--arch", default="", help="GPUs to build for, such as sm_89,sm_120.")
@click.option(
    "--calibration",
    type=FOLDER,
    help="Dataset or folder of pictures; the checkpoint's own unless said.",
)
@click.option(
    "--max-recall-drop",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Points.",
)
@click.option(
    "--min-cosine",
    type=click.FloatRange(-1, 1),
    default=0.98,
    show_default=True,
    help="Of each engine's vectors to FP32's, on average.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 100),
    default=90.0,
    show_default=True,
    help="Percent of FP32's top 10 found again, where no query has a right answer.",
)
@click.option(
    "--reranker", type=FOLDER, help="Checkpoint to build in; exported graphs carry theirs."
)
@click.option("--rerank/--no-rerank", default=True, help="Whether the re-ranker is built in too.")
@click.option(
    "--prune-weight",
    type=float,
    default=0.0,
    show_default=True,
    help="What inner products count for in the re-ranker's scores.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2),
    default=65,
    show_default=True,
    help="Most that a gallery keeps of a picture for re-ranking; more of a tower's are merged.",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="TensorRT: plans run on later versions of its major too, somewhat larger and slower.",
)
@click.option(
    "--hardware",
    type=click.Choice(HARDWARE),
    default="none",
    show_default=True,
    help="TensorRT: what else plans run on, at some cost in speed.",
)
@click.option("--keep-slower", is_flag=True, help="Keep an engine slower than what it replaces.")
@click.option("--report", type=FOLDER, help="Folder for the frontier of `auto`, table and plot.")
@click.option("--threads", type=click.IntRange(min=1))
def build_engine(
    model: Path,
    out: Path,
    calibration: Path | None,
    arch: str,
    report: Path | None,
    reranker: Path | None,
    rerank: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile MODEL, a checkpoint or exported graphs, into a bundle; gates hold it to FP32."""
    needs("onnxruntime", "cpu")
    needs("onnx", "build")
    from cir_rt.export.build import BuildOptions
    from cir_rt.export.build import build_engine as run

    settings = BuildOptions(**options, arch=tuple(filter(None, arch.split(","))))
    built = run(
        model,
        out,
        settings,
        calibration=calibration,
        reranker=reranker,
        rerank=rerank,
        progress=say,
    )
    if report:
        from cir_rt.export.build.frontier import write

        write(built.frontier, report, settings.max_recall_drop)
    if as_json:
        return print_json(built.to_json())
    for note in built.notes:
        click.echo(note)
    return print_facts(built.to_json(), False)
