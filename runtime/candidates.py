"""The candidates of a call's queries: the best of what was pruned, put in a re-ranker's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cir_rt.errors import UsageError
from cir_rt.gallery import Gallery
from cir_rt.gallery.rowformat import RowFormat
from cir_rt.gallery.tokens import LocatedTokens
from cir_rt.prefetch import Parts, Prefetch
from cir_rt.preprocess import Preprocess
from cir_rt.queries import Queries
from cir_rt.rerank import Ranked, Reranker
from cir_rt.results import Stopwatch


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What is known of a query's picture: its row in the gallery, or its pixels, or nothing."""

    row: int | None = None
    pixels: np.ndarray | None = None  # (size, size, 3) uint8, as the re-ranker looks at it


class Candidates:
    """How many candidates each query has, and how they are re-ranked; for one call."""

    def __init__(self, reranker: Reranker | None, asked: Queries, clock: Stopwatch) -> None:
        """Take the bundle's re-ranker, where it has one. Raises UsageError for what it cannot."""
        self._asked, self._clock = asked, clock
        self._deadline = clock.deadline(asked.deadline_ms)
        self._reranker = reranker
        self.counts = [0] * len(asked)  # candidates of each query
        if reranker is not None:
            reranker.check_mode(asked.mode)
            self.counts = asked.candidates(reranker.settings.candidates)
        elif asked.rerank or asked.mode != "exact":
            what = f"rerank is {asked.rerank}" if asked.rerank else f"mode is '{asked.mode}'"
            raise UsageError(
                f"{what}, but the bundle has no re-ranker. Leave it out, or build one in:  "
                "cir-rt build-engine CKPT --reranker CKPT --out BUNDLE"
            )

    def preprocess(self, query: int) -> Preprocess | None:
        """Return how the re-ranker looks at a query's picture; None where it will not."""
        return self._reranker.preprocess if self._reranker and self.counts[query] else None

    def rank(
        self,
        query: int,
        gallery: Gallery,
        rows: np.ndarray,
        pruned: np.ndarray,
        known: Reference,
    ) -> Ranked:
        """Score the first of a query's pruned rows, whose tokens are read while the query is.

        `pruned` are the rows' inner products, (n,) float32 as `rows`.
        Raises GalleryError where tokens are missing, GalleryMismatch where they are another
        model's, and TextError.
        """
        reranker, clock = self._reranker, self._clock
        best = rows[: self.counts[query]].tolist()
        if reranker is None or not best:
            return Ranked.none(0)
        found = _Found(reranker, gallery, best, known)
        clock.lap("fetch_tokens")
        if not reranker.in_time(self._deadline, picture=known.row is None):
            return Ranked.none(len(best))
        with Prefetch(found.read, len(best), reranker.first_run(len(best))) as fetch:

            def waited(start: int, stop: int) -> Parts:
                clock.lap("rerank")
                tokens = fetch(start, stop)
                clock.lap("fetch_tokens")
                return tokens

            reference = found.reference()
            clock.lap("fetch_tokens" if known.pixels is None else "rerank_image")
            state = reranker.query(self._asked.texts[query] or "", reference)
            clock.lap("rerank_text")
            ranked = reranker.rank(
                state,
                waited,
                len(best),
                pruned=pruned[: len(best)],
                mode=self._asked.mode,
                deadline=self._deadline,
            )
            clock.lap("rerank")
        return ranked


class _Found:
    """Where the tokens of a query's candidates and reference lie."""

    def __init__(
        self, reranker: Reranker, gallery: Gallery, rows: Sequence[int], known: Reference
    ) -> None:
        self._reranker, self._pixels = reranker, known.pixels
        own = [] if known.row is None else [known.row]
        self._before = len(own)  # of the candidates
        self._located: LocatedTokens = gallery.located_tokens(
            [*own, *rows], fingerprint=reranker.fingerprint
        )
        assert gallery.token_format
        self._stored = gallery.token_format.rows

    def reference(self) -> np.ndarray:
        """Return (places, width) float32 as the gallery holds it, or would hold it."""
        if self._pixels is None:
            (tokens,) = self._stored.decode(self._located.read(0, 1))
            return tokens
        pixels = self._reranker.preprocess.normalise(self._pixels[None])
        rows = self._stored.encode(self._reranker.encode_tokens(pixels))
        (tokens,) = self._stored.decode(rows)  # a file is answered as its id is
        return tokens

    def read(self, start: int, stop: int) -> Parts:
        """Return candidates' tokens as the engine takes them: codes with scales, or float32."""
        rows = self._located.read(self._before + start, self._before + stop)
        if not self._reranker.takes_codes:
            return (self._stored.decode(rows),)
        if self._stored.precision != "int8":
            codes = RowFormat(precision="int8", shape=self._stored.shape)
            rows = codes.encode(self._stored.decode(rows))
        return tuple(np.ascontiguousarray(rows[name]) for name in ("codes", "scales"))
