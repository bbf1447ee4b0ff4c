"""From picture files to a gallery's items: decode, thumbnail, encode, add."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from cir_rt.errors import DataError, PictureError
from cir_rt.gallery.item import Item, is_id
from cir_rt.gallery.store import Gallery
from cir_rt.pictures import SUFFIXES, load
from cir_rt.preprocess import Preprocess

T = TypeVar("T")

THUMBNAIL_SIDE = 256
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Source:
    """One picture to index."""

    id: str
    path: Path
    metadata: Mapping[str, Any] | None = None  # None keeps what is stored


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What became of the sources."""

    added: int
    updated: int
    unchanged: int
    deleted: int
    pictures: int  # in the gallery afterwards
    unreadable: tuple[tuple[str, str], ...]  # (id, reason)


class PictureEncoder(Protocol):
    """What indexing needs of an encoder."""

    preprocess: Preprocess

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return unit vectors (n, dim) of (n, 3, size, size) float32."""


@dataclass(frozen=True, kw_only=True)
class _Read:
    source: Source
    data: bytes
    source_hash: str


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    source: Source
    source_hash: str
    pixels: np.ndarray  # (size, size, 3) uint8
    thumbnail: bytes


def find_pictures(folders: Sequence[Path], metadata: Path | None = None) -> list[Source]:
    """List pictures below the folders; the id is the path below its folder without suffix.

    `metadata` is a CSV or JSONL table: a row belongs to a picture by its `id`, and names its file
    below the folder where it has a `file`; without a table, stored metadata stays. Raises
    DataError.
    """
    rows = _read_metadata(metadata) if metadata else {}
    named = {str(row["file"]): key for key, row in rows.items() if row.get("file")}
    sources: dict[str, Source] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder. Expected a folder of pictures.")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            below = path.relative_to(folder)
            key = named.get(below.as_posix(), below.with_suffix("").as_posix())
            if key in sources:
                raise DataError(
                    f"{path} and {sources[key].path} have the same id '{key}'. "
                    "Rename one, or give ids with --metadata."
                )
            kept = {k: v for k, v in rows.get(key, {}).items() if k not in ("id", "file")}
            sources[key] = Source(id=key, path=path, metadata=kept if metadata else None)
    if sources and rows and not set(rows) & set(sources):
        raise DataError(
            f"{metadata}: none of its {len(rows)} ids is a picture's. The first picture is "
            f"'{next(iter(sources))}', the first row '{next(iter(rows))}'."
        )
    return list(sources.values())


def index_pictures(
    encoder: PictureEncoder,
    gallery: Gallery,
    sources: Sequence[Source],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Add what is new or changed; a batch is confirmed before the next one is encoded."""
    added = updated = unchanged = done = 0
    unreadable: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool:
        for batch in _chunks(sources, BATCH):
            stored = {s.id for s in batch if is_id(s.id) and s.id in gallery}
            read, bad = _sorted_out(pool.map(_read, batch))
            changed = [r for r in read if not _is_stored(r, gallery)]
            decoded, worse = _sorted_out(pool.map(partial(_decode, encoder.preprocess), changed))
            if decoded:
                pixels = encoder.preprocess.normalise(np.stack([d.pixels for d in decoded]))
                vectors = encoder.encode_pixels(pixels)
                pairs = zip(decoded, vectors, strict=True)
                gallery.add([_item(d, v, gallery) for d, v in pairs])
            known = sum(d.source.id in stored for d in decoded)
            added += len(decoded) - known
            updated += known
            unchanged += len(read) - len(changed)
            unreadable += [*bad, *worse]
            done += len(batch)
            if progress:
                progress(done, len(sources))
    return IndexReport(
        added=added,
        updated=updated,
        unchanged=unchanged,
        deleted=0,
        pictures=len(gallery),
        unreadable=tuple(unreadable),
    )


def thumbnail(image: Image.Image) -> bytes:
    """Return the picture re-encoded as JPEG, at most 256 pixels a side."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _sorted_out(results: Iterable[T | tuple[str, str]]) -> tuple[list[T], list[tuple[str, str]]]:
    """Part what could be read from (id, reason) pairs of what could not."""
    good: list[T] = []
    bad: list[tuple[str, str]] = []
    for result in results:
        if isinstance(result, tuple):
            bad.append(result)
        else:
            good.append(result)
    return good, bad


def _read(source: Source) -> _Read | tuple[str, str]:
    if not is_id(source.id):
        return ascii(source.id), "the name cannot be an id. Rename the file, or give --metadata."
    try:
        data = source.path.read_bytes()
    except OSError as error:
        return source.id, str(error)
    return _Read(source=source, data=data, source_hash=hashlib.sha256(data).hexdigest())


def _decode(preprocess: Preprocess, read: _Read) -> _Decoded | tuple[str, str]:
    try:
        image = load(read.data)
    except PictureError as error:
        return read.source.id, str(error)
    return _Decoded(
        source=read.source,
        source_hash=read.source_hash,
        pixels=preprocess.pixels(image),
        thumbnail=thumbnail(image),
    )


def _metadata(source: Source, gallery: Gallery) -> Mapping[str, Any]:
    """Return the source's metadata, or what the gallery holds where the source brings none."""
    if source.metadata is not None:
        return source.metadata
    return gallery.items([gallery.row(source.id)])[0][1] if source.id in gallery else {}


def _is_stored(read: _Read, gallery: Gallery) -> bool:
    metadata = _metadata(read.source, gallery)
    return gallery.unchanged(read.source.id, read.source_hash, metadata)


def _item(decoded: _Decoded, vector: np.ndarray, gallery: Gallery) -> Item:
    return Item(
        id=decoded.source.id,
        vector=vector,
        thumbnail=decoded.thumbnail,
        source_hash=decoded.source_hash,
        metadata=_metadata(decoded.source, gallery),
    )


def _chunks(items: Sequence[Source], size: int) -> Iterator[Sequence[Source]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """Read the table as rows by id. Raises DataError for what cannot be right."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows: list[Any]
        lines = path.suffix.lower() == ".jsonl"
        if lines:
            rows = [
                json.loads(line, parse_constant=_no_number)
                for line in text.split("\n")
                if line.strip()
            ]
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        table = {str(row["id"]): row for row in rows}
        files = [row["file"] for row in rows if row.get("file")]
        if any(None in row or None in row.values() for row in rows if not lines):
            raise ValueError("a row has more or fewer cells than the header")
        if len(table) < len(rows) or len(set(files)) < len(files):
            raise ValueError("an id or a file stands there twice")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected CSV with a header, or JSONL, with an 'id' in each row ({error!r})."
        ) from error
    return table


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
