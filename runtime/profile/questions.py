"""What is asked while it is measured: a dataset's queries, or some that are made up."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cir_rt.bundle import Bundle
from cir_rt.errors import TextError, UsageError
from cir_rt.gallery import Gallery
from cir_rt.pictures import PictureSource
from cir_rt.text import Tokenizer

POOL = 256  # questions that are made up; asked again from the first when more are needed
SIDE = 256  # of a made-up picture: that of a thumbnail
# What shoppers say, short and long as they say it.
CAPTIONS = (
    "in red",
    "is longer",
    "with long sleeves",
    "the same but in blue",
    "more colourful and shorter",
    "has no pattern",
    "is darker with a round neck",
    "with stripes instead of dots",
    "the same shape in a solid colour",
    "is black and has short sleeves",
    "less formal and a bit longer",
    "has flowers on it and a v neck",
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One composed query; `targets` are the right answers' ids, where they are known.

    `known` is the reference's id in the gallery, where recall is counted without it.
    """

    image: PictureSource
    text: str
    targets: tuple[str, ...] = ()
    known: str | None = None


def drawn(
    gallery: Gallery, rng: np.random.Generator, *, reference: str, count: int = POOL
) -> list[Question]:
    """Draw references from a gallery, with a caption each.

    `reference` is "picture" (its thumbnail as JPEG, read and encoded as a stranger's picture is) or
    "id" (looked up). Raises UsageError for a gallery without pictures.
    """
    rows = np.flatnonzero(gallery.live)
    if not len(rows):
        raise UsageError(f"{gallery.folder} holds no picture to ask with.")
    chosen = rng.choice(rows, min(count, len(rows)), replace=False)
    ids = [item_id for item_id, _ in gallery.items(int(row) for row in chosen)]
    look_up: Callable[[str], PictureSource] = str if reference == "id" else gallery.thumbnail
    asked = zip(ids, _texts(len(ids)), strict=True)
    return [Question(image=look_up(item_id), text=text) for item_id, text in asked]


def made_up(rng: np.random.Generator, count: int = POOL) -> list[Question]:
    """Return questions with pictures of coloured blotches, as JPEG, where there is no gallery."""
    questions = []
    for text in _texts(count):
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=90)
        questions.append(Question(image=data.getvalue(), text=text))
    return questions


def _texts(count: int) -> list[str]:
    return [CAPTIONS[i % len(CAPTIONS)] for i in range(count)]


def readable(questions: Iterable[Question], bundle: Bundle) -> list[Question]:
    """Leave those out whose words are longer than the bundle reads. Raises UsageError for none."""
    texts = [role.text for role in bundle.manifest.roles.values() if role.text is not None]
    tokenizers = [
        Tokenizer(bundle.path(text.tokenizer), context=text.context, pad_id=text.pad_id)
        for text in texts
    ]
    kept = [question for question in questions if _fits(question.text, tokenizers)]
    if not kept:
        raise UsageError(f"{bundle.folder} reads none of the queries: all are empty or too long.")
    return kept


def _fits(text: str, tokenizers: Sequence[Tokenizer]) -> bool:
    try:
        for tokenizer in tokenizers:
            tokenizer([text])
    except TextError:
        return False
    return True
