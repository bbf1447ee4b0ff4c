"""Shoes: one caption a pair of shoe photos.

Layout: relative_captions_shoes.json, train_im_names.txt, eval_im_names.txt, optionally
captions_shoes.json (a caption of a single shoe), images/ with the folders womens_*.
Source: github.com/XiaoxiaoGuo/fashion-retrieval, dataset/; the photos are those of the Attribute
Discovery Dataset. Whom a pair belongs to, and the rules: TG-CIR's and DQU-CIR's code.
"""

from __future__ import annotations

from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import MIXED, Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import read_ids, read_json, sentences

PROTOCOL = Protocol(
    name="shoes",
    gallery="every picture of the split's list",
    keep_reference=False,
    captions="single",
    ks=(1, 10, 50),
    mean_of=("R@1", "R@10", "R@50"),
)
LISTS = {"train": "train_im_names.txt", "val": "eval_im_names.txt"}


def read(folder: Path) -> Dataset:
    """Read both splits; a pair belongs to the one whose list names its reference."""
    path = folder / "relative_captions_shoes.json"
    queries = [_query(entry, path) for entry in read_json(path)]
    galleries = {name: [_id(i) for i in read_ids(folder / file)] for name, file in LISTS.items()}
    listed = {name: set(ids) for name, ids in galleries.items()}
    stray = [q.reference for q in queries if not any(q.reference in ids for ids in listed.values())]
    if stray:
        raise DataError(f"{path}: {stray[0]} is in neither {' nor '.join(LISTS.values())}.")
    splits = {}
    for name, ids in galleries.items():
        split = Split(
            name=name,
            protocol=PROTOCOL,
            queries=tuple(q for q in queries if q.reference in listed[name]),
            galleries={MIXED: tuple(dict.fromkeys(ids))},
        )
        splits[name] = {PROTOCOL.name: split}
    labels = _labels(folder / "captions_shoes.json")
    return Dataset(name="shoes", folder=folder, splits=splits, labels=labels, by_name=True)


def _query(entry: dict, path: Path) -> Query:
    try:
        return Query(
            reference=_id(entry["ReferenceImageName"]),
            captions=sentences([entry["RelativeCaption"]]),
            targets=(_id(entry["ImageName"]),),
            group=MIXED,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected ReferenceImageName, ImageName and RelativeCaption, got {entry}."
        ) from error


def _labels(path: Path) -> dict[str, tuple[str, ...]]:
    """Return {id: (caption,)} of the photos that are described alone."""
    if not path.exists():
        return {}
    try:
        return {_id(entry["ImageName"]): (entry["Caption"],) for entry in read_json(path)}
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected ImageName and Caption in every entry.") from error


def _id(file: str) -> str:
    return file.removesuffix(".jpg")
