"""The index of a gallery, current: who writes saves it, who reads takes the newest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cir_rt.config import to_dict
from cir_rt.errors import BackendMissing, GalleryError
from cir_rt.gallery import saved
from cir_rt.gallery.approximate import ApproximateIndex
from cir_rt.gallery.exact import ExactIndex
from cir_rt.gallery.index import (
    AUTO,
    KINDS,
    Choice,
    Index,
    IndexedGallery,
    Rows,
    candidates_class,
    check_kind,
    choose,
    installed,
)
from cir_rt.gallery.saved import Description, Stamp

if TYPE_CHECKING:
    from cir_rt.gallery.cuda import CudaIndex

_log = logging.getLogger(__name__)

_LEFT_ROWS, _LEFT_SHARE = 1000, 0.01  # rows that a saved index may lack before it is saved anew


class CurrentIndex:
    """What a reader searches with: `follow` after each look at the gallery keeps it current.

    It never builds. Where no saved index matches the gallery, every row is scored, which is right
    but slow, until a writer saves one; a kind that was asked for by name then stands in a warning.
    `auto` takes whatever kind was saved, `exact` where none was. On a GPU both `auto` and `exact`
    are the scan in its memory, whatever was saved. Owned by one thread, as its gallery is.
    """

    def __init__(
        self,
        gallery: IndexedGallery,
        kind: str = AUTO,
        *,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        """Open the index of a gallery.

        Raises UsageError for an unknown kind, BackendMissing where the library of a kind that was
        asked for by name, or what a GPU's scan needs, is not installed, and DeviceError where the
        GPU's memory does not suffice.
        """
        if kind not in (AUTO, "exact"):
            _empty(gallery, kind, None, device, threads)  # tells at once what is missing
        self._asked, self._device, self._threads = kind, device, threads
        self._index: Index = ExactIndex(gallery.vectors)
        self._saved: Description | None = None  # what _index was loaded from
        # What could not be used, as it was then.
        self._refused: set[tuple[str, Stamp | None]] = set()
        self._stamp: Stamp | None = None
        self._vectors: Rows | None = None
        self._on_gpu = device.startswith("cuda") and kind in (AUTO, "exact")
        self._cuda: CudaIndex | None = None
        self._segment = -1  # the numbering of the rows that lie on the GPU
        self.follow(gallery)

    @property
    def kind(self) -> str:
        """The kind that answers now: exact while no saved index of the kind asked for matches."""
        return self._index.kind

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"CurrentIndex({self._index!r}, asked for {self._asked})"

    def search(
        self,
        queries: np.ndarray,
        k: int,
        mask: np.ndarray | None = None,
        *,
        exclude: Sequence[int | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, scores) of the best k, as `Index.search` states."""
        return self._index.search(queries, k, mask, exclude=exclude)

    def follow(self, gallery: IndexedGallery) -> None:
        """Search in what the gallery shows now, with the newest index saved for it."""
        if self._on_gpu:
            self._follow_on_gpu(gallery)
            return
        stamp, vectors = saved.stamp(gallery.folder), gallery.vectors
        if vectors is self._vectors and stamp == self._stamp:
            return
        self._vectors, self._stamp = vectors, stamp
        newest = self._newest(gallery)
        if newest is not None and newest != self._saved and self._take(gallery, newest):
            return
        if self._saved is not None and self._saved.matches(gallery):
            self._index.extend(vectors)
            return
        self._index, self._saved = ExactIndex(vectors), None
        if self._asked not in (AUTO, "exact"):
            _log.warning(
                "%s: no saved %s index matches; every row is scored until one is made:  "
                "cir-rt index BUNDLE --gallery GALLERY --index %s",
                gallery.folder,
                self._asked,
                self._asked,
            )

    def close(self) -> None:
        """Free the GPU's memory, where it is used; a second call does nothing."""
        if self._cuda is not None:
            self._cuda.close()
            self._cuda = None

    def _follow_on_gpu(self, gallery: IndexedGallery) -> None:
        """Bring new rows to the GPU, or all of them where they were renumbered."""
        from cir_rt.gallery.cuda import CudaIndex

        vectors = gallery.vectors
        if self._cuda is None or gallery.segment != self._segment:
            self.close()  # two may not fit
            self._index = self._cuda = CudaIndex(vectors, self._device)
            self._segment = gallery.segment
        elif vectors is not self._vectors:
            self._cuda.extend(vectors)
        self._vectors = vectors

    def _newest(self, gallery: IndexedGallery) -> Description | None:
        kinds = KINDS[1:] if self._asked == AUTO else (self._asked,)
        found = [saved.describe(gallery.folder, kind) for kind in kinds]
        whole = [d for d in found if d and (d.file, self._stamp) not in self._refused]
        fitting = [d for d in whole if d.matches(gallery)]
        return max(fitting, key=lambda d: d.rows, default=None)

    def _take(self, gallery: IndexedGallery, newest: Description) -> bool:
        """Change over to a saved index, unless it turns out that it cannot be used."""
        try:
            saved.check(gallery.folder, newest)
            self._index, self._saved = ExactIndex(gallery.vectors), None  # two may not fit
            self._index = saved.load(gallery, newest, device=self._device, threads=self._threads)
        except BackendMissing:
            if self._asked != AUTO:
                raise
            self._refused.add((newest.file, self._stamp))
            return False
        except GalleryError as error:
            if saved.describe(gallery.folder, newest.kind) != newest:
                self._stamp = None  # replaced while it was read: look again the next time
            else:
                self._refused.add((newest.file, self._stamp))
                _log.warning("%s It is made again by:  cir-rt index BUNDLE --gallery …", error)
            return False
        self._saved = newest
        return True


