"""A gallery's candidate tokens, read from disk as far as they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cir_rt.errors import GalleryError
from cir_rt.gallery.catalog import Catalog
from cir_rt.gallery.facts import Facts
from cir_rt.gallery.segment import token_segment


class StoredTokens:
    """The tokens of one generation, read with pread: mapped pages would crowd out the vectors."""

    def __init__(self, folder: Path, catalog: Catalog, facts: Facts) -> None:
        """Read at this view; the file is opened on first use."""
        self._folder, self._catalog, self._facts = folder, catalog, facts
        self._file: int | None = None

    def read(self, rows: Iterable[int]) -> np.ndarray:
        """Return the tokens of live rows as they are stored, in the order asked.

        Raises GalleryError for a row that has none.
        """
        if self._facts.tokens is None:
            raise GalleryError(
                f"{self._folder}: keeps no candidate tokens. Add them with Gallery.add_tokens."
            )
        segment = token_segment(self._folder, self._facts)
        places = [self._place(int(row)) for row in rows]
        if self._file is None:
            self._file = segment.open()
        return segment.read(self._file, places)

    def decoded(self, rows: Iterable[int]) -> np.ndarray:
        """Return the tokens of live rows: (n, tokens, width) float32; raises as `read`."""
        stored = self.read(rows)
        assert self._facts.tokens
        return self._facts.tokens.rows.decode(stored)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _place(self, row: int) -> int:
        place = self._catalog.token_place(self._facts, row)
        if place is None:
            raise GalleryError(
                f"{self._folder}: row {row} has no candidate tokens. Add them with "
                "Gallery.add_tokens; ids_without_tokens lists what lacks them."
            )
        return place
