"""A bundle and its gallery, opened together, and the one thread that owns them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cir_rt.bundle import open_bundle
from cir_rt.encoder import Encoder
from cir_rt.errors import GalleryError
from cir_rt.gallery import Gallery
from cir_rt.prune import Pruner
from cir_rt.rerank import Reranker

T = TypeVar("T")


class Closed(Exception):
    """Work came too late and was not begun."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Where a bundle and a gallery lie, and how they are to be run."""

    bundle: Path
    gallery: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    index: str = "auto"


class Opened:
    """Engines and gallery; `call` runs work on the thread that opened them and will close them."""

    encoder: Encoder
    reranker: Reranker | None  # None where the bundle has none
    fingerprint: str

    def __init__(self, opening: Opening) -> None:
        """Open what is there now. Raises what `Retriever.open` does."""
        self._pruner: Pruner | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cir-rt")
        try:
            self.call(lambda: self._open(opening))
        except BaseException:
            self._thread.shutdown()
            raise

    def _open(self, opening: Opening) -> None:
        # NOTE: a link is followed once. A gallery opens files by name as it goes on, and the link
        # may turn to another gallery meanwhile.
        bundle = open_bundle(opening.bundle.resolve())
        self.fingerprint = bundle.manifest.fingerprints.vectors
        device, threads = opening.device, opening.threads
        self.encoder = Encoder.open(bundle, device=device, threads=threads)
        self.reranker = None
        gallery = None
        try:
            if bundle.manifest.rerank is not None:
                self.reranker = Reranker.open(bundle, device=device, threads=threads)
            if opening.gallery is None:
                return
            gallery = Gallery.open(opening.gallery.resolve(), fingerprint=self.fingerprint)
            self._pruner = Pruner(gallery, index=opening.index, device=device, threads=threads)
        except BaseException:
            self._close_engines()
            if gallery is not None:
                gallery.close()
            raise

    @property
    def pruner(self) -> Pruner:
        """The gallery and its index. Raises GalleryError where none is open."""
        if self._pruner is None:
            raise GalleryError("no gallery is open. Use Retriever.open(bundle, gallery=FOLDER).")
        return self._pruner

    def __len__(self) -> int:
        return len(self._pruner.gallery) if self._pruner is not None else 0

    def call(self, work: Callable[[], T]) -> T:
        """Run work on the owning thread and return what it does. Raises Closed, and what it does.

        May be called from any other thread; work waits its turn.
        """
        try:
            future = self._thread.submit(self._run, work)
        except RuntimeError as error:  # the executor's word for closed
            raise Closed from error
        return future.result()

    def close(self) -> None:
        """Finish what is queued and release everything; a second call does nothing."""
        with suppress(Closed):
            self.call(self._close)
        self._thread.shutdown()

    def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise Closed
        return work()

    def _close(self) -> None:
        self._closed = True
        self._close_engines()
        if self._pruner is not None:
            self._pruner.close()

    def _close_engines(self) -> None:
        self.encoder.close()
        if self.reranker is not None:
            self.reranker.close()
