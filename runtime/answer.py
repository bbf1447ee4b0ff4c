"""The way of a query: encode, compose, prune, fetch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cir_rt.encoder import Encoder
from cir_rt.errors import GalleryError, UnknownId
from cir_rt.gallery import Gallery
from cir_rt.pictures import PictureSource
from cir_rt.prune import Pruner
from cir_rt.queries import Queries
from cir_rt.results import Hit, Hits, Stopwatch, Weights


def answer(encoder: Encoder, pruner: Pruner, asked: Queries, clock: Stopwatch) -> list[Hits]:
    """Answer queries from the newest generation, on the thread that owns encoder and gallery.

    Raises UsageError, PictureError, TextError, UnknownId, GalleryError.
    """
    pruner.refresh()
    try:
        return _answered(encoder, pruner, asked, clock)
    except GalleryError:
        if not pruner.refresh():
            raise
        return _answered(encoder, pruner, asked, clock)  # it was compacted under our hands


def _answered(encoder: Encoder, pruner: Pruner, asked: Queries, clock: Stopwatch) -> list[Hits]:
    clock.lap("queue")
    allowed = pruner.allowed(asked.where)
    if asked.where is not None:
        clock.lap("filter")
    u = _texts(encoder, asked.texts, clock)
    v, own_rows = _pictures(encoder, asked.images, pruner.gallery, clock)
    queries, weights = _composed(encoder, asked, v, u)
    clock.lap("compose")
    rows, scores = pruner.search(queries, asked.k, allowed, exclude=own_rows)
    clock.lap("prune")
    hits = [_hits(pruner.gallery, asked, *best) for best in zip(rows, scores, strict=True)]
    clock.lap("fetch")
    timing = clock.timing()
    return [
        Hits(
            hits=found,
            weights=Weights(image=float(image), text=float(text)),
            timing=timing,
            empty_because="" if found else _reason(pruner.gallery, asked, allowed, best),
        )
        for found, best, (image, text) in zip(hits, scores, weights, strict=True)
    ]


def _texts(encoder: Encoder, texts: Sequence[str | None], clock: Stopwatch) -> np.ndarray:
    """Return the words' vectors, zeros where there are none: (n, dim) float32."""
    u = np.zeros((len(texts), encoder.dim), np.float32)
    said = [i for i, text in enumerate(texts) if text is not None]
    if said:
        ids = encoder.tokenizer([texts[i] or "" for i in said])
        clock.lap("tokenize")
        u[said] = encoder.encode_ids(ids)
        clock.lap("text")
    return u


def _pictures(
    encoder: Encoder, images: Sequence[PictureSource | None], gallery: Gallery, clock: Stopwatch
) -> tuple[np.ndarray, list[int | None]]:
    """Return references' vectors (zeros where absent) and their own rows in the gallery."""
    v = np.zeros((len(images), encoder.dim), np.float32)
    own_rows: list[int | None] = [None] * len(images)
    fresh: list[int] = []
    for i, image in enumerate(images):
        if isinstance(image, str) and image in gallery:
            row = own_rows[i] = gallery.row(image)
            v[i] = gallery.vectors[row]
        elif image is not None:
            if isinstance(image, str) and not os.path.exists(image):
                raise _neither_id_nor_file(image, gallery)
            fresh.append(i)
    clock.lap("lookup")
    if fresh:
        sources: list[Any] = [images[i] for i in fresh]
        pixels = encoder.preprocess(sources)
        clock.lap("preprocess")
        v[fresh] = encoder.encode_pixels(pixels)
        clock.lap("image")
    return v, own_rows


def _neither_id_nor_file(image: str, gallery: Gallery) -> UnknownId:
    try:
        gallery.row(image)
    except UnknownId as error:
        return UnknownId(f"'{image}' is no file, and {error}")
    return UnknownId(f"'{image}' is neither a file nor an id of the gallery.")


def _composed(
    encoder: Encoder, asked: Queries, v: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compose where both are there; a lone picture or text is the query itself."""
    queries, weights = encoder.compose(v, u, asked.weight)
    for i, (image, text) in enumerate(zip(asked.images, asked.texts, strict=True)):
        if image is None:
            queries[i], weights[i] = u[i], (0, 1)
        elif text is None:
            queries[i], weights[i] = v[i], (1, 0)
    return queries, weights


def _hits(
    gallery: Gallery, asked: Queries, rows: np.ndarray, scores: np.ndarray
) -> tuple[Hit, ...]:
    found = rows >= 0  # a query that may return fewer than its batch ends in -1
    if asked.min_score is not None:
        found &= scores >= asked.min_score
    rows, scores = rows[found], scores[found]
    stored = gallery.items([int(row) for row in rows])
    return tuple(
        Hit(id=id_, score=float(s), prune_score=float(s), rank=rank, metadata=metadata)
        for rank, ((id_, metadata), s) in enumerate(zip(stored, scores, strict=True), 1)
    )


def _reason(gallery: Gallery, asked: Queries, allowed: np.ndarray, scores: np.ndarray) -> str:
    """Say why an answer is empty; scores are the best, before `min_score` was held to them."""
    if not len(gallery):
        return "the gallery is empty"
    if not allowed.any():
        return f"no picture meets the condition {asked.where}"
    if asked.min_score is None or not len(scores) or scores[0] == -np.inf:
        return "there is no picture but the reference itself"
    return f"nothing fits: the best scores {scores[0]:.3f}, below {asked.min_score:g}"
