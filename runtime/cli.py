"""The command line."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cir_rt import __version__
from cir_rt.errors import CirRtError, UsageError

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
DEBUG = "cir_rt.debug"


class _Commands(click.Group):
    """Turns errors into one clear line and exit code 1; wrong usage stays 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except UsageError as error:
            raise click.UsageError(str(error)) from error
        except Exception as error:
            if ctx.meta.get(DEBUG):
                raise
            hint = "" if isinstance(error, CirRtError) else "  (--debug shows where)"
            message = " ".join(str(error).split())
            click.echo(f"{type(error).__name__}: {message}{hint}", err=True)
            ctx.exit(1)


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True


def _command(group: click.Group, example: str, **settings: Any) -> Callable[[Callable], Any]:
    """Register a command with --json and --debug, and an example at the end of its help."""

    def register(function: Callable) -> Any:
        debug = click.option(
            "--debug", is_flag=True, expose_value=False, callback=_set_debug,
            help="Show the traceback of an error.",
        )  # fmt: skip
        as_json = click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
        )
        epilog = f"\b\nExample:\n  {example}"
        return group.command(epilog=epilog, **settings)(as_json(debug(function)))

    return register


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="cir-rt")
def cli() -> None:
    """Composed image retrieval on the device: a picture and a sentence in, pictures out."""


command = functools.partial(_command, cli)


@command("cir-rt demo --out tour")
@click.option("--out", type=FOLDER, default=Path("demo"), show_default=True)
def demo(out: Path, as_json: bool) -> None:
    """Show the whole way on the built-in pictures: engines, gallery, answers."""
    for package, extra in (("onnxruntime", "cpu"), ("onnx", "build"), ("matplotlib", "plots")):
        _needs(package, extra)
    from cir_rt.export.demo import PICTURES, tour
    from cir_rt.report import table

    result = tour(out, say=_say)
    figures = result.to_json()
    if as_json:
        return _print_json(figures)
    engines = ", ".join(f"{k} {v}" for k, v in result.build.precisions.items())
    race = result.build.latency
    click.echo(f"\n{result.queries} queries, each ranks its article's {PICTURES} drawn pictures")
    click.echo(
        f"engines: {engines}; image and text take {race.after_ms:.2f} ms together, "
        f"in FP32 {race.before_ms:.2f} ms\n"
    )
    header = ["asked with", *next(iter(result.recall.values()))]
    click.echo(table(header, [[name, *r.values()] for name, r in result.recall.items()]))
    click.echo()
    rows = [[stage, *values.values()] for stage, values in figures["stages"].items()]
    click.echo(table(["stage (ms)", "p50", "p90", "p99"], rows))
    click.echo(
        f"\ncontact sheet  {out / 'contact-sheet.png'}\nlatency        {out / 'latency.png'}"
    )
    click.echo(f"{result.seconds:.0f} s in all. Ask it yourself:\n")
    click.echo(
        f"  {sys.argv[0]} search {out / 'garments.cir'} {out / 'garments.gallery'} "
        '--image dress-val-00007 --text "the same but in red" --sheet answer.png'
    )
    return None


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
    _needs_torch()
    from cir_rt.export.data.formats import open_dataset
    from cir_rt.export.train.recipes import read_recipe
    from cir_rt.export.train.run import train as run

    values = read_recipe(recipe, settings.pop("config"))
    dataset = open_dataset(settings.pop("data"))
    with _bar(1000, "training") as bar:
        result = run(
            dataset,
            settings.pop("out"),
            values,
            progress=lambda step: bar.update(int(1000 * step.done) - bar.pos),
            **settings,
        )
    facts = {
        "checkpoint": str(result.folder),
        "epochs": result.epochs,
        "parameters": result.parameters,
    }
    _print_facts(facts, as_json)


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
        return _print_json(report.to_json())
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
    _needs_torch()
    _needs("onnxruntime", "cpu")
    from cir_rt.config import to_dict
    from cir_rt.export.checkpoint import open_checkpoint
    from cir_rt.export.onnx_export import export_graphs

    parity = export_graphs(open_checkpoint(checkpoint), out, half=half)
    differences = {role: to_dict(p) for role, p in parity.items()}
    _print_facts({"graphs": str(out), "difference": differences}, as_json)


@command("cir-rt build-engine ckpt/ --out shoes.cir", name="build-engine")
@click.argument("model", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Bundle folder to write.")
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="auto", show_default=True, help="fp32, int8 or auto.")
@click.option("--calibration", type=FOLDER, help="Dataset; the checkpoint's own unless said.")
@click.option(
    "--max-recall-drop",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Points.",
)
@click.option("--keep-slower", is_flag=True, help="Keep an engine that is slower than FP32.")
@click.option("--threads", type=click.IntRange(min=1))
def build_engine(
    model: Path, out: Path, calibration: Path | None, as_json: bool, **options: Any
) -> None:
    """Compile MODEL, a checkpoint or exported graphs, into a bundle; gates hold it to FP32."""
    _needs("onnxruntime", "cpu")
    _needs("onnx", "build")
    from cir_rt.export.build import BuildOptions
    from cir_rt.export.build import build_engine as run

    report = run(model, out, BuildOptions(**options), calibration=calibration, progress=_say)
    if as_json:
        return _print_json(report.to_json())
    for note in report.notes:
        click.echo(note)
    return _print_facts(report.to_json(), False)


