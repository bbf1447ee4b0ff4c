"""Changes of the gallery: one after another, each confirmed on disk before it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cir_rt.errors import PictureError
from cir_rt.gallery.indexing import IndexReport, Source
from cir_rt.retriever import Interrupted, Retriever
from cir_rt.serve.problem import Problem

T = TypeVar("T")

MOST_WAITING = 16
_RETRY_AFTER_S = 2
_RELEASES = 3  # that may come between while one change is made


class Changes:
    """The one thread of this server that writes; searches go on meanwhile."""

    def __init__(self, retriever: Retriever, folder: Path) -> None:
        """Take what encodes pictures, and the gallery's folder or a link to it."""
        self._retriever = retriever
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="changes")
        self._waiting = 0

    async def add(self, item_id: str, data: bytes, metadata: Mapping[str, Any] | None) -> str:
        """Store a picture and return what became of it: added, updated or unchanged.

        Without metadata, what is stored of it stays. Raises PictureError, GalleryError, Problem.
        """
        return await self._call(lambda: self._add(item_id, data, metadata))

    async def delete(self, item_id: str) -> None:
        """Delete a picture. Raises UnknownId, GalleryError, Problem."""
        await self._call(lambda: self._index([], delete=[item_id]))

    def close(self) -> None:
        """Finish what was accepted."""
        self._thread.shutdown()

    def _add(self, item_id: str, data: bytes, metadata: Mapping[str, Any] | None) -> str:
        source = Source(id=item_id, path=None, data=data, metadata=metadata)
        report = self._index([source])
        for _, reason in report.unreadable:
            raise PictureError(reason)
        return "added" if report.added else "updated" if report.updated else "unchanged"

    def _index(self, sources: Sequence[Source], delete: Sequence[str] = ()) -> IndexReport:
        """Change the gallery; now and then that gives the space of dead rows back, and takes.

        A new release that comes between finds the change not made, and makes it.
        """
        for _ in range(_RELEASES):
            with suppress(Interrupted):
                return self._retriever.index(
                    sources, self._folder, delete=delete, compact=True, workers=0
                )
        raise Problem("busy", "A new release is being taken.", retry_after_s=_RETRY_AFTER_S)

    async def _call(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise Problem(
                "busy", f"{self._waiting} changes are waiting.", retry_after_s=_RETRY_AFTER_S
            )
        try:
            future = self._thread.submit(work)
        except RuntimeError as error:  # the executor's word for closed
            raise Problem("busy", "The server is stopping.", retry_after_s=5) from error
        self._waiting += 1
        done = asyncio.wrap_future(future)
        done.add_done_callback(self._one_less)
        # A change that was begun goes on when its caller is gone, and counts until it is done.
        return await asyncio.shield(done)

    def _one_less(self, done: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not done.cancelled():
            done.exception()  # looked at, in case nobody waits for it any more
