"""What a server holds while it runs: the retriever, the queue before it, the gallery's changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np

from cir_rt import __version__
from cir_rt.bundle import Manifest, read_manifest
from cir_rt.errors import UnknownId
from cir_rt.preprocess import Preprocess
from cir_rt.results import Hits
from cir_rt.retriever import Retriever
from cir_rt.serve.batcher import Batcher
from cir_rt.serve.changes import Changes
from cir_rt.serve.memory import Memory
from cir_rt.serve.query import How, Query, left_ms
from cir_rt.serve.rate import Rate
from cir_rt.serve.settings import ServeSettings
from cir_rt.serve.shelf import Shelf
from cir_rt.serve.telemetry import Telemetry

T = TypeVar("T")

_PULSE = "red"  # words that any model reads


class Service:
    """A bundle and a gallery at work for many callers."""

    def __init__(self, settings: ServeSettings) -> None:
        """Open all that settings name, and warm it up. Raises what `Retriever.open` does."""
        self.settings = settings
        self.tokens = settings.tokens()
        self.rate = Rate(settings.limits.rate)
        self.memory = Memory(settings.limits.memory_bytes)
        self.telemetry = Telemetry()
        self.manifest = read_manifest(settings.bundle)
        self.retriever = Retriever.open(
            settings.bundle, settings.gallery, device=settings.device, threads=settings.threads
        )
        with ExitStack() as undo:
            undo.callback(self.retriever.close)
            self.shelf = Shelf(settings.gallery, self.manifest.fingerprints.vectors)
            undo.callback(self.shelf.close)
            self._warm_up()
            undo.pop_all()
        self.batcher = Batcher(self._answer, settings.batching, self.telemetry.batch)
        self.changes = Changes(self.retriever, settings.gallery)
        self.ready = False
        cores = os.cpu_count() or 1
        self._decoding = ThreadPoolExecutor(cores, thread_name_prefix="decode")
        self._watch()

    @property
    def geometries(self) -> list[Preprocess]:
        """How each image engine of the bundle wants its pixels."""
        return geometries(self.manifest)

    def start(self) -> None:
        """Begin to answer; called in the event loop."""
        self.batcher.start()
        self.ready = True

    async def stop(self) -> None:
        """Finish what was accepted and release everything."""
        self.ready = False
        await self.batcher.stop()
        await asyncio.to_thread(self._close)

    async def decode(self, work: Callable[[], T]) -> T:
        """Run work on a picture away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, work)

    async def pulse(self) -> None:
        """Answer one query the way that all go. Raises what answering raises."""
        await self.batcher.ask(Query(text=_PULSE, how=How(k=1)))

    async def reload(self) -> None:
        """Take what lies under the settings' names now: a new release, new tokens.

        No request is dropped; where the new does not open, the old stays. A picture that was
        decoded for the old bundle at that instant is scaled for the new one.
        """
        tokens = self.settings.tokens()
        manifest, shelf = await asyncio.to_thread(self._reopened)
        old = self.shelf
        self.tokens, self.manifest, self.shelf = tokens, manifest, shelf
        await asyncio.to_thread(old.close)

    async def facts(self) -> dict[str, Any]:
        """Return what /health tells."""
        state = await self.shelf.state()
        target = self.manifest.target
        return {
            "status": "ok",
            "version": __version__,
            "device": self.retriever.device,
            "bundle": {
                "name": self.settings.bundle.name,
                "fingerprint": self.manifest.fingerprints.vectors,
                "backend": target.backend,
                "precisions": dict(self.manifest.precisions),
            },
            "gallery": {
                "name": self.settings.gallery.name,
                "generation": state.generation,
                "pictures": state.pictures,
            },
        }

    def _answer(self, queries: Sequence[Query]) -> list[Hits]:
        """Answer queries that may keep one another company."""
        arguments = queries[0].how.arguments()
        if (deadline_ms := left_ms(queries)) is not None:
            arguments["deadline_ms"] = deadline_ms
        images, texts = [query.image for query in queries], [query.text for query in queries]
        try:
            return self.retriever.search_batch(images, texts, **arguments)
        except UnknownId as error:  # it was there when the request came
            raise UnknownId("The reference was deleted meanwhile.") from error

    def _warm_up(self) -> None:
        """Let every engine see each sort of query, alone and in a full batch."""
        size = self.geometries[0].size
        picture = np.full((size, size, 3), 127, np.uint8)
        for count in (1, self.settings.batching.batch):
            for image, text in ((picture, _PULSE), (picture, None), (None, _PULSE)):
                self.retriever.search_batch([image] * count, [text] * count)

    def _reopened(self) -> tuple[Manifest, Shelf]:
        manifest = read_manifest(self.settings.bundle)
        shelf = Shelf(self.settings.gallery, manifest.fingerprints.vectors)
        try:
            self.retriever.reload()
        except BaseException:
            shelf.close()
            raise
        return manifest, shelf

    def _close(self) -> None:
        self.changes.close()
        self._decoding.shutdown()
        self.shelf.close()
        self.retriever.close()

    def _watch(self) -> None:
        watch = self.telemetry.watch
        watch("cir_rt_queue_depth", "Searches that wait for the engines.", self._depth)
        watch("cir_rt_admitted", "Searches not answered yet.", lambda: self.batcher.admitted)
        watch("cir_rt_held_bytes", "Bodies and pictures held.", lambda: self.memory.held_bytes)

    def _depth(self) -> float:
        return self.batcher.depth


def geometries(manifest: Manifest) -> list[Preprocess]:
    """Return how each image engine of a bundle wants its pixels."""
    roles = (manifest.roles.get(name) for name in ("image", "rerank_image"))
    return [role.preprocess for role in roles if role is not None and role.preprocess is not None]
