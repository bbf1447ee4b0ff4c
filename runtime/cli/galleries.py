"""From pictures to answers: index, search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cir_rt.cli.command import FILE, FOLDER, bar, command, print_facts, print_json
from cir_rt.errors import UsageError


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
    with Retriever.open(bundle, threads=threads) as retriever, bar(len(found), "indexing") as shown:
        report = retriever.index(
            found, gallery, delete=delete, progress=lambda done, _: shown.update(done - shown.pos)
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
    print_facts(facts, as_json)


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
            print_json(hits.to_json())
        else:
            click.echo(table(["rank", "id", "score"], [[h.rank, h.id, h.score] for h in hits]))
            if hits.weights:
                shares = f"picture {hits.weights.image:.0%}, words {hits.weights.text:.0%}"
                click.echo(f"\n{shares}")
            click.echo(", ".join(f"{stage} {ms:.2f} ms" for stage, ms in hits.timing.items()))
        if sheet:
            _draw_sheet(retriever, hits, image, text, sheet)


def _draw_sheet(retriever: Any, hits: Any, image: str | None, text: str | None, path: Path) -> None:
    from cir_rt.errors import UnknownId
    from cir_rt.report import answer, contact_sheet

    try:
        reference = retriever.thumbnail(image) if image else None
    except UnknownId:
        reference = Path(str(image)).read_bytes()
    contact_sheet([answer(retriever, hits, reference, text)]).save(path)
