"""`cir-rt profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir_rt.cli.command import FILE, FOLDER, command, needs, print_json, say
from cir_rt.errors import UsageError
from cir_rt.modes import MODES
from cir_rt.profile.options import REFERENCES, SCENARIOS, ProfileOptions

if TYPE_CHECKING:
    from cir_rt.profile.questions import Question

_DEFAULT = ProfileOptions()


class _Counts(click.ParamType):
    """Whole numbers between commas."""

    name = "counts"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Return the numbers, each once."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) >= self._least for part in parts):
            self.fail(f"'{value}'. Expected numbers from {self._least} on, as 1,8,32.", param, ctx)
        return tuple(dict.fromkeys(map(int, parts)))


@command("cir-rt profile shoes.cir shoes.gallery --scenario server --bound-ms 50")
@click.argument("bundle", type=FOLDER)
@click.argument("gallery", type=FOLDER, required=False)
@click.option(
    "--scenario", type=click.Choice(list(SCENARIOS)), default=_DEFAULT.scenario, show_default=True
)
@click.option(
    "-b", "--batch", "batches", type=_Counts(1), default=(), metavar="1,8,32",
    help="Queries in one call; 1, 8 in multi-stream, 32 in offline unless said.",
)  # fmt: skip
@click.option(
    "--rerank", type=_Counts(0), default=(), metavar="0,50,100",
    help="Candidates; 0 and the re-ranker's own number unless said.",
)  # fmt: skip
@click.option("--mode", type=click.Choice(MODES), default=_DEFAULT.mode, show_default=True)
@click.option("-k", "--k", type=click.IntRange(min=1), default=_DEFAULT.k, show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=_DEFAULT.runs, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=_DEFAULT.warmup, show_default=True)
@click.option(
    "--bound-ms", type=click.FloatRange(min=0, min_open=True), default=_DEFAULT.bound_ms,
    show_default=True, help="In server: an answer that comes later is a bad one.",
)  # fmt: skip
@click.option("--queries", type=FOLDER, metavar="DATA", help="A dataset's, with their recall.")
@click.option("--split", default="val", show_default=True, help="Of the dataset.")
@click.option(
    "--reference", type=click.Choice(REFERENCES), default=_DEFAULT.reference, show_default=True,
    help="Asked with a picture's bytes, or with its id in the gallery.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(min=0), default=_DEFAULT.processes, show_default=True,
    help="Fresh ones, for the cold start.",
)  # fmt: skip
@click.option("--device", default=_DEFAULT.device, show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--seed", type=int, default=_DEFAULT.seed, show_default=True)
@click.option("--plot", type=FILE, metavar="PNG", help="Draw stages, latency and recall.")
@click.option("--compare", "older", type=FILE, metavar="OLD.json", help="Exit 1 on a regression.")
def profile(
    bundle: Path,
    gallery: Path | None,
    queries: Path | None,
    split: str,
    plot: Path | None,
    older: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measure what a caller of BUNDLE waits for; without GALLERY, its encoders alone.

    The scenarios are MLPerf Inference's. `--json > old.json` keeps a profile for `--compare`.
    """
    from cir_rt.profile import comparison, page, plots
    from cir_rt.profile import report as reports

    if plot:
        needs("matplotlib", "plots")
        if plot.suffix.lower() != ".png" or not plot.absolute().parent.is_dir():
            raise UsageError(
                f"--plot {plot}: expected a name ending in .png in a folder that exists."
            )
    options = ProfileOptions(**settings)
    before = comparison.read_report(older) if older else None
    asked: list[Question] = []
    name = "made up"
    if queries:
        asked, name = _questions(queries, split, gallery, options.reference)
    if before:
        comparison.check_same(before, reports.heading(options, name))
    found = reports.profile(bundle, gallery, options, questions=asked, asked_of=name, say=say)
    compared = comparison.compare(before, found) if before else []
    if plot:
        plots.draw(found, plot)
    if as_json:
        more = {"compared": [c.to_json() for c in compared]} if before else {}
        print_json({**found, **more})
    else:
        click.echo(page.page(found))
        if before:
            click.echo(f"\n{page.compared_page(compared)}")
    comparison.check(compared)


def _questions(
    data: Path, split: str, gallery: Path | None, reference: str
) -> tuple[list[Question], str]:
    """Return a dataset's queries, and its name with the split's."""
    from cir_rt.export.data.formats import open_dataset
    from cir_rt.gallery import Gallery
    from cir_rt.profile.questions import Question

    if gallery is None:
        raise UsageError("--queries needs the gallery that they are asked of. Name GALLERY too.")
    dataset = open_dataset(data)
    chosen = dataset.split(split)
    paths = dataset.paths(query.reference for query in chosen.queries)
    with Gallery.open(gallery) as opened:
        held = set(opened.ids())
    asked = []
    for query, path in zip(chosen.queries, paths, strict=True):
        known = query.reference if query.reference in held else None
        if reference == "id" and known is None:
            raise UsageError(f"--reference id: the gallery does not hold '{query.reference}'.")
        asked.append(
            Question(
                image=query.reference if reference == "id" else path,
                text=query.text,
                targets=query.targets,
                known=None if chosen.protocol.keep_reference else known,
            )
        )
    if not any(target in held for question in asked for target in question.targets):
        raise UsageError(f"{gallery} holds none of the pictures that {data} asks for.")
    return asked, f"{dataset.name} {split}"
