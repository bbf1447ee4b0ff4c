"""FashionIQ: two annotators' captions a pair, one gallery a category.

Layout: captions/cap.{category}.{split}.json, image_splits/split.{category}.{split}.json, images/,
optionally labels.csv. Source: github.com/XiaoxiaoGuo/fashion-iq.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import read_json, read_labels, sentences

ORIGINAL = Protocol(
    name="original",
    gallery="every picture of the category's split list",
    keep_reference=True,
    captions="a and b",
    ks=(1, 10, 50),
    mean_of=(10, 50),
)
VAL = Protocol(
    name="val-split",
    gallery="references and targets of the category's queries",
    keep_reference=True,
    captions="a and b",
    ks=(1, 10, 50),
    mean_of=(10, 50),
)


def read(folder: Path) -> Dataset:
    """Read the folder; a split without targets (test) is left out."""
    files = sorted((folder / "captions").glob("cap.*.*.json"))
    names = sorted({path.name.split(".")[2] for path in files})
    splits = {}
    for name in names:
        queries: list[Query] = []
        originals: dict[str, tuple[str, ...]] = {}
        for path in files:
            category, owner = path.name.split(".")[1:3]
            if owner != name:
                continue
            entries = read_json(path)
            if entries and "target" not in entries[0]:
                continue
            queries += [_query(entry, category, path) for entry in entries]
            originals[category] = _gallery(folder, category, name)
        if queries:
            split = partial(Split, name=name, queries=tuple(queries))
            splits[name] = {
                "original": split(protocol=ORIGINAL, galleries=originals),
                "val-split": split(protocol=VAL, galleries=_used(queries)),
            }
    if not splits:
        raise DataError(f"{folder}: no captions with targets below captions/.")
    labels = read_labels(folder / "labels.csv")
    return Dataset(name="fashioniq", folder=folder, splits=splits, labels=labels)


def _query(entry: dict, category: str, path: Path) -> Query:
    try:
        return Query(
            reference=entry["candidate"],
            captions=sentences(entry["captions"]),
            targets=(entry["target"],),
            group=category,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected candidate, target and captions, got {entry}.") from error


def _gallery(folder: Path, category: str, split: str) -> tuple[str, ...]:
    ids = read_json(folder / "image_splits" / f"split.{category}.{split}.json")
    return tuple(dict.fromkeys(ids))


def _used(queries: list[Query]) -> dict[str, tuple[str, ...]]:
    used: dict[str, dict[str, None]] = {}
    for query in queries:
        used.setdefault(query.group, {}).update(dict.fromkeys([query.reference, *query.targets]))
    return {group: tuple(ids) for group, ids in used.items()}
