"""Birds-to-Words: paragraphs on how the right bird differs from the left.

Layout: birds-to-words-v1.0.tsv, images/{photo}.jpg, where photo is the number in the picture's URL
(https://static.inaturalist.org/photos/{photo}/large.jpg?…). Columns: the README of
github.com/google-research-datasets/birds-to-words. Use for retrieval: github.com/yahoo/maaf,
src/maaf/datasets/birdstowords.py. NOTE: not verified against the published file; written from
both descriptions. Recall at 10 and 50 is what is likely reported.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import MIXED, Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import sentences

PROTOCOL = Protocol(
    name="birds",
    gallery="every picture of the split's pairs",
    keep_reference=True,
    captions="one query a description",
    ks=(1, 10, 50),
    mean_of=("R@10", "R@50"),
    verified=False,
)
PHOTO = re.compile(r"/photos/(\d+)")
ANIMAL = re.compile(r"\b(animal ?)([12])\b", re.IGNORECASE)


def read(folder: Path) -> Dataset:
    """Read the tsv; training also asks every pair the other way round."""
    path = folder / "birds-to-words-v1.0.tsv"
    queries: dict[str, list[Query]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file, dialect=_Tabs), 2):
            try:
                queries.setdefault(row["split"], []).extend(_queries(row))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}:{number}: expected img1ImgURL, img2ImgURL, split and description "
                    f"({error!r})."
                ) from error
    splits = {}
    for name, own in queries.items():
        shown = dict.fromkeys(i for q in own for i in (q.reference, *q.targets))
        splits[name] = {
            PROTOCOL.name: Split(
                name=name,
                protocol=PROTOCOL,
                queries=tuple(own),
                galleries={MIXED: tuple(sorted(shown))},
            )
        }
    return Dataset(name="birds", folder=folder, splits=splits)


class _Tabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE  # descriptions hold quotation marks of their own


def _queries(row: dict[str, str]) -> Iterator[Query]:
    left, right = _photo(row["img1ImgURL"]), _photo(row["img2ImgURL"])
    text = row["description"]
    yield _query(left, right, text)
    if row["split"] == "train":
        yield _query(right, left, swapped(text))


def _query(reference: str, target: str, text: str) -> Query:
    captions = sentences([text])
    return Query(reference=reference, captions=captions, targets=(target,), group=MIXED)


def swapped(text: str) -> str:
    """Exchange animal1 and animal2, so that the text tells of the same pair the other way round."""
    return ANIMAL.sub(lambda found: found[1] + {"1": "2", "2": "1"}[found[2]], text)


def _photo(url: str) -> str:
    found = PHOTO.search(url)
    if not found:
        raise ValueError(f"no photo number in {url!r}")
    return found[1]
