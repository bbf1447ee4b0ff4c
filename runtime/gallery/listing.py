"""A gallery's pictures in the order of their ids, a page at a time."""

from __future__ import annotations

from typing import Any

from cir_rt.gallery.store import Gallery

# Found by the index over ids, so that a page costs its own rows alone.
_PAGE = """key IN (SELECT key FROM items
    WHERE id > ? AND died > ? AND row < ? ORDER BY id LIMIT ?)"""


def page(gallery: Gallery, after: str, count: int) -> list[tuple[str, dict[str, Any]]]:
    """Return (id, metadata) of the first `count` pictures whose ids come behind `after`.

    Ids are ordered by code point, "" comes before all. What is added and deleted between one page
    and the next moves no other picture from its place. Raises GalleryError.
    """
    view = gallery.generation, len(gallery.live)
    rows = gallery.matching(_PAGE, (after, *view, count))
    return sorted(gallery.items(rows.tolist()))
