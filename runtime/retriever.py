"""The one object that an application holds: it answers, it indexes, it reloads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cir_rt.answer import answer
from cir_rt.errors import UsageError
from cir_rt.gallery import Gallery
from cir_rt.gallery.compaction import WORTHWHILE
from cir_rt.gallery.current import save_index
from cir_rt.opened import Closed, Opened, Opening
from cir_rt.pictures import PictureSource
from cir_rt.preprocess import Preprocess
from cir_rt.queries import Queries
from cir_rt.results import Hits, Stopwatch

if TYPE_CHECKING:
    from cir_rt.gallery.indexing import IndexReport, Source

T = TypeVar("T")

PIECE = 8  # pictures that indexing encodes between one search and the next


class Interrupted(UsageError):
    """Indexing lost its engines: the retriever was closed, or reloaded."""


class Retriever:
    """A bundle and a gallery, ready to answer. Safe to call from any thread.

    One thread of its own holds engines and gallery; calls queue to it.
    """

    def __init__(self, opening: Opening) -> None:
        """Open what is named there; `open` is the usual way in."""
        self._opening = opening
        self._opened = Opened(opening)
        self._changing = threading.Lock()  # held by `reload` and `close`

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str],
        gallery: str | os.PathLike[str] | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        index: str = "auto",
    ) -> Retriever:
        """Open a bundle, and a gallery of the same model.

        `threads` is what one engine may use, all cores unless said; `index` is how the gallery is
        searched: exact, hnsw, faiss, or auto, which takes what was saved with it. Raises
        BundleError, EngineMismatch, BackendMissing, GalleryError, GalleryMismatch or UsageError.
        """
        opening = Opening(
            bundle=Path(bundle),
            gallery=Path(gallery) if gallery else None,
            device=device,
            threads=threads,
            index=index,
        )
        return cls(opening)

    @property
    def device(self) -> str:
        """Where the engines run."""
        return self._opened.encoder.device

    @property
    def candidates(self) -> int:
        """How many candidates are re-ranked unless said; 0 where the bundle has no re-ranker."""
        reranker = self._opened.reranker
        return 0 if reranker is None else reranker.settings.candidates

    def search(
        self,
        image: PictureSource | None = None,
        text: str | None = None,
        *,
        k: int = 10,
        rerank: int | None = None,
        mode: str = "exact",
        deadline_ms: float | None = None,
        weight: float | None = None,
        where: str | None = None,
        min_score: float | None = None,
    ) -> Hits:
        """Return the k best pictures of the gallery for a picture, words, or both.

        `image` is a path, bytes, a PIL picture, an array or a gallery id (which is then left out
        of its own answer). `weight` replaces the model's: 1 picture only, 0 words only. `where` is
        a condition on the metadata, as "category = 'dress' and price < 50": k pictures come back
        wherever k meet it. What is pruned with a score below `min_score` is no answer.

        Picture and words together are re-ranked: the best `rerank` candidates (as many as the
        bundle says, unless said; 0 for none) are read once more beside both, and put in that
        order above the rest. `mode` is "exact", or "fast", where the early layers drop the
        hopeless ones first. `deadline_ms` after the call, waiting in the queue included, the best
        ranking known is returned, and `complete` and `reranked` of it say how far it came; what
        comes before re-ranking is never cut short. Raises UsageError, PictureError, TextError,
        UnknownId, GalleryError, and GalleryMismatch where the gallery lacks the re-ranker's tokens.
        """
        found = self.search_batch(
            [image],
            [text],
            k=k,
            rerank=rerank,
            mode=mode,
            deadline_ms=deadline_ms,
            weight=weight,
            where=where,
            min_score=min_score,
        )
        return found[0]

    def search_batch(
        self,
        images: Sequence[PictureSource | None],
        texts: Sequence[str | None],
        *,
        k: int = 10,
        rerank: int | None = None,
        mode: str = "exact",
        deadline_ms: float | None = None,
        weight: float | None = None,
        where: str | None = None,
        min_score: float | None = None,
    ) -> list[Hits]:
        """Answer several queries at once; the timing of each is that of the whole batch.

        They are re-ranked one after another, and a deadline is the whole batch's.
        """
        asked = Queries(
            images=images,
            texts=texts,
            k=k,
            rerank=rerank,
            mode=mode,
            deadline_ms=deadline_ms,
            weight=weight,
            where=where,
            min_score=min_score,
        )
        clock = Stopwatch()
        answers = self._call(
            lambda opened: answer(opened.encoder, opened.reranker, opened.pruner, asked, clock)
        )
        clock.lap("return")  # from the owning thread to this one
        timing = clock.timing()
        return [replace(hits, timing=timing) for hits in answers]

    def index(
        self,
        sources: Iterable[Source],
        folder: str | os.PathLike[str],
        *,
        delete: Sequence[str] = (),
        compact: bool = False,
        index: str = "auto",
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> IndexReport:
        """Add pictures to the gallery in `folder`, made where it is missing; delete ids first.

        What it already holds unchanged is skipped, what cannot be read is reported. A bundle that
        re-ranks adds its candidate tokens too, also to pictures that lack them. At the end,
        `compact` gives the space of deleted pictures back where that is worth it, and the gallery's
        index is brought up to date, to the last picture where its kind is said. All this is done by
        the calling thread, with `workers` processes to decode (one a core unless said); searches
        wait for a few pictures at most. Raises UnknownId, GalleryMismatch, StorageFull,
        BackendMissing, and Interrupted where `close` or `reload` comes between.
        """
        from cir_rt.gallery.indexing import index_pictures  # a kiosk that searches needs none of it

        opened = self._opened
        encoder, reranker = opened.encoder, opened.reranker
        vectors = _Shared(opened, encoder.preprocess, encoder.encode_pixels)
        tokens, kept = None, None
        if reranker is not None:
            tokens = _Shared(opened, reranker.preprocess, reranker.encode_tokens)
            kept = reranker.token_format
        with Gallery.open_writer(
            Path(folder).resolve(),
            fingerprint=opened.fingerprint,
            dim=encoder.dim,
            tokens=kept,
        ) as gallery:
            deleted = gallery.delete(delete) if delete else 0
            report = index_pictures(
                vectors, gallery, list(sources), tokens=tokens, workers=workers, progress=progress
            )
            if compact and gallery.wasted >= WORTHWHILE:
                gallery.compact()
            choice = save_index(gallery, index, threads=self._opening.threads, now=index != "auto")
            return replace(report, deleted=deleted, index=choice.kind, reason=choice.reason)

    def thumbnail(self, id: str) -> bytes:  # noqa: A002  the word callers use
        """Return a picture's thumbnail as JPEG. Raises UnknownId."""
        return self._call(lambda opened: opened.pruner.newest().thumbnail(id))

    def reload(self) -> None:
        """Open anew what lies under the names given to `open`, as after a switch of releases.

        No query is dropped: those before are answered by the old bundle and gallery, later ones by
        the new; for that while both are in memory. Raises what `open` does, and the old ones stay.
        """
        with self._changing:
            self._call(lambda _: None)  # tells where it is closed
            old, self._opened = self._opened, Opened(self._opening)
            old.close()

    def close(self) -> None:
        """Finish what is queued and release engines and gallery; a second call does nothing."""
        with self._changing:
            self._opened.close()

    def __enter__(self) -> Retriever:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Retriever(device={self.device}, pictures={len(self._opened)})"

    def _call(self, work: Callable[[Opened], T]) -> T:
        while True:
            opened = self._opened
            try:
                return opened.call(partial(work, opened))
            except Closed:
                if opened is self._opened:  # else `reload` was faster: ask the new one
                    raise UsageError("the retriever is closed. Open it again.") from None


class _Shared:
    """An engine as indexing uses it: a few pictures at a time, so that searches come between.

    Stays with the engines that it began with: a gallery holds vectors of one model.
    """

    def __init__(
        self, opened: Opened, preprocess: Preprocess, encode: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.preprocess = preprocess
        self._opened, self._encode = opened, encode

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return what the engine makes of (n, 3, size, size) float32, with n rows."""
        works = [partial(self._encode, pixels[k : k + PIECE]) for k in range(0, len(pixels), PIECE)]
        try:
            return np.concatenate([self._opened.call(work) for work in works])
        except Closed:
            raise Interrupted(
                "closed while indexing, or reloaded. What was added stays; index again."
            ) from None
