"""From pictures to a gallery's items: read ahead, encode, add, batch by batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from cir_rt.errors import GalleryError
from cir_rt.gallery.decoder import Decoder, Reading, Request
from cir_rt.gallery.item import Item, is_id
from cir_rt.gallery.sources import Source, find_pictures
from cir_rt.gallery.stamps import Stamps
from cir_rt.gallery.store import Gallery
from cir_rt.preprocess import Preprocess

__all__ = ["IndexReport", "PictureEncoder", "Source", "find_pictures", "index_pictures"]

T = TypeVar("T")

BATCH = 64  # pictures encoded and confirmed together
AHEAD = 2  # batches that are read while one is encoded


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What became of the sources."""

    added: int = 0
    updated: int = 0  # another picture, other metadata, or candidate tokens that it lacked
    unchanged: int = 0
    deleted: int = 0
    pictures: int = 0  # in the gallery afterwards
    unreadable: tuple[tuple[str, str], ...] = ()  # (id, reason)
    unmatched: tuple[str, ...] = ()  # ids with metadata and neither file nor stored picture
    seconds: float = 0.0
    index: str = "exact"  # the kind that searches will use
    reason: str = ""  # why it


class PictureEncoder(Protocol):
    """What indexing needs of an encoder."""

    @property
    def preprocess(self) -> Preprocess:
        """How pixels become its input."""

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return n unit vectors, or n pictures' tokens, of (n, 3, size, size) float32."""


