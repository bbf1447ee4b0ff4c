"""From pictures to answers: index, search."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir_rt.cli.command import FILE, FOLDER, bar, command, needs, print_facts, print_json
from cir_rt.errors import UsageError
from cir_rt.modes import MODES

if TYPE_CHECKING:
    from cir_rt.results import Hits


INDEXES = ("auto", "exact", "hnsw", "faiss")
LIBRARIES = {"hnsw": ("hnswlib", "hnsw"), "faiss": ("faiss", "faiss")}  # package and extra


@command("cir-rt index shoes.cir photos/ --gallery shoes.gallery --metadata prices.csv")
@click.argument("bundle", type=FOLDER)
@click.argument("folders", type=FOLDER, nargs=-1, metavar="[IMAGE_DIR]...")
@click.option("--gallery", type=FOLDER, required=True, help="Gallery folder, made if missing.")
@click.option(
    "--index",
    "kind",
    type=click.Choice(INDEXES),
    default="auto",
    show_default=True,
    help="How it is searched; auto goes by its size and says why.",
)
@click.option("--metadata", type=FILE, help="CSV or JSONL with a column `id`, perhaps `file`.")
@click.option("--delete", multiple=True, metavar="ID", help="Remove a picture; may be repeated.")
@click.option("--compact", is_flag=True, help="Free the space of deleted pictures, if it is much.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that decode, one a core unless said; 0: none but this one.",
)
def index(
    bundle: Path,
    folders: tuple[Path, ...],
    gallery: Path,
    kind: str,
    metadata: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Add the pictures below IMAGE_DIR to a gallery; what it holds unchanged is skipped.

    Begun again after an interrupt, it goes on where it was. With a bundle that re-ranks, pictures
    that were indexed without get what re-ranking needs. Without IMAGE_DIR, --metadata renews that
    of pictures the gallery holds.
    """
    from cir_rt.gallery.sources import find_pictures
    from cir_rt.retriever import Retriever

    if not (folders or metadata or how["delete"] or how["compact"] or kind != "auto"):
        raise UsageError("nothing to do. Name an IMAGE_DIR, or --delete ID.")
    if kind in LIBRARIES:
        needs(*LIBRARIES[kind])
    found = find_pictures(folders, metadata)
    with (
        Retriever.open(bundle, device=device, threads=threads) as retriever,
        bar(len(found), "indexing") as shown,
    ):
        start = time.monotonic()

        def progress(done: int, _: int) -> None:
            shown.label = f"indexing, {done / (time.monotonic() - start):.0f} pictures/s"
            shown.update(done - shown.pos)

        report = retriever.index(found, gallery, index=kind, progress=progress, **how)
    facts = {"gallery": str(gallery), **asdict(report)}
    facts["unreadable"] = [{"id": i, "reason": reason} for i, reason in report.unreadable]
    facts["unmatched"] = list(report.unmatched)
    facts["index"] = {"kind": report.index, "reason": facts.pop("reason")}
    print_facts(facts, as_json)


@command(
    'cir-rt search shoes.cir shoes.gallery --image ref.jpg --text "in red" --where "price < 50"'
)
@click.argument("bundle", type=FOLDER)
@click.argument("gallery", type=FOLDER)
@click.option("--image", metavar="FILE|ID", help="Reference: a file, or an id of the gallery.")
@click.option("--text", help="What should change.")
@click.option("-k", type=int, default=10, show_default=True)
@click.option(
    "--rerank",
    type=int,
    metavar="N",
    help="Candidates to put in a new order, as many as the bundle says unless said; 0: none.",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="exact",
    show_default=True,
    help="fast drops hopeless candidates after the re-ranker's early layers.",
)
@click.option(
    "--deadline-ms", type=float, metavar="T", help="Return the best ranking known by then."
)
@click.option("--weight", type=float, help="1 picture only, 0 words only; the model's unless said.")
@click.option(
    "--where",
    metavar="EXPR",
    help="Only pictures whose metadata meets it, as \"category = 'dress' and price < 50\".",
)
@click.option("--min-score", type=float, help="What is pruned with a score below is no answer.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--sheet", type=FILE, metavar="PNG", help="Draw a contact sheet.")
def search(
    bundle: Path,
    gallery: Path,
    image: str | None,
    text: str | None,
    sheet: Path | None,
    device: str,
    threads: int | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Answer one query: a picture, words, or both."""
    from cir_rt.retriever import Retriever

    if sheet and (sheet.suffix.lower() != ".png" or not sheet.absolute().parent.is_dir()):
        raise UsageError(
            f"--sheet {sheet}: expected a name ending in .png in a folder that exists."
        )
    with Retriever.open(bundle, gallery, device=device, threads=threads) as retriever:
        hits = retriever.search(image=image, text=text, **how)
        if as_json:
            print_json(hits.to_json())
        else:
            _print_hits(hits)
        if sheet:
            _draw_sheet(retriever, hits, image, text, sheet)


def _print_hits(hits: Hits) -> None:
    from cir_rt.report import table

    if hits:
        click.echo(table(["rank", "id", "score"], [[h.rank, h.id, h.score] for h in hits]))
    else:
        click.echo(hits.empty_because)
    if hits.weights:
        click.echo(f"\npicture {hits.weights.image:.0%}, words {hits.weights.text:.0%}")
    if hits.reranked or not hits.complete:
        end = "" if hits.complete else ", then time was up"
        click.echo(f"{hits.reranked} candidates re-ranked{end}")
    click.echo(", ".join(f"{stage} {ms:.2f} ms" for stage, ms in hits.timing.items()))


def _draw_sheet(retriever: Any, hits: Any, image: str | None, text: str | None, path: Path) -> None:
    from cir_rt.errors import UnknownId
    from cir_rt.report import answer, contact_sheet

    try:
        reference = retriever.thumbnail(image) if image else None
    except UnknownId:
        reference = Path(str(image)).read_bytes()
    contact_sheet([answer(retriever, hits, reference, text)]).save(path)
