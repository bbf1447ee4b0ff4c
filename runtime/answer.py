"""The way of a query: encode, compose, prune, re-rank, fetch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from cir_rt.candidates import Candidates, Reference
from cir_rt.encoder import Encoder
from cir_rt.errors import GalleryError, UnknownId, UsageError
from cir_rt.gallery import Gallery
from cir_rt.pictures import PictureSource, StoredId, load
from cir_rt.prune import Pruner
from cir_rt.queries import Queries
from cir_rt.rerank import Ranked, Reranker
from cir_rt.results import Hit, Hits, Stopwatch, Weights
from cir_rt.tiers import lowered


def answer(
    encoder: Encoder, reranker: Reranker | None, pruner: Pruner, asked: Queries, clock: Stopwatch
) -> list[Hits]:
    """Answer queries from the newest generation, on the thread that owns engines and gallery.

    Their timing is left to whoever holds the clock. Raises UsageError, PictureError, TextError,
    UnknownId, GalleryError.
    """
    _check_composable(encoder, asked)
    candidates = Candidates(reranker, asked, clock)
    pruner.refresh()
    try:
        return _answered(encoder, candidates, pruner, asked, clock)
    except GalleryError:
        if not pruner.refresh():
            raise
        # it was compacted under our hands
        return _answered(encoder, candidates, pruner, asked, clock)


def _answered(
    encoder: Encoder, candidates: Candidates, pruner: Pruner, asked: Queries, clock: Stopwatch
) -> list[Hits]:
    clock.lap("queue")
    gallery, allowed = pruner.gallery, pruner.allowed(asked.where)
    if asked.where is not None:
        clock.lap("filter")
    u = _texts(encoder, asked.texts, clock)
    v, references = _pictures(encoder, candidates, asked.images, gallery, clock)
    queries, weights = _composed(encoder, asked, v, u)
    clock.lap("compose")
    own_rows = [reference.row for reference in references]
    depth = max(asked.k, *candidates.counts, 0)
    pruned = pruner.search(queries, depth, allowed, exclude=own_rows)
    clock.lap("prune")
    answers = []
    for n, (rows, scores) in enumerate(zip(*pruned, strict=True)):
        rows, scores = _fitting(rows, scores, asked.min_score)
        ranked = candidates.rank(n, gallery, rows, scores, references[n])
        answers.append((_hits(gallery, rows, scores, ranked, asked.k), ranked))
        clock.lap("fetch")
    return [
        Hits(
            hits=hits,
            weights=weight,
            reranked=ranked.reached,
            complete=ranked.complete,
            empty_because="" if hits else _reason(gallery, asked, allowed, scores),
        )
        for (hits, ranked), scores, weight in zip(answers, pruned[1], weights, strict=True)
    ]


def _check_composable(encoder: Encoder, asked: Queries) -> None:
    """Raise UsageError for what a system that composes by attention cannot be asked."""
    if encoder.compose.weighted:
        return
    if asked.weight is not None:
        raise UsageError("weight: this bundle's system composes by attention. Leave it out.")
    if any(image is None for image in asked.images):
        raise UsageError("words alone: this bundle's system reads them beside a picture. Give one.")


def _texts(encoder: Encoder, texts: Sequence[str | None], clock: Stopwatch) -> np.ndarray:
    """Return what is composed of the words, zeros where there are none: (n, words) float32."""
    u = np.zeros((len(texts), encoder.words), np.float32)
    said = [i for i, text in enumerate(texts) if text is not None]
    if said:
        ids = encoder.tokenizer([texts[i] or "" for i in said])
        clock.lap("tokenize")
        u[said] = encoder.encode_ids(ids)
        clock.lap("text")
    return u


def _pictures(
    encoder: Encoder,
    candidates: Candidates,
    images: Sequence[PictureSource | None],
    gallery: Gallery,
    clock: Stopwatch,
) -> tuple[np.ndarray, list[Reference]]:
    """Return references' vectors (zeros where absent), and what the re-ranker needs of them."""
    v = np.zeros((len(images), encoder.dim), np.float32)
    references = [Reference()] * len(images)
    fresh: list[tuple[int, PictureSource]] = []
    for n, image in enumerate(images):
        if isinstance(image, str) and image in gallery:
            row = gallery.row(image)
            v[n], references[n] = gallery.vectors[row], Reference(row=row)
        elif isinstance(image, str) and not _may_be_file(image):
            raise _neither_id_nor_file(image, gallery)
        elif image is not None:
            fresh.append((n, image))
    clock.lap("lookup")
    if fresh:
        pixels = []
        for n, source in fresh:
            picture = load(source)
            pixels.append(encoder.preprocess.pixels(picture))
            if look := candidates.preprocess(n):
                references[n] = Reference(pixels=look.pixels(picture))
        normal = encoder.preprocess.normalise(np.stack(pixels))
        clock.lap("preprocess")
        v[[n for n, _ in fresh]] = encoder.encode_pixels(normal)
        clock.lap("image")
    return v, references


def _may_be_file(image: str) -> bool:
    return not isinstance(image, StoredId) and os.path.exists(image)


def _neither_id_nor_file(image: str, gallery: Gallery) -> UnknownId:
    try:
        gallery.row(image)
    except UnknownId as error:
        return UnknownId(f"'{image}' is no file, and {error}")
    return UnknownId(f"'{image}' is neither a file nor an id of the gallery.")


def _composed(
    encoder: Encoder, asked: Queries, v: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, list[Weights | None]]:
    """Compose where both are there; a lone picture or text is the query itself."""
    queries, shares = encoder.compose(v, u, asked.weight)
    weights: list[Weights | None] = [None] * len(queries)
    if shares is not None:
        weights = [Weights(image=image, text=text) for image, text in shares.tolist()]
    for i, (image, text) in enumerate(zip(asked.images, asked.texts, strict=True)):
        if image is None:
            queries[i], weights[i] = u[i], Weights(image=0.0, text=1.0)
        elif text is None:
            queries[i], weights[i] = v[i], Weights(image=1.0, text=0.0)
    return queries, weights


def _fitting(
    rows: np.ndarray, scores: np.ndarray, min_score: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return one query's pruned rows and scores that may be an answer, best first."""
    found = rows >= 0  # a query that may return fewer than its batch ends in -1
    if min_score is not None:
        found &= scores >= min_score
    return rows[found], scores[found]


def _hits(
    gallery: Gallery, rows: np.ndarray, pruned: np.ndarray, ranked: Ranked, k: int
) -> tuple[Hit, ...]:
    """Return the k best: what was re-ranked in its new order, then the rest as it was pruned."""
    order = np.append(ranked.order(), np.arange(len(ranked.scores), len(rows)))[:k]
    above, below = order[: ranked.reached], order[ranked.reached :]
    best = ranked.scores[above]
    scores = np.append(best, lowered(pruned[below], best.min(initial=np.inf)))
    stored = gallery.items(rows[order].tolist())
    return tuple(
        Hit(id=id_, score=score, prune_score=prune_score, rank=rank, metadata=metadata)
        for rank, ((id_, metadata), score, prune_score) in enumerate(
            zip(stored, scores.tolist(), pruned[order].tolist(), strict=True), 1
        )
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
