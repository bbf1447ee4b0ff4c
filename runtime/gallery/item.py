"""One picture to store, and what is refused about it before any work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from cir_rt.errors import GalleryError
from cir_rt.gallery.facts import Facts, Record, TokenFormat

MAX_ID_CHARACTERS = 512
THUMBNAIL_SIDE = 256  # pixels, at most

_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, half characters


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture to store."""

    id: str
    vector: np.ndarray  # (dim,) float32, unit length
    thumbnail: bytes  # JPEG, at most THUMBNAIL_SIDE pixels a side
    source_hash: str  # sha256 of the picture's file, in hex
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tokens: np.ndarray | None = None  # (tokens, width) float32, for re-ranking

    def record(self, facts: Facts) -> Record:
        """Return what the catalogue stores; GalleryError for anything that cannot be stored."""
        if not is_id(self.id):
            raise GalleryError(
                f"id {str(self.id)[:80]!r}: cannot be stored. Expected 1 to {MAX_ID_CHARACTERS} "
                "characters of text without control characters."
            )
        _check_numbers(self.id, "vector", self.vector, facts.vectors.shape)
        if self.tokens is not None:
            check_tokens(self.id, self.tokens, facts.tokens)
        if not isinstance(self.thumbnail, bytes) or not self.thumbnail.startswith(b"\xff\xd8"):
            raise GalleryError(f"{self.id}: thumbnail is no JPEG. Expected the bytes of a JPEG.")
        if not isinstance(self.source_hash, str) or _UNSTORABLE.search(self.source_hash):
            raise GalleryError(f"{self.id}: source hash is no text. Expected sha256 in hex.")
        text = metadata_json(self.id, self.metadata)
        return Record(self.id, self.source_hash, text, self.thumbnail)


def check_tokens(item_id: str, tokens: object, expected: TokenFormat | None) -> None:
    """Raise GalleryError for candidate tokens that a gallery cannot store."""
    if expected is None:
        raise GalleryError(
            f"{item_id}: has tokens, the gallery keeps none. Open it with "
            "Gallery.open_writer(..., tokens=TokenFormat(...))."
        )
    _check_numbers(item_id, "tokens", tokens, expected.rows.shape)


def _check_numbers(item_id: str, name: str, found: object, shape: tuple[int, ...]) -> None:
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        kind = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        raise GalleryError(f"{item_id}: {name} of type {kind}. Expected a float32 array.")
    if found.shape != shape:
        raise GalleryError(f"{item_id}: {name} of shape {found.shape}. Expected {shape}.")
    if not np.isfinite(found).all():
        raise GalleryError(f"{item_id}: {name}: NaN or infinity. Expected finite numbers.")


def is_id(value: object) -> TypeGuard[str]:
    """Tell whether a value may be an id: 1 to 512 characters, none of them a control character."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_ID_CHARACTERS
        and not _UNSTORABLE.search(value)
    )


def metadata_json(item_id: str, metadata: Mapping[str, Any]) -> str:
    """Return metadata as JSON text, the same for equal metadata.

    Raises GalleryError for what JSON would lose: NaN, tuples, sets, keys that are not text.
    """
    try:
        plain = dict(metadata)
        text = json.dumps(
            plain, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
        text.encode()
        if json.loads(text) == plain:
            return text
        reason = "tuples become lists, keys become text"
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    raise GalleryError(
        f"{item_id}: metadata cannot be kept as JSON ({reason}). Expected a dict of text keys "
        "with text, finite numbers, true, false, null, lists and dicts."
    )
