"""A year of a shop: pictures come and go every day, and the gallery neither slows nor swells.

    python benchmarks/shop_year.py --json

One writer adds, deletes, saves its index and compacts as `cir-rt index --compact` does, day after
day in one process; one reader follows it without reopening. At the end, recall and disk are held
against a gallery of the same pictures made at once.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from recording import keep

from cir_rt.gallery import ExactIndex, Gallery, Item
from cir_rt.gallery.compaction import WORTHWHILE
from cir_rt.gallery.current import CurrentIndex, save_index
from cir_rt.machine import environment

MODEL = "0" * 64
QUERIES, K = 500, 50
TOGETHER = 500  # pictures added in one commit at first


class Pictures:
    """Items without end: clustered unit vectors, thumbnails of the size that real ones have."""

    def __init__(self, dim: int, thumbnail_bytes: int, vectors: Path | None) -> None:
        self._rng = np.random.default_rng(0)
        self._thumbnail_bytes = thumbnail_bytes
        files = sorted(vectors.glob("block-*.npy")) if vectors else []
        self._given = (row for file in files for row in np.load(file, mmap_mode="r"))
        self._centres = self._rng.standard_normal((2000, dim)).astype(np.float32)
        self._count = 0

    def queries(self, vectors: Path | None) -> np.ndarray:
        """Return vectors to search for, none of them in the gallery: (QUERIES, dim) float32."""
        if vectors is not None:
            return np.load(vectors / "queries.npy")[:QUERIES]
        return np.stack(list(self.vectors(QUERIES)))

    def take(self, count: int) -> list[Item]:
        """Return the next items."""
        return [self._item(vector) for vector in self.vectors(count)]

    def vectors(self, count: int) -> Iterator[np.ndarray]:
        """Yield the next unit vectors: given ones as long as there are any."""
        for _ in range(count):
            vector = next(self._given, None)
            if vector is None:
                centre = self._centres[self._rng.integers(len(self._centres))]
                vector = centre + 0.7 * self._rng.standard_normal(len(centre), np.float32)
            yield np.asarray(vector / np.linalg.norm(vector), np.float32)

    def _item(self, vector: np.ndarray) -> Item:
        self._count += 1
        size = int(self._thumbnail_bytes * self._rng.uniform(0.6, 1.4))
        return Item(
            id=f"shop/{self._count}",
            vector=vector,
            thumbnail=b"\xff\xd8" + self._rng.bytes(size),
            source_hash=f"{self._count:064x}",
            metadata={"price": self._count % 100, "category": "dress"},
        )


@click.command()
@click.option("--start", default=50_000, show_default=True)
@click.option("--days", default=365, show_default=True)
@click.option("--adds", default=300, show_default=True)
@click.option("--deletes", default=200, show_default=True)
@click.option("--dim", default=256, show_default=True)
@click.option("--kind", default="hnsw", show_default=True, help="The index to keep.")
@click.option("--thumbnail-bytes", default=10_000, show_default=True)
@click.option(
    "--vectors", type=click.Path(path_type=Path, exists=True), help="What augmented.py made."
)
@click.option("--scratch", type=click.Path(path_type=Path, exists=True), help="Work in here.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    start: int,
    days: int,
    adds: int,
    deletes: int,
    dim: int,
    kind: str,
    thumbnail_bytes: int,
    vectors: Path | None,
    scratch: Path | None,
    as_json: bool,
    record: bool,
) -> None:
    """Live through a year."""
    pictures = Pictures(dim, thumbnail_bytes, vectors)
    with tempfile.TemporaryDirectory(dir=scratch) as work:
        folder, fresh = Path(work, "shop.gallery"), Path(work, "fresh.gallery")
        queries = pictures.queries(vectors)
        with open_gallery(folder, dim) as gallery, Gallery.open(folder) as reader:
            for _ in range(0, start, TOGETHER):
                gallery.add(pictures.take(min(TOGETHER, start)))
            save_index(gallery, kind, now=True)
            index = CurrentIndex(reader, kind)
            year = live(gallery, reader, index, pictures, days, adds, deletes, kind)
        copy_living(folder, fresh, dim)
        save_fresh(fresh, dim, kind)
        result: dict[str, Any] = {
            "start": start,
            "days": days,
            "adds": adds,
            "deletes": deletes,
            "index": kind,
            **year,
            "recall": recall(folder, queries, kind),
            "recall_fresh": recall(fresh, queries, kind),
            "disk_ratio": round(disk_bytes(folder) / disk_bytes(fresh), 3),
            "environment": environment(),
        }
    if record:
        keep("shop_year", result)
    click.echo(json.dumps(result, indent=None if as_json else 2))


def open_gallery(folder: Path, dim: int) -> Gallery:
    return Gallery.open_writer(folder, fingerprint=MODEL, dim=dim)


def live(
    gallery: Gallery,
    reader: Gallery,
    index: CurrentIndex,
    pictures: Pictures,
    days: int,
    adds: int,
    deletes: int,
    kind: str,
) -> dict[str, Any]:
    """Go through the days; return how often it compacted, and what a day took at the most."""
    rng = np.random.default_rng(1)
    compactions, slowest_s, wrong = 0, 0.0, 0
    for _ in range(days):
        begun = time.perf_counter()
        ids = gallery.ids()
        gallery.delete([ids[i] for i in rng.choice(len(ids), deletes, replace=False)])
        gallery.add(pictures.take(adds))
        if gallery.wasted >= WORTHWHILE:
            gallery.compact()
            compactions += 1
        save_index(gallery, kind)
        slowest_s = max(slowest_s, time.perf_counter() - begun)
        reader.refresh()
        index.follow(reader)
        newest = reader.ids()[-1]
        rows, _ = index.search(reader.vector(newest)[None], 1, reader.live)
        wrong += reader.items(rows[0].tolist())[0][0] != newest
    return {
        "compactions": compactions,
        "slowest_day_s": round(slowest_s, 2),
        "newest_not_found": wrong,
        "pictures": len(gallery),
    }


def copy_living(folder: Path, fresh: Path, dim: int) -> None:
    """Make a gallery of what lives, at once and in the same order."""
    with Gallery.open(folder) as gallery, open_gallery(fresh, dim) as made:
        rows = np.flatnonzero(gallery.live)
        for start in range(0, len(rows), TOGETHER):
            part = rows[start : start + TOGETHER]
            described = gallery.items(part.tolist())
            hashes = gallery.source_hashes([item_id for item_id, _ in described])
            made.add(
                [
                    Item(
                        id=item_id,
                        vector=vector,
                        thumbnail=gallery.thumbnail(item_id),
                        source_hash=hashes[item_id],
                        metadata=metadata,
                    )
                    for (item_id, metadata), vector in zip(
                        described, gallery.vectors[part], strict=True
                    )
                ]
            )


def save_fresh(folder: Path, dim: int, kind: str) -> None:
    with open_gallery(folder, dim) as gallery:
        save_index(gallery, kind, now=True)


def recall(folder: Path, queries: np.ndarray, kind: str) -> float:
    """Return recall@50 against brute force, in percent."""
    with Gallery.open(folder) as gallery:
        found, _ = CurrentIndex(gallery, kind).search(queries, K, gallery.live)
        truth, _ = ExactIndex(gallery.vectors).search(queries, K, gallery.live)
    hits = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True))
    return round(100 * hits / truth.size, 3)


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