def index_pictures(
    encoder: PictureEncoder,
    gallery: Gallery,
    sources: Sequence[Source],
    *,
    tokens: PictureEncoder | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Add what is new or changed; a batch is confirmed before `progress` is told of it.

    `tokens` gives what the gallery's token format says, for re-ranking: also to pictures that were
    stored without, whose vectors are not encoded again.

    What cannot be read is reported, and never ends the run. Begun again after any end, a run
    encodes nothing twice that was confirmed, and reads no file again that looks as it did then.
    Later batches are decoded, in `workers` processes (one a core unless said), and the next one is
    encoded, while a batch is stored. The gallery belongs to the calling thread throughout.
    """
    start, done = time.perf_counter(), 0
    tally = _Tally()
    looks = (encoder.preprocess, *([tokens.preprocess] if tokens else []))
    with (
        Stamps(gallery.folder) as stamps,
        Decoder(looks, workers) as decoder,
        ThreadPoolExecutor(1, thread_name_prefix="encode") as encoding,
    ):
        chunks = (sources[k : k + BATCH] for k in range(0, len(sources), BATCH))
        begun = (_begun(chunk, gallery, tokens is not None, stamps, decoder) for chunk in chunks)
        read = (list(pictures) for pictures in _ahead(begun, AHEAD))
        encoded = ((batch, encoding.submit(_encoded, encoder, tokens, batch)) for batch in read)
        for batch, numbers in _ahead(encoded, 1):
            _store(batch, numbers.result(), gallery, stamps, tally)
            done += len(batch)
            if progress:
                progress(done, len(sources))
    return tally.report(pictures=len(gallery), seconds=time.perf_counter() - start)


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """A source, and what its file is."""

    source: Source
    reading: Reading
    stored_hash: str | None  # of the picture that the gallery holds by this id, None without one

    @property
    def new(self) -> bool:
        """Whether it was decoded and is another picture than the gallery holds."""
        return bool(self.reading.pixels) and self.reading.source_hash != self.stored_hash


class _Numbers(NamedTuple):
    """What encoders made of a batch, in its order."""

    vectors: Iterator[np.ndarray]  # of the pictures that are new
    tokens: Iterator[np.ndarray] | None  # of those that were decoded; None where none are kept


@dataclass(kw_only=True)
class _Tally:
    """The counts of a run so far."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)

    def report(self, *, pictures: int, seconds: float) -> IndexReport:
        """Return the counts of a run that is over."""
        return IndexReport(
            added=self.added,
            updated=self.updated,
            unchanged=self.unchanged,
            pictures=pictures,
            unreadable=tuple(self.unreadable),
            unmatched=tuple(self.unmatched),
            seconds=seconds,
        )


def _begun(
    sources: Sequence[Source], gallery: Gallery, tokens: bool, stamps: Stamps, decoder: Decoder
) -> Iterator[_Picture]:
    """Begin to read the files of a batch that must be read; the iterator waits for each.

    Where tokens are wanted, those of pictures that lack them must be, though they be unchanged.
    """
    ids = [source.id for source in sources if is_id(source.id)]
    lacking = set(gallery.ids_without_tokens(ids)) if tokens else set()
    stored = gallery.source_hashes(ids)
    whole = {item_id: found for item_id, found in stored.items() if item_id not in lacking}
    known = [_known(source, stored, whole, stamps) for source in sources]
    pairs = list(zip(sources, known, strict=True))
    requests = [Request(s.path, whole.get(s.id), s.data) for s, reading in pairs if not reading]
    rest = decoder.begin(requests)
    return (
        _Picture(source=s, reading=reading or next(rest), stored_hash=stored.get(s.id))
        for s, reading in pairs
    )


def _known(
    source: Source, stored: Mapping[str, str], whole: Mapping[str, str], stamps: Stamps
) -> Reading | None:
    """Return what is known of a source without reading its file, None where it must be read."""
    if not is_id(source.id):
        return Reading(fault="the name cannot be an id. Rename the file, or give --metadata.")
    if not source.pictured:
        return Reading(source_hash=stored.get(source.id, ""))
    stored_hash = whole.get(source.id)
    if stored_hash and source.path and stamps.hash_of(source.id, source.path) == stored_hash:
        return Reading(source_hash=stored_hash)
    return None


def _encoded(
    encoder: PictureEncoder, tokens: PictureEncoder | None, batch: Sequence[_Picture]
) -> _Numbers:
    """Encode what is new of a batch, and all that was decoded where tokens are asked for."""
    vectors = _made(encoder, [p.reading.pixels[0] for p in batch if p.new])
    if tokens is None:
        return _Numbers(vectors, None)
    decoded = [p.reading.pixels[1] for p in batch if p.reading.pixels]
    return _Numbers(vectors, _made(tokens, decoded))


def _made(encoder: PictureEncoder, pixels: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Return what an encoder makes of (size, size, 3) uint8 each, one by one."""
    if not pixels:
        return iter(())
    return iter(encoder.encode_pixels(encoder.preprocess.normalise(np.stack(pixels))))


def _store(
    batch: Sequence[_Picture],
    numbers: _Numbers,
    gallery: Gallery,
    stamps: Stamps,
    tally: _Tally,
) -> None:
    """Confirm a batch, then remember what its files looked like."""
    items, seen = [], []
    for picture in batch:
        source, reading = picture.source, picture.reading
        if reading.fault:
            name = source.id if is_id(source.id) else ascii(source.id)
            tally.unreadable.append((name, reading.fault))
        elif not source.pictured and picture.stored_hash is None:
            tally.unmatched.append(source.id)
        else:
            if reading.pixels:
                tokens = next(numbers.tokens) if numbers.tokens else None
                if picture.new:
                    items.append(_new_item(source, reading, next(numbers.vectors), tokens, gallery))
                else:
                    items.append(_same_picture(source, tokens, gallery))
            elif source.metadata is None or gallery.unchanged(
                source.id, reading.source_hash, source.metadata
            ):
                tally.unchanged += 1
            else:
                items.append(_same_picture(source, None, gallery))
            if reading.stamp:
                seen.append((source.id, reading.source_hash, reading.stamp))
    updated = sum(item.id in gallery for item in items)
    gallery.add(items)
    stamps.remember(seen)
    tally.added += len(items) - updated
    tally.updated += updated


def _new_item(
    source: Source,
    reading: Reading,
    vector: np.ndarray,
    tokens: np.ndarray | None,
    gallery: Gallery,
) -> Item:
    return Item(
        id=source.id,
        vector=vector,
        thumbnail=reading.thumbnail,
        source_hash=reading.source_hash,
        metadata=_metadata(source, gallery),
        tokens=tokens,
    )


def _same_picture(source: Source, tokens: np.ndarray | None, gallery: Gallery) -> Item:
    """Return what the gallery holds of a picture, with new metadata, or tokens that it lacks."""
    if tokens is None and gallery.token_format is not None:
        with suppress(GalleryError):  # a picture that has none yet
            tokens = gallery.tokens([gallery.row(source.id)])[0]
    return Item(
        id=source.id,
        vector=gallery.vector(source.id),
        thumbnail=gallery.thumbnail(source.id),
        source_hash=gallery.source_hashes([source.id])[source.id],
        metadata=_metadata(source, gallery),
        tokens=tokens,
    )


def _metadata(source: Source, gallery: Gallery) -> Mapping[str, Any]:
    """Return a source's own metadata, else what is stored of its id."""
    if source.metadata is not None:
        return source.metadata
    return gallery.items([gallery.row(source.id)])[0][1] if source.id in gallery else {}


def _ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield the items, each when `count` more have been begun."""
    begun: deque[T] = deque()
    for item in items:
        begun.append(item)
        if len(begun) > count:
            yield begun.popleft()
    yield from begun
