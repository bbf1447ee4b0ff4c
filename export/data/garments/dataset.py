"""Write drawn garments as a folder in FashionIQ's layout."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from cir_rt.export.data.garments.attributes import ARTICLES, ATTRIBUTES, Garment
from cir_rt.export.data.garments.captions import captions, title
from cir_rt.export.data.garments.drawing import draw
from cir_rt.export.data.garments.families import Member, gallery, pairs
from cir_rt.export.data.garments.scenes import Scene

FORMAT: Final = 2
PICTURES: Final[Mapping[str, int]] = MappingProxyType({"train": 1500, "val": 400})
QUERIES: Final[Mapping[str, int]] = MappingProxyType({"train": 6000, "val": 200})
_QUALITY: Final = 90
_BATCH: Final = 32


@dataclass(frozen=True, kw_only=True)
class _Picture:
    name: str
    garment: Garment
    seed: int


def write(
    folder: Path,
    *,
    pictures: Mapping[str, int] = PICTURES,
    queries: Mapping[str, int] = QUERIES,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw and write every split named in `pictures`; do nothing where that is done already.

    `pictures` and `queries` count per article; a split without queries may be left out of the
    latter. The same seed gives the same bytes for any number of `workers` (default: one a core).
    `progress` is called with (pictures written, pictures in all).

    Raises ValueError where a split has queries but no pictures, or too few for its queries, and
    FileExistsError where the folder holds garments of other arguments.
    """
    asked = {name: queries[name] for name in pictures if name in queries}
    stray = sorted(set(queries) - set(pictures)) if queries is not QUERIES else []
    if stray:
        raise ValueError(f"queries for {', '.join(stray)}: expected pictures for that split too")
    record = {"format": FORMAT, "seed": seed, "pictures": dict(pictures), "queries": asked}
    if _written(folder, record):
        return
    for part in ("captions", "image_splits", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    plan: list[_Picture] = []
    for split, count in pictures.items():
        for article in ARTICLES:
            plan += _plan(folder, article, split, (count, asked.get(split, 0)), seed)
    _write_labels(folder / "labels.csv", plan)
    _draw_all(folder / "images", plan, workers or os.cpu_count() or 1, progress)
    _write_json(folder / "garments.json", record)


def _written(folder: Path, record: Mapping[str, object]) -> bool:
    """Tell whether the folder is complete with these arguments."""
    path = folder / "garments.json"
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != record:
        raise FileExistsError(
            f"{folder} holds garments written with {found}, expected {dict(record)}: "
            "name another folder, or remove this one"
        )
    return True


def _plan(
    folder: Path, article: str, split: str, counts: tuple[int, int], seed: int
) -> list[_Picture]:
    """Choose the gallery and queries of one article and split, and write their JSON files."""
    origin = f"{seed}/{split}/{article}"
    members: list[Member] = gallery(article, counts[0], _generator(f"{origin}/gallery"))
    names = [f"{article}-{split}-{place:05d}" for place in range(len(members))]
    rng = _generator(f"{origin}/queries")
    entries = [
        {
            "target": names[target],
            "candidate": names[reference],
            "captions": captions(members[reference].garment, members[target].garment, rng),
        }
        for reference, target in pairs(members, counts[1], rng)
    ]
    _write_json(folder / "captions" / f"cap.{article}.{split}.json", entries)
    _write_json(folder / "image_splits" / f"split.{article}.{split}.json", names)
    return [
        _Picture(name=name, garment=member.garment, seed=_digest(f"{origin}/{place}"))
        for place, (name, member) in enumerate(zip(names, members, strict=True))
    ]


def _draw_all(
    images: Path,
    plan: list[_Picture],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Draw the pictures in batches, in this process where there is one worker."""
    batches = [plan[start : start + _BATCH] for start in range(0, len(plan), _BATCH)]
    done = 0
    if workers == 1:
        counts = (_draw_batch(images, batch) for batch in batches)
        for count in counts:
            done += count
            if progress:
                progress(done, len(plan))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for count in pool.map(_draw_batch, [images] * len(batches), batches):
            done += count
            if progress:
                progress(done, len(plan))


def _draw_batch(images: Path, batch: list[_Picture]) -> int:
    for picture in batch:
        scene = Scene.sample(np.random.default_rng(picture.seed))
        draw(picture.garment, scene).save(images / f"{picture.name}.jpg", quality=_QUALITY)
    return len(batch)


def _write_labels(path: Path, plan: list[_Picture]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", "article", *ATTRIBUTES, "title", "group"])
        products: dict[Garment, int] = {}  # pictures of one garment differ in pose and light
        for picture in plan:
            garment = picture.garment
            own = [garment[name] for name in ATTRIBUTES]
            product = products.setdefault(garment, len(products))
            rows.writerow([picture.name, garment.article, *own, title(garment), product])


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def _generator(text: str) -> np.random.Generator:
    return np.random.default_rng(_digest(text))
