"""The few hundred training pictures and queries that travel with a checkpoint for calibration."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cir_rt.calibration.samples import Samples
from cir_rt.errors import DataError
from cir_rt.export.data.dataset import Dataset, Query, Split
from cir_rt.pictures import load
from cir_rt.preprocess import Preprocess
from cir_rt.text import Tokenizer

PICTURES = 512  # that ranges are taken from
WRITTEN = 704  # of these a quarter at most is held back for the gates
ANSWERS = 16  # right answers of a query that are written: Fashion200K has hundreds for some
SPLIT = "calibration"


def write_samples(dataset: Dataset, split: Split, folder: Path, *, side: int, seed: int) -> None:
    """Write a `triplets` folder of at most 704 pictures of the split, and the queries among them.

    Queries are taken with up to 16 right answers each, in a random order, until the pictures are
    enough; pictures are scaled down to `side` pixels (the longer one).
    """
    rng = np.random.default_rng(seed)
    pictures: dict[str, None] = {}
    for k in rng.permutation(len(split.queries)):
        query = split.queries[k]
        shown = [query.reference, *query.targets[:ANSWERS]]
        if len(pictures) + len(shown) > WRITTEN:
            break
        pictures.update(dict.fromkeys(shown))
    queries = [q for q in split.queries if q.reference in pictures and _inside(q, pictures)]
    check_samples_folder(folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    names = {picture: f"{k:04d}" for k, picture in enumerate(sorted(pictures))}
    for picture, path in zip(pictures, dataset.paths(pictures), strict=True):
        image = load(path)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        image.save(folder / "images" / f"{names[picture]}.jpg", quality=88)
    lines = [
        json.dumps(
            {
                "reference": names[q.reference],
                "caption": q.text,
                "targets": [names[t] for t in _inside(q, pictures)],
            }
        )
        for q in queries
    ]
    (folder / f"{SPLIT}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    gallery = "\n".join(names.values())
    (folder / f"gallery.{SPLIT}.txt").write_text(gallery + "\n", encoding="utf-8")


def check_samples_folder(folder: Path) -> None:
    """Raise DataError where the folder holds something else than samples."""
    if folder.exists() and any(folder.iterdir()) and not (folder / f"{SPLIT}.jsonl").exists():
        raise DataError(f"{folder}: exists and was not written by training. Choose another --out.")


def read_samples(
    dataset: Dataset, preprocess: Preprocess, tokenizer: Tokenizer, *, limit: int = PICTURES
) -> Samples:
    """Read up to `limit` pictures and captions of the dataset's training or only split."""
    split = dataset.split("train" if "train" in dataset.splits else next(iter(dataset.splits)))
    pixels = preprocess(dataset.paths(spread(split.pictures, limit)))
    texts = list(dict.fromkeys(q.text for q in split.queries))
    ids = tokenizer(spread(texts, limit), truncate=True)
    return Samples(pixels=pixels, ids=ids, pad_id=tokenizer.pad_id)


def spread(items: Sequence[str], limit: int) -> list[str]:
    """Return at most `limit` items, evenly over all of them."""
    count = min(limit, len(items))
    return [items[k * len(items) // count] for k in range(count)]


def _inside(query: Query, pictures: dict[str, None]) -> list[str]:
    return [t for t in query.targets if t in pictures]
