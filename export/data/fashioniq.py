"""FashionIQ: two annotators' captions a pair, one gallery a category.

Layout: captions/cap.{category}.{split}.json, image_splits/split.{category}.{split}.json, images/,
optionally labels.csv. Source: github.com/XiaoxiaoGuo/fashion-iq.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import read_groups, read_json, read_labels, sentences

ORIGINAL = Protocol(
    name="original",
    gallery="every picture of the category's split list",
    per_category=True,
    keep_reference=True,
    captions='"a and b"',
    ks=(1, 10, 50),
    mean_of=("R@10", "R@50"),
)
VAL = replace(
    ORIGINAL, name="val-split", gallery="references and targets of the category's queries"
)
# Who reports what: CLIP4Cir, its successors and SPRC the first, DQU-CIR the second and fourth,
# TG-CIR, LIMN and OFFSET the fourth; the third tells what removing the reference is worth.
PROTOCOLS = (
    ORIGINAL,
    replace(ORIGINAL, name="original-excluded", keep_reference=False),
    VAL,
    replace(VAL, name="val-split-excluded", keep_reference=False),
)


def read(folder: Path) -> Dataset:
    """Read the folder; a split without targets (test) can be ranked, but not scored."""
    files = sorted((folder / "captions").glob("cap.*.*.json"))
    splits = {}
    for name in sorted({path.name.split(".")[2] for path in files}):
        own = {p.name.split(".")[1]: p for p in files if p.name.split(".")[2] == name}
        queries = tuple(q for category, path in own.items() for q in _queries(path, category))
        if len({bool(q.targets) for q in queries}) > 1:
            raise DataError(f"{folder}: some captions of {name} have targets and some have none.")
        splits[name] = _split(name, queries, {c: _gallery(folder, c, name) for c in own})
    labels, products = read_labels(folder / "labels.csv"), read_groups(folder / "labels.csv")
    return Dataset(name="fashioniq", folder=folder, splits=splits, labels=labels, products=products)


def _split(
    name: str, queries: tuple[Query, ...], lists: dict[str, tuple[str, ...]]
) -> dict[str, Split]:
    """Return the split under every protocol that it can be ranked by."""
    galleries = {ORIGINAL.gallery: lists}
    if all(query.targets for query in queries):
        galleries[VAL.gallery] = _used(queries)
    return {
        p.name: Split(name=name, protocol=p, queries=queries, galleries=galleries[p.gallery])
        for p in PROTOCOLS
        if p.gallery in galleries
    }


def _queries(path: Path, category: str) -> list[Query]:
    entries = read_json(path)
    labelled = bool(entries) and "target" in entries[0]
    return [_query(entry, category, labelled, path) for entry in entries]


def _query(entry: dict, category: str, labelled: bool, path: Path) -> Query:
    try:
        return Query(
            reference=entry["candidate"],
            captions=sentences(entry["captions"]),
            targets=(entry["target"],) if labelled else (),
            group=category,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected candidate, target and captions, got {entry}.") from error


def _gallery(folder: Path, category: str, split: str) -> tuple[str, ...]:
    ids = read_json(folder / "image_splits" / f"split.{category}.{split}.json")
    return tuple(dict.fromkeys(ids))


def _used(queries: tuple[Query, ...]) -> dict[str, tuple[str, ...]]:
    used: dict[str, dict[str, None]] = {}
    for query in queries:
        used.setdefault(query.group, {}).update(dict.fromkeys([query.reference, *query.targets]))
    return {group: tuple(ids) for group, ids in used.items()}
