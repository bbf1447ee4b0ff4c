"""What is looked up in the gallery without the engines: thumbnails, pages, its generation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cir_rt.errors import GalleryError, UnknownId
from cir_rt.gallery import Gallery
from cir_rt.gallery.listing import page
from cir_rt.serve.problem import Problem

T = TypeVar("T")


class State(NamedTuple):
    """What the gallery is now."""

    generation: int
    pictures: int


class Shelf:
    """A reader of the gallery beside the one that searches, on a thread of its own."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Open what is there now. Raises GalleryError and GalleryMismatch."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shelf")
        self._gallery: Gallery = self._thread.submit(
            partial(Gallery.open, folder.resolve(), fingerprint=fingerprint)
        ).result()

    async def state(self) -> State:
        """Return the newest generation."""
        return await self._call(lambda gallery: State(gallery.generation, len(gallery)))

    async def thumbnail(self, item_id: str) -> bytes:
        """Return a picture's thumbnail as JPEG. Raises UnknownId."""
        return await self._call(lambda gallery: gallery.thumbnail(item_id))

    async def check(self, item_id: str) -> None:
        """Raise UnknownId where the gallery holds no such picture."""
        await self._call(lambda gallery: gallery.row(item_id))

    async def page(self, after: str, count: int) -> list[tuple[str, dict[str, Any]]]:
        """Return (id, metadata) of the next pictures by id."""
        return await self._call(lambda gallery: page(gallery, after, count))

    def close(self) -> None:
        """Finish what was asked and close the gallery."""
        self._thread.submit(self._gallery.close)
        self._thread.shutdown()

    async def _call(self, look: Callable[[Gallery], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._looked, look)
        except RuntimeError as error:  # the executor's word for closed
            raise Problem("busy", "The server is stopping.", retry_after_s=5) from error

    def _looked(self, look: Callable[[Gallery], T]) -> T:
        gallery = self._gallery
        gallery.refresh()
        try:
            return look(gallery)
        except UnknownId as error:  # where the gallery lies is nobody's business
            raise UnknownId(str(error).removeprefix(f"{gallery.folder}: ")) from error
        except GalleryError:
            if not gallery.refresh():
                raise
            return look(gallery)  # it was compacted under our hands
