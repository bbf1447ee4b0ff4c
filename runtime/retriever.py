"""The way of a query: encode, compose, prune, fetch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.errors import GalleryError, UnknownId, UsageError
from cir_rt.gallery import ExactIndex, Gallery
from cir_rt.gallery.indexing import IndexReport, Source, index_pictures
from cir_rt.pictures import PictureSource
from cir_rt.results import Hit, Hits, Stopwatch, Weights

T = TypeVar("T")


class Retriever:
    """A bundle and a gallery, ready to answer. Safe to call from any thread.

    One thread of its own holds engines and gallery; calls queue to it.
    """

    def __init__(self, encoder: Encoder, gallery: Gallery | None, fingerprint: str) -> None:
        """Take an encoder and a gallery that belong together; `open` is the usual way in."""
        self._encoder = encoder
        self._gallery = gallery
        self._fingerprint = fingerprint
        self._index = ExactIndex(gallery.vectors) if gallery is not None else None
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="cir-rt")
        self._closed = False
        self.device = encoder.device

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str],
        gallery: str | os.PathLike[str] | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Retriever:
        """Open a bundle, and a gallery of the same model.

        `threads` is what one engine may use, all cores unless said. Raises BundleError,
        EngineMismatch, BackendMissing, GalleryError or GalleryMismatch.
        """
        opened = open_bundle(Path(bundle))
        fingerprint = opened.manifest.fingerprints.vectors
        encoder = Encoder.open(opened, device=device, threads=threads)
        pictures = Gallery.open(Path(gallery), fingerprint=fingerprint) if gallery else None
        return cls(encoder, pictures, fingerprint)

    def search(
        self,
        image: PictureSource | None = None,
        text: str | None = None,
        *,
        k: int = 10,
        rerank: int | None = None,
        weight: float | None = None,
    ) -> Hits:
        """Return the k best pictures of the gallery for a picture, words, or both.

        `image` is a path, bytes, a PIL picture, an array or a gallery id (which is then left out
        of its own answer). `weight` replaces the model's: 1 picture only, 0 words only. Raises
        UsageError, PictureError, TextError, UnknownId, GalleryError.
        """
        return self.search_batch([image], [text], k=k, rerank=rerank, weight=weight)[0]

    def search_batch(
        self,
        images: Sequence[PictureSource | None],
        texts: Sequence[str | None],
        *,
        k: int = 10,
        rerank: int | None = None,
        weight: float | None = None,
    ) -> list[Hits]:
        """Answer several queries at once; the timing of each is that of the whole batch."""
        _check(images, texts, k, rerank, weight)
        clock = Stopwatch()
        return self._call(lambda: self._search(images, texts, k, weight, clock))

    def index(
        self,
        sources: Iterable[Source],
        folder: str | os.PathLike[str],
        *,
        delete: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> IndexReport:
        """Add pictures to the gallery in `folder`, made where it is missing; delete ids first.

        What it already holds unchanged is skipped, what cannot be read is reported. Searches wait
        until it is done, `close` until its batch is; `progress` may not call the retriever. Raises
        UnknownId, GalleryMismatch, StorageFull.
        """

        def tick(done: int, total: int) -> None:
            if self._closed:
                raise UsageError("closed while indexing. What was added stays; index again.")
            if progress:
                progress(done, total)

        def work() -> IndexReport:
            with Gallery.open_writer(
                Path(folder), fingerprint=self._fingerprint, dim=self._encoder.dim
            ) as gallery:
                deleted = gallery.delete(delete) if delete else 0
                report = index_pictures(self._encoder, gallery, list(sources), progress=tick)
                return replace(report, deleted=deleted)

        return self._call(work)

    def thumbnail(self, id: str) -> bytes:  # noqa: A002  the word callers use
        """Return a picture's thumbnail as JPEG. Raises UnknownId."""
        return self._call(lambda: self._opened()[0].thumbnail(id))

    def close(self) -> None:
        """Finish what is queued and release engines and gallery; a second call does nothing."""
        self._closed = True
        self._owner.shutdown()
        self._encoder.close()
        if self._gallery is not None:
            self._gallery.close()

    def __enter__(self) -> Retriever:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = len(self._gallery) if self._gallery is not None else 0
        return f"Retriever(device={self.device}, pictures={size})"

    def _call(self, work: Callable[[], T]) -> T:
        try:
            future = self._owner.submit(work)
        except RuntimeError as error:  # the executor's word for closed
            raise UsageError("the retriever is closed. Open it again.") from error
        return future.result()

    def _opened(self) -> tuple[Gallery, ExactIndex]:
        if self._gallery is None or self._index is None:
            raise GalleryError("no gallery is open. Use Retriever.open(bundle, gallery=FOLDER).")
        if self._gallery.refresh():
            self._index = ExactIndex(self._gallery.vectors)
        return self._gallery, self._index

    def _search(
        self,
        images: Sequence[PictureSource | None],
        texts: Sequence[str | None],
        k: int,
        weight: float | None,
        clock: Stopwatch,
    ) -> list[Hits]:
        gallery, index = self._opened()
        clock.lap("queue")
        u = self._texts(texts, clock)
        v, own_rows = self._pictures(images, gallery, clock)
        queries, weights = self._composed(images, texts, v, u, weight)
        clock.lap("compose")
        rows, scores = index.search(queries, k, mask=gallery.live, exclude=own_rows)
        clock.lap("prune")
        found = [_hits(gallery, r, s) for r, s in zip(rows, scores, strict=True)]
        clock.lap("fetch")
        timing = clock.timing()
        return [
            Hits(hits=h, weights=Weights(image=float(w[0]), text=float(w[1])), timing=timing)
            for h, w in zip(found, weights, strict=True)
        ]

    def _pictures(
        self, images: Sequence[PictureSource | None], gallery: Gallery, clock: Stopwatch
    ) -> tuple[np.ndarray, list[int | None]]:
        """Return references' vectors (zeros where absent) and their own rows in the gallery."""
        v = np.zeros((len(images), self._encoder.dim), np.float32)
        own_rows: list[int | None] = [None] * len(images)
        fresh: list[int] = []
        for i, image in enumerate(images):
            if isinstance(image, str) and image in gallery:
                own_rows[i] = gallery.row(image)
                v[i] = gallery.vectors[own_rows[i]]
            elif image is not None:
                if isinstance(image, str) and not os.path.exists(image):
                    raise _neither_id_nor_file(image, gallery)
                fresh.append(i)
        clock.lap("lookup")
        if fresh:
            sources: list[Any] = [images[i] for i in fresh]
            pixels = self._encoder.preprocess(sources)
            clock.lap("preprocess")
            v[fresh] = self._encoder.encode_pixels(pixels)
            clock.lap("image")
        return v, own_rows

    def _texts(self, texts: Sequence[str | None], clock: Stopwatch) -> np.ndarray:
        u = np.zeros((len(texts), self._encoder.dim), np.float32)
        said = [i for i, text in enumerate(texts) if text is not None]
        if said:
            ids = self._encoder.tokenizer([texts[i] or "" for i in said])
            clock.lap("tokenize")
            u[said] = self._encoder.encode_ids(ids)
            clock.lap("text")
        return u

    def _composed(
        self,
        images: Sequence[PictureSource | None],
        texts: Sequence[str | None],
        v: np.ndarray,
        u: np.ndarray,
        weight: float | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compose where both are there; a lone picture or text is the query itself."""
        queries, weights = self._encoder.compose(v, u, weight)
        for i, (image, text) in enumerate(zip(images, texts, strict=True)):
            if image is None:
                queries[i], weights[i] = u[i], (0, 1)
            elif text is None:
                queries[i], weights[i] = v[i], (1, 0)
        return queries, weights


def _hits(gallery: Gallery, rows: np.ndarray, scores: np.ndarray) -> tuple[Hit, ...]:
    found = rows >= 0  # a query that may return fewer than its batch ends in -1
    rows, scores = rows[found], scores[found]
    stored = gallery.items([int(row) for row in rows])
    return tuple(
        Hit(id=id_, score=float(s), prune_score=float(s), rank=rank, metadata=metadata)
        for rank, ((id_, metadata), s) in enumerate(zip(stored, scores, strict=True), 1)
    )


def _neither_id_nor_file(image: str, gallery: Gallery) -> UnknownId:
    try:
        gallery.row(image)
    except UnknownId as error:
        return UnknownId(f"'{image}' is no file, and {error}")
    return UnknownId(f"'{image}' is neither a file nor an id of the gallery.")


def _check(
    images: Sequence[PictureSource | None],
    texts: Sequence[str | None],
    k: int,
    rerank: int | None,
    weight: float | None,
) -> None:
    if len(images) != len(texts):
        raise UsageError(f"{len(images)} images and {len(texts)} texts. Expected as many of each.")
    if any(image is None and text is None for image, text in zip(images, texts, strict=True)):
        raise UsageError("neither picture nor words. Give image=, text=, or both.")
    if k < 1:
        raise UsageError(f"k is {k}. Expected at least 1.")
    if rerank:
        raise UsageError(
            f"rerank is {rerank}, but this version of cir-rt prunes only. Leave it out, or say 0."
        )
    if weight is not None and not 0 <= weight <= 1:
        raise UsageError(f"weight {weight} is outside 0 (words only) to 1 (picture only).")
