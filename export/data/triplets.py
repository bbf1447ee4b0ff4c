"""Plain triplets: {split}.jsonl (reference, caption, targets), gallery.{split}.txt, images/.

A split without a gallery file ranks every picture that its queries name. labels.csv is optional,
and so is unlabelled.{split}.txt, pictures for self-training. Pictures of one product share a
`group`: a column of labels.csv or else a key of the training lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import MIXED, Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import read_groups, read_ids, read_labels, sentences

PROTOCOL = Protocol(
    name="triplets",
    gallery="gallery.{split}.txt",
    keep_reference=False,
    captions="single",
    ks=(1, 5, 10, 50),
    mean_of=("R@1", "R@10", "R@50"),
)


def read(folder: Path) -> Dataset:
    """Read every {split}.jsonl of the folder."""
    splits = {}
    products = read_groups(folder / "labels.csv")
    for path in sorted(folder.glob("*.jsonl")):
        lines = _lines(path)
        queries = tuple(_query(entry, path, number) for number, entry in lines)
        named = tuple(dict.fromkeys(i for q in queries for i in (q.reference, *q.targets)))
        gallery = folder / f"gallery.{path.stem}.txt"
        spare = folder / f"unlabelled.{path.stem}.txt"
        split = Split(
            name=path.stem,
            protocol=PROTOCOL,
            queries=queries,
            galleries={MIXED: read_ids(gallery) if gallery.exists() else named},
            spare={MIXED: read_ids(spare)} if spare.exists() else {},
        )
        splits[path.stem] = {PROTOCOL.name: split}
        if path.stem == "train":
            groups = [entry.get("group") for _, entry in lines]
            products = products or _products(queries, groups, path)
    if not splits:
        raise DataError(f"{folder}: no {{split}}.jsonl beside the gallery files.")
    labels = read_labels(folder / "labels.csv")
    return Dataset(name="triplets", folder=folder, splits=splits, labels=labels, products=products)


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the file's objects with their line numbers."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                found.append((number, dict(json.loads(line))))
            except (ValueError, TypeError) as error:
                raise _malformed(path, number, error) from error
    return found


def _query(entry: dict[str, Any], path: Path, number: int) -> Query:
    try:
        return Query(
            reference=str(entry["reference"]),
            captions=sentences([entry["caption"]]),
            targets=_ids(entry["targets"]),
            group=MIXED,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed(path, number, error) from error


def _malformed(path: Path, number: int, error: Exception) -> DataError:
    return DataError(f"{path}:{number}: expected reference, caption and targets ({error!r}).")


def _ids(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"expected a list of targets, got {values!r}")
    return tuple(str(v) for v in values)


def _products(queries: tuple[Query, ...], groups: list[Any], path: Path) -> dict[str, str]:
    """Return {id: group} of the pictures in queries that name a group."""
    products: dict[str, str] = {}
    for query, group in zip(queries, groups, strict=True):
        for picture in (query.reference, *query.targets) if group is not None else ():
            if products.setdefault(picture, str(group)) != str(group):
                raise DataError(
                    f"{path}: picture {picture} is in the groups {products[picture]} and {group}. "
                    "Expected one group, the product that it shows."
                )
    return products
