"""Contact sheets, plots and tables, by their pixels and characters."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from cir_rt.errors import BackendMissing
from cir_rt.report import (
    GAP,
    MARGIN,
    PAPER,
    PICTURE_COLOUR,
    RIGHT_COLOUR,
    SIDE_TEXT,
    TILE,
    WORDS_COLOUR,
    Answer,
    answer,
    contact_sheet,
    latency_plot,
    table,
)
from cir_rt.results import Weights
from cir_rt.retriever import Retriever

RED, GREEN, BLUE = (220, 20, 20), (20, 220, 20), (20, 20, 220)


def png(colour: tuple[int, ...], size: tuple[int, int] = (200, 200), **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour)
    image.save(buffer, "PNG", **settings)
    return buffer.getvalue()


def one(**change: Any) -> Answer:
    fields: dict[str, Any] = {
        "reference": png(RED),
        "text": "the same but in green",
        "weights": Weights(image=0.25, text=0.75),
        "pictures": [png(GREEN), png(BLUE)],
        "labels": ["1.  0.900", "2.  0.800"],
    }
    return Answer(**{**fields, **change})


def middle(sheet: Image.Image, row: int, column: int | None, top: int = MARGIN) -> Any:
    """Return the colour in the middle of a tile; column None is the reference."""
    x = MARGIN if column is None else MARGIN + TILE + SIDE_TEXT + 2 * GAP + column * (TILE + GAP)
    return sheet.getpixel((x + TILE // 2, top + row * (TILE + 34) + TILE // 2))


def count(sheet: Image.Image, colour: str) -> int:
    return int((np.asarray(sheet) == ImageColor.getrgb(colour)).all(-1).sum())


def test_a_sheet_has_a_row_for_each_answer() -> None:
    sheet = contact_sheet([one(), one(reference=png(BLUE)), one(pictures=[png(RED)])])
    assert sheet.mode == "RGB"
    assert sheet.width == 2 * MARGIN + TILE + SIDE_TEXT + 2 * GAP + 2 * (TILE + GAP)
    assert sheet.height == 2 * MARGIN - 12 + 3 * (TILE + 34)
    assert [middle(sheet, row, None) for row in range(3)] == [RED, BLUE, RED]
    assert [middle(sheet, 0, column) for column in range(2)] == [GREEN, BLUE]
    assert middle(sheet, 2, 0) == RED
    assert middle(sheet, 2, 1) == ImageColor.getrgb(PAPER)


def test_a_title_moves_the_rows_down() -> None:
    plain, titled = contact_sheet([one()]), contact_sheet([one()], "cir-rt")
    assert titled.height == plain.height + 44
    assert middle(titled, 0, 1, MARGIN + 44) == BLUE


def test_pictures_keep_their_shape() -> None:
    sheet = contact_sheet([one(reference=png(RED, (400, 100)))])
    tile = np.asarray(sheet.crop((MARGIN, MARGIN, MARGIN + TILE, MARGIN + TILE)))
    rows = np.flatnonzero((tile == RED).all(-1).all(1))
    assert len(rows) == TILE // 4
    assert abs(rows.mean() - (TILE - 1) / 2) <= 0.5


def test_right_answers_are_framed() -> None:
    assert count(contact_sheet([one()]), RIGHT_COLOUR) == 0
    sheet = contact_sheet([one(right=[False, True])])
    marked = np.argwhere((np.asarray(sheet) == ImageColor.getrgb(RIGHT_COLOUR)).all(-1))
    left = MARGIN + TILE + SIDE_TEXT + 2 * GAP + TILE
    assert len(marked) > 3 * 4 * TILE * 0.9
    assert marked[:, 1].min() >= left


def test_the_bar_shows_the_weights() -> None:
    shares = []
    for weight in (0.25, 0.75):
        sheet = contact_sheet([one(weights=Weights(image=weight, text=1 - weight), text=None)])
        row = sheet.crop((0, MARGIN + TILE - 29, sheet.width, MARGIN + TILE - 28))
        picture, words = count(row, PICTURE_COLOUR), count(row, WORDS_COLOUR)
        assert picture + words == pytest.approx(SIDE_TEXT - 40, abs=4)
        shares.append(picture / (picture + words))
    assert shares == pytest.approx([0.25, 0.75], abs=0.02)
    assert count(contact_sheet([one(weights=None)]), WORDS_COLOUR) == 0


@pytest.mark.parametrize("text", [None, "word", "many words " * 60, "w" * 300, "ροζ 粉红 🎀"])
def test_any_text_and_no_reference(text: str | None) -> None:
    sheet = contact_sheet([one(reference=None, text=text)])
    assert middle(sheet, 0, None) == ImageColor.getrgb(PAPER)
    assert middle(sheet, 0, 0) == GREEN


def test_nothing_to_show() -> None:
    assert min(contact_sheet([]).size) > 0
    assert min(contact_sheet([one(pictures=[], labels=[])]).size) > 0


def test_a_reference_is_shown_as_it_was_understood() -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = contact_sheet([one(reference=png(RED, (400, 100), exif=exif))])
    tile = np.asarray(turned.crop((MARGIN, MARGIN, MARGIN + TILE, MARGIN + TILE)))
    assert (tile == RED).all(-1).all(0).sum() == TILE // 4
    clear = contact_sheet([one(reference=png((0, 0, 0, 0)))])
    assert middle(clear, 0, None) == (255, 255, 255)


def test_an_answer_holds_the_thumbnails(bundle: Path, gallery: Path) -> None:
    with Retriever.open(bundle, gallery, threads=1) as retriever:
        hits = retriever.search(image="dress-val-00000", text="in red", k=4)
        laid = answer(retriever, hits, png(RED), "in red", right=[hits[2].id])
        assert laid.pictures == [retriever.thumbnail(hit.id) for hit in hits]
    assert laid.right == [False, False, True, False]
    assert laid.labels[0] == f"1.  {hits[0].score:.3f}"
    assert laid.weights == hits.weights
    assert contact_sheet([laid]).size[1] > TILE


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    stages = {name: rng.random(50).tolist() for name in ("image", "text", "total")}
    latency_plot(stages, tmp_path / "plot.png", "title")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.format == "PNG"
        assert len(plot.convert("RGB").getcolors(1 << 20) or ()) > 10


def test_a_missing_plot_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendMissing, match=r"cir-rt\[plots\]"):
        latency_plot({"total": [1.0]}, tmp_path / "plot.png")


def test_tables_are_aligned() -> None:
    text = table(
        ["name", "R@1", "n"], [["short", 3.14159, 7], ["much longer", 100.0, None], ["x", 2, 111]]
    )
    assert text.splitlines() == [
        "name            R@1    n",
        "-----------  ------  ---",
        "short          3.14    7",
        "much longer  100.00    -",
        "x                 2  111",
    ]


def test_a_table_without_rows_has_its_header() -> None:
    assert table(["a", "bc"], []).splitlines() == ["a  bc", "-  --"]
