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


@command("cir-rt train progressive --data photos/ --out ckpt/ --minutes 40")
@click.argument("recipe")
@click.option("--data", type=FOLDER, required=True, help="Dataset folder.")
@click.option("--out", type=FOLDER, required=True, help="Checkpoint folder to write.")
@click.option("--config", type=FILE, help="TOML file with the recipe's settings.")
@click.option("--init", type=FOLDER, help="Checkpoint, or Hugging Face CLIP folder, to start from.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Instead of epochs.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--seed", type=int, default=0, show_default=True)
def train(recipe: str, as_json: bool, **settings: Any) -> None:
    """Train a RECIPE (progressive) and write a checkpoint. Needs the extra `export`."""
    needs_torch()
    from cir_rt.export.data.formats import open_dataset
    from cir_rt.export.train.recipes import read_recipe
    from cir_rt.export.train.run import train as run

    values = read_recipe(recipe, settings.pop("config"))
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
        "epochs": result.epochs,
        "parameters": result.parameters,
    }
    print_facts(facts, as_json)


@command("cir-rt evaluate ckpt/ --data photos/ --split val")
@click.argument("model", type=FOLDER)
@click.option("--data", type=FOLDER, required=True, help="Dataset folder.")
@click.option("--split", default="val", show_default=True)
@click.option("--protocol", help="Of those that the dataset knows; its own unless said.")
@click.option("--weight", type=click.FloatRange(0, 1), help="1 picture only, 0 words only.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
def evaluate(
    model: Path,
    data: Path,
    split: str,
    protocol: str | None,
    weight: float | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure recall of MODEL, a checkpoint or a bundle, by the dataset's own protocol."""
    from cir_rt.export.data.formats import open_dataset
    from cir_rt.export.evaluate import evaluate as run
    from cir_rt.export.evaluate import open_model

    dataset = open_dataset(data)
    chosen = dataset.split(split, protocol)
    report = run(open_model(model, device, threads), dataset, chosen, weight=weight)
    if as_json:
        return print_json(report.to_json())
    from cir_rt.report import table

    click.echo(f"{dataset.name} {split}, {chosen.protocol}")
    rows = [[name, *values.values()] for name, values in report.groups.items()]
    if len(rows) > 1:
        rows.append(["average", *report.recall.values()])
    click.echo(table(["group", *report.recall], rows))
    click.echo(f"mean {report.mean:.2f} over {len(chosen.queries)} queries")
    return None


@command("cir-rt export ckpt/ --out graphs/")
@click.argument("checkpoint", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Graphs folder to write.")
@click.option("--half", is_flag=True, help="Store the weights in half precision.")
def export(checkpoint: Path, out: Path, half: bool, as_json: bool) -> None:
    """Turn CHECKPOINT into ONNX graphs that devices build engines from without torch."""
    needs_torch()
    needs("onnxruntime", "cpu")
    from cir_rt.config import to_dict
    from cir_rt.export.checkpoint import open_checkpoint
    from cir_rt.export.onnx_export import export_graphs

    parity = export_graphs(open_checkpoint(checkpoint), out, half=half)
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
@click.option("--keep-slower", is_flag=True, help="Keep an engine slower than what it replaces.")
@click.option("--report", type=FOLDER, help="Folder for the frontier of `auto`, table and plot.")
@click.option("--threads", type=click.IntRange(min=1))
def build_engine(
    model: Path,
    out: Path,
    calibration: Path | None,
    arch: str,
    report: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile MODEL, a checkpoint or exported graphs, into a bundle; gates hold it to FP32."""
    needs("onnxruntime", "cpu")
    needs("onnx", "build")
    from cir_rt.export.build import BuildOptions
    from cir_rt.export.build import build_engine as run

    settings = BuildOptions(**options, arch=tuple(filter(None, arch.split(","))))
    built = run(model, out, settings, calibration=calibration, progress=say)
    if report:
        from cir_rt.export.build.frontier import write

        write(built.frontier, report, settings.max_recall_drop)
    if as_json:
        return print_json(built.to_json())
    for note in built.notes:
        click.echo(note)
    return print_facts(built.to_json(), False)
