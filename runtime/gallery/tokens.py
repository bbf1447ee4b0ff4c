"""A gallery's candidate tokens, read from disk as far as they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cir_rt.errors import GalleryError
from cir_rt.gallery.admission import ADD_TOKENS, check_token_model, without_tokens
from cir_rt.gallery.catalog import Catalog
from cir_rt.gallery.facts import Facts
from cir_rt.gallery.segment import Segment, token_segment


class StoredTokens:
    """The tokens of one generation, read with pread: mapped pages would crowd out the vectors."""

    def __init__(self, folder: Path, catalog: Catalog, facts: Facts) -> None:
        """Read at this view; the file is opened on first use."""
        self._folder, self._catalog, self._facts = folder, catalog, facts
        self._file: int | None = None

    def located(self, rows: Iterable[int], fingerprint: str | None = None) -> LocatedTokens:
        """Find the tokens of live rows, in the order asked.

        Raises GalleryError for a row that has none, GalleryMismatch where the gallery keeps none
        or those of another model than `fingerprint` says.
        """
        check_token_model(self._folder, self._facts, fingerprint)
        if self._facts.tokens is None:
            raise without_tokens(self._folder)
        asked = [int(row) for row in rows]
        places = self._catalog.token_places(self._facts, asked)
        if lacking := [row for row in asked if row not in places]:
            raise GalleryError(
                f"{self._folder}: row {lacking[0]} has no candidate tokens. {ADD_TOKENS}"
            )
        segment = token_segment(self._folder, self._facts)
        if self._file is None:
            self._file = segment.open()
        return LocatedTokens(segment, self._file, [places[row] for row in asked])

    def decoded(self, rows: Iterable[int]) -> np.ndarray:
        """Return the tokens of live rows: (n, tokens, width) float32; raises as `located`."""
        found = self.located(rows)
        assert self._facts.tokens
        return self._facts.tokens.rows.decode(found.read(0, len(found)))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class LocatedTokens:
    """Tokens of some pictures, found and not yet read.

    Any thread may read them, until the gallery that found them is refreshed or closed.
    """

    def __init__(self, segment: Segment, file: int, places: Sequence[int]) -> None:
        """Take the open file of a segment, and the places in it."""
        self._segment, self._file, self._places = segment, file, places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return tokens start to stop as they lie on disk, in the order in which they were asked.

        In INT8 an array (n,) with fields `codes`, (tokens, width) int8, and `scales`, (tokens,)
        float32; in FP16 and FP32 (n, tokens, width). Raises GalleryError where the file ends.
        """
        return self._segment.read(self._file, self._places[start:stop])