def save_index(
    gallery: IndexedGallery,
    kind: str = AUTO,
    *,
    settings: Any = None,
    device: str = "cpu",
    threads: int | None = None,
    now: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Bring the saved index up to date, as the gallery's one writer; return its kind and why.

    `auto` keeps the kind that is saved already, else `choose` decides. What matches the gallery is
    extended, but not for a few rows unless `now`: those are scored exactly until there are more.
    What does not match, is damaged, or has other settings than these is built anew. Other kinds
    are removed. Raises BackendMissing, StorageFull, GalleryError, UsageError.
    """
    choice = _choice(gallery, kind, device)
    saved.remove(gallery.folder, but=choice.kind)
    rows = len(gallery.vectors)
    if choice.kind == "exact" or not gallery.live.any():
        return choice
    found = saved.describe(gallery.folder, choice.kind)
    if found is not None and not _is_good(gallery, found, settings):
        found = None
    lacking = rows - (found.rows if found else 0)
    if found is None or lacking > (0 if now else _LEFT_ROWS + _LEFT_SHARE * rows):
        if found is None:
            index = _empty(gallery, choice.kind, settings, device, threads)
        else:
            index = saved.load(gallery, found, device=device, threads=threads)
        index.grow(gallery.live, progress)
        saved.save(gallery, index)
    return choice


def _choice(gallery: IndexedGallery, kind: str, device: str) -> Choice:
    if kind != AUTO:
        check_kind(kind)
        return Choice(kind, "it was asked for")
    libraries = installed()
    for stored in KINDS[1:]:
        here = candidates_class(stored)[0].LIBRARY in libraries
        if here and saved.describe(gallery.folder, stored):
            return Choice(stored, "it is the one saved already")
    precision = getattr(gallery.vectors, "precision", "fp32")  # an array has none
    return choose(int(np.count_nonzero(gallery.live)), device, libraries, precision)


def _is_good(gallery: IndexedGallery, found: Description, settings: Any) -> bool:
    if not found.matches(gallery) or (settings and to_dict(settings) != found.settings):
        return False
    try:
        saved.check(gallery.folder, found)
    except GalleryError as error:
        _log.warning("%s It is built anew.", error)
        return False
    return True


def _empty(
    gallery: IndexedGallery, kind: str, settings: Any, device: str, threads: int | None
) -> ApproximateIndex:
    """Return an index of this kind that covers nothing yet."""
    cls, changes = candidates_class(kind)
    dim = gallery.vectors.shape[1]
    candidates = cls(dim, settings or cls.Settings(**changes), device=device, threads=threads)
    return ApproximateIndex(gallery.vectors, candidates, kind=kind, covered=0)
