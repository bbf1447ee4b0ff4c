"""The two forms that are sent: a search, and a picture to add."""

from __future__ import annotations

from cir_rt.gallery.item import MAX_ID_CHARACTERS
from cir_rt.modes import MODES
from cir_rt.serve.fields import Field
from cir_rt.serve.query import K
from cir_rt.serve.settings import Limits

LONGEST_DEADLINE_MS = 60_000
A_PIXEL = "UklGRh4AAABXRUJQVlA4TBEAAAAvAAAAAAdQjyLXo/+BiOh/AAA="  # a red one


def search_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of a search."""
    return (*_asked(limits), *_fitting(limits), *_ranked(limits))


def item_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of a picture to add."""
    return (
        Field(
            name="id",
            kind="text",
            says="Its id; a picture that has it already is replaced.",
            example="dress-val-00007",
            required=True,
            minimum=1,
            maximum=MAX_ID_CHARACTERS,
        ),
        Field(
            name="image",
            kind="file",
            says=f"The picture: a file of at most {limits.pixels / 1e6:g} megapixels.",
            example=A_PIXEL,
            required=True,
        ),
        Field(
            name="metadata",
            kind="object",
            says="What is known of it, for conditions and answers; as JSON text in a form.",
            example={"category": "dress", "price": 49.9},
            maximum=limits.metadata_characters,
        ),
    )


def _asked(limits: Limits) -> tuple[Field, ...]:
    """Return the fields that say what is looked for."""
    return (
        Field(
            name="image",
            kind="file",
            says=f"The reference picture: a file of at most {limits.pixels / 1e6:g} megapixels.",
            example=A_PIXEL,
        ),
        Field(
            name="id",
            kind="text",
            says="A picture of the gallery as the reference, in place of `image`.",
            example="dress-val-00007",
            minimum=1,
            maximum=MAX_ID_CHARACTERS,
        ),
        Field(
            name="text",
            kind="text",
            says="What should change about the reference, or what is looked for.",
            example="the same but in red",
            minimum=1,
            maximum=limits.text_characters,
        ),
    )


def _fitting(limits: Limits) -> tuple[Field, ...]:
    """Return the fields that say what fits."""
    return (
        Field(
            name="weight",
            kind="number",
            says="1: the picture only, 0: the words only; the model decides unless said.",
            example=0.5,
            minimum=0,
            maximum=1,
        ),
        Field(
            name="where",
            kind="text",
            says="A condition on the metadata that every picture returned meets.",
            example="category = 'dress' and price < 50",
            minimum=1,
            maximum=limits.where_characters,
        ),
        Field(
            name="min_score",
            kind="number",
            says="What scores below is no answer.",
            example=0.1,
            minimum=-1e6,
            maximum=1e6,
        ),
    )


def _ranked(limits: Limits) -> tuple[Field, ...]:
    """Return the fields that say how much is done."""
    return (
        Field(
            name="k",
            kind="integer",
            says="How many pictures to return.",
            example=10,
            minimum=1,
            maximum=limits.k,
            default=K,
        ),
        Field(
            name="rerank",
            kind="integer",
            says="How many candidates to look at twice; the bundle's own number unless said.",
            example=0,
            minimum=0,
            maximum=limits.rerank,
        ),
        Field(
            name="mode",
            kind="text",
            says="How they are looked at; `fast` drops the hopeless ones first.",
            example="exact",
            choices=MODES,
        ),
        Field(
            name="deadline_ms",
            kind="number",
            says="From now on; then the best ranking known is returned, `complete` or not.",
            example=500,
            minimum=1,
            maximum=LONGEST_DEADLINE_MS,
        ),
    )
