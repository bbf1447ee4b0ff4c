"""What people look at: contact sheet, latency plot, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from cir_rt.errors import BackendMissing
from cir_rt.percentile import percentile
from cir_rt.pictures import load
from cir_rt.results import Hits, Weights

if TYPE_CHECKING:
    from cir_rt.retriever import Retriever

TILE, GAP, MARGIN = 148, 10, 28
SIDE_TEXT = 250
INK, FAINT, PAPER, RULE = "#1d2129", "#77808c", "#ffffff", "#e6e9ee"
PICTURE_COLOUR, WORDS_COLOUR, RIGHT_COLOUR = "#3566c4", "#e08a2e", "#2c9a5b"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One composed query as the contact sheet shows it; pictures are encoded image bytes."""

    reference: bytes | None
    text: str | None
    weights: Weights | None
    pictures: Sequence[bytes]
    labels: Sequence[str]  # one a picture: a score, a name
    right: Sequence[bool] = ()  # where the targets are known


def answer(
    retriever: Retriever,
    hits: Hits,
    reference: bytes | None,
    text: str | None,
    right: Sequence[str] = (),
) -> Answer:
    """Lay one search's hits out for a contact sheet; ids in `right` are marked."""
    return Answer(
        reference=reference,
        text=text,
        weights=hits.weights,
        pictures=[retriever.thumbnail(hit.id) for hit in hits],
        labels=[f"{hit.rank}.  {hit.score:.3f}" for hit in hits],
        right=[hit.id in right for hit in hits],
    )


def contact_sheet(answers: Sequence[Answer], title: str = "") -> Image.Image:
    """Draw a row for each query: reference, words, weights, then the ranked pictures."""
    columns = max((len(a.pictures) for a in answers), default=0)
    top = MARGIN + (44 if title else 0)
    row_height = TILE + 34
    width = 2 * MARGIN + TILE + SIDE_TEXT + 2 * GAP + columns * (TILE + GAP)
    sheet = Image.new("RGB", (width, top + row_height * len(answers) + MARGIN - 12), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN - 6), title, INK, font=_font(22))
    for i, answer in enumerate(answers):
        y = top + i * row_height
        if i:
            draw.line((MARGIN, y - 9, width - MARGIN, y - 9), RULE)
        _draw_query(sheet, draw, answer, y)
        x = MARGIN + TILE + SIDE_TEXT + 2 * GAP
        for j, picture in enumerate(answer.pictures):
            right = bool(answer.right[j]) if j < len(answer.right) else False
            _draw_tile(sheet, draw, picture, (x, y), right)
            draw.text((x + 2, y + TILE + 3), answer.labels[j], FAINT, font=_font(12))
            x += TILE + GAP
    return sheet


def _draw_query(sheet: Image.Image, draw: ImageDraw.ImageDraw, answer: Answer, y: int) -> None:
    if answer.reference is not None:
        _draw_tile(sheet, draw, answer.reference, (MARGIN, y), False)
    x = MARGIN + TILE + 16
    lines = _wrapped(draw, f"“{answer.text}”", SIDE_TEXT - 34, _font(16)) if answer.text else []
    for k, line in enumerate(lines[:4]):
        draw.text((x, y + 2 + 22 * k), line, INK, font=_font(16))
    if answer.weights is None:
        return
    bar, bar_y = SIDE_TEXT - 40, y + TILE - 32
    split = round(bar * answer.weights.image)
    draw.rounded_rectangle((x, bar_y, x + bar, bar_y + 8), 4, fill=WORDS_COLOUR)
    if split >= 8:
        draw.rounded_rectangle((x, bar_y, x + split, bar_y + 8), 4, fill=PICTURE_COLOUR)
    draw.text((x, bar_y + 14), f"picture {answer.weights.image:.0%}", PICTURE_COLOUR, _font(13))
    words = f"words {answer.weights.text:.0%}"
    end = x + bar - draw.textlength(words, font=_font(13))
    draw.text((end, bar_y + 14), words, WORDS_COLOUR, _font(13))


def _draw_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    data: bytes,
    corner: tuple[int, int],
    right: bool,
) -> None:
    tile = load(data)
    tile.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    x, y = corner
    sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
    if right:
        draw.rectangle((x - 3, y - 3, x + TILE + 2, y + TILE + 2), outline=RIGHT_COLOUR, width=3)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(
    draw: ImageDraw.ImageDraw,
    text: str,
    width: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def latency_plot(stages: Mapping[str, Sequence[float]], path: Path, title: str = "") -> None:
    """Draw milliseconds per stage as stacked medians beside the totals' distribution.

    `stages` holds one list a stage and "total", a value per query. Raises BackendMissing where
    matplotlib is not installed.
    """
    figure = new_figure(9, 3.4)
    from matplotlib import colormaps

    bars, spread = figure.subplots(1, 2, width_ratios=(3, 2))
    bars.set_prop_cycle(color=colormaps["tab20"](range(20)))  # there are more stages than 10
    left = 0.0
    for name, values in stages.items():
        if name != "total":
            median = percentile(values, 50)
            bars.barh(0, median, left=left, height=0.5, label=f"{name} {median:.2f}")
            left += median
    bars.set(yticks=[], xlabel="milliseconds (medians)", title=title or "One query, stage by stage")
    bars.legend(ncols=3, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    spread.hist(list(stages["total"]), bins=40, color=PICTURE_COLOUR)
    for q, style in ((50, "-"), (99, ":")):
        value = percentile(stages["total"], q)
        spread.axvline(value, color=WORDS_COLOUR, linestyle=style, label=f"p{q} {value:.2f} ms")
    spread.set(xlabel="milliseconds (total)", ylabel="queries", title="All queries")
    spread.legend(fontsize=8, frameon=False)
    for axis in (bars, spread):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches. Raises BackendMissing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendMissing(
            "matplotlib is not installed. Install it:  pip install 'cir-rt[plots]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as text with aligned columns; numbers stand to the right."""
    cells = [list(header), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(line[c]) for line in cells) for c in range(len(header))]
    numeric = [
        all(isinstance(row[c], (int, float)) or row[c] is None for row in rows)
        for c in range(len(header))
    ]
    lines = [
        "  ".join(
            cell.rjust(w) if right else cell.ljust(w)
            for cell, w, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