@command("cir-rt index shoes.cir photos/ --gallery shoes.gallery")
@click.argument("bundle", type=FOLDER)
@click.argument("folders", type=FOLDER, nargs=-1, metavar="[IMAGE_DIR]...")
@click.option("--gallery", type=FOLDER, required=True, help="Gallery folder, made if missing.")
@click.option("--metadata", type=FILE, help="CSV or JSONL with a column `id`, perhaps `file`.")
@click.option("--delete", multiple=True, metavar="ID", help="Remove a picture; may be repeated.")
@click.option("--threads", type=click.IntRange(min=1))
def index(
    bundle: Path,
    folders: tuple[Path, ...],
    gallery: Path,
    metadata: Path | None,
    delete: tuple[str, ...],
    threads: int | None,
    as_json: bool,
) -> None:
    """Add the pictures below IMAGE_DIR to a gallery; what it holds unchanged is skipped."""
    from cir_rt.gallery.indexing import find_pictures
    from cir_rt.retriever import Retriever

    if not folders and not delete:
        raise UsageError("nothing to do. Name an IMAGE_DIR, or --delete ID.")
    found = find_pictures(folders, metadata)
    with Retriever.open(bundle, threads=threads) as retriever, _bar(len(found), "indexing") as bar:
        report = retriever.index(
            found, gallery, delete=delete, progress=lambda done, _: bar.update(done - bar.pos)
        )
    facts = {
        "gallery": str(gallery),
        "pictures": report.pictures,
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "deleted": report.deleted,
        "unreadable": [{"id": i, "reason": reason} for i, reason in report.unreadable],
    }
    _print_facts(facts, as_json)


@command('cir-rt search shoes.cir shoes.gallery --image ref.jpg --text "the same but in red"')
@click.argument("bundle", type=FOLDER)
@click.argument("gallery", type=FOLDER)
@click.option("--image", metavar="FILE|ID", help="Reference: a file, or an id of the gallery.")
@click.option("--text", help="What should change.")
@click.option("-k", type=int, default=10, show_default=True)
@click.option("--rerank", type=int, default=0, show_default=True)
@click.option("--weight", type=float, help="1 picture only, 0 words only; the model's unless said.")
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--sheet", type=FILE, metavar="PNG", help="Draw a contact sheet.")
def search(
    bundle: Path,
    gallery: Path,
    image: str | None,
    text: str | None,
    sheet: Path | None,
    threads: int | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Answer one query: a picture, words, or both."""
    from cir_rt.report import table
    from cir_rt.retriever import Retriever

    if sheet and (sheet.suffix.lower() != ".png" or not sheet.absolute().parent.is_dir()):
        raise UsageError(
            f"--sheet {sheet}: expected a name ending in .png in a folder that exists."
        )
    with Retriever.open(bundle, gallery, threads=threads) as retriever:
        hits = retriever.search(image=image, text=text, **how)
        if as_json:
            _print_json(hits.to_json())
        else:
            click.echo(table(["rank", "id", "score"], [[h.rank, h.id, h.score] for h in hits]))
            if hits.weights:
                shares = f"picture {hits.weights.image:.0%}, words {hits.weights.text:.0%}"
                click.echo(f"\n{shares}")
            click.echo(", ".join(f"{stage} {ms:.2f} ms" for stage, ms in hits.timing.items()))
        if sheet:
            _draw_sheet(retriever, hits, image, text, sheet)


@command("cir-rt inspect shoes.cir --verify")
@click.argument("path", type=FOLDER)
@click.option(
    "--verify", is_flag=True, help="Check every checksum; exit code 1 where one is wrong."
)
def inspect(path: Path, verify: bool, as_json: bool) -> None:
    """Say what a bundle, gallery or checkpoint holds."""
    from cir_rt.inspection import inspect as run

    _print_facts(run(path, verify=verify), as_json)


def main() -> None:
    """Run the command line."""
    cli()


def _draw_sheet(retriever: Any, hits: Any, image: str | None, text: str | None, path: Path) -> None:
    from cir_rt.errors import UnknownId
    from cir_rt.report import answer, contact_sheet

    try:
        reference = retriever.thumbnail(image) if image else None
    except UnknownId:
        reference = Path(str(image)).read_bytes()
    contact_sheet([answer(retriever, hits, reference, text)]).save(path)


def _needs(package: str, extra: str) -> None:
    from importlib.util import find_spec

    from cir_rt.errors import BackendMissing

    if find_spec(package) is None:
        raise BackendMissing(
            f"{package} is not installed. Install it:  pip install 'cir-rt[{extra}]'"
        )


def _needs_torch() -> None:
    _needs("torch", "export")


def _bar(length: int, label: str) -> Any:
    """Return a progress bar on stderr, silent where that is no terminal."""
    return click.progressbar(
        length=length, label=label, file=sys.stderr, show_eta=True, hidden=not sys.stderr.isatty()
    )


def _say(stage: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"… {stage}", err=True)


def _print_json(values: dict[str, Any]) -> None:
    click.echo(json.dumps(values))


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print a mapping as JSON, or as indented lines."""
    if as_json:
        return _print_json(facts)
    for key, value in facts.items():
        click.echo(f"{key:<16}{_inline(value)}")
    return None


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_inline(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "none" if not value else "".join(f"\n  {_inline(v)}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
