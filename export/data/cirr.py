"""CIRR: one caption a pair, pictures in groups of six that look alike.

Layout: captions/cap.rc2.{split}.json, image_splits/split.rc2.{split}.json (id -> file), images/
(the published img_raw/). Source: github.com/Cuberick-Orion/CIRR, branches main and cirr_dataset.
The captions of train are not in its public copy: they are read by the layout that its README
states, and the split says so. test1 has no targets; its server counts (`export/submission.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import MIXED, Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import read_json

PROTOCOL = Protocol(
    name="cirr",
    gallery="every picture of the split's list, for Rs@k the other five of the pair's group",
    keep_reference=False,
    captions="single",
    ks=(1, 5, 10, 50),
    subset_ks=(1, 2, 3),
    mean_of=("R@5", "Rs@1"),
)
SILENT = "-"  # what the one query of test1 with an empty caption says: encoders take no empty text


def read(folder: Path) -> Dataset:
    """Read every split that has captions."""
    splits = {}
    for path in sorted((folder / "captions").glob("cap.rc2.*.json")):
        name = path.name.split(".")[2]
        protocol = replace(PROTOCOL, verified=name != "train")
        split = Split(
            name=name,
            protocol=protocol,
            queries=tuple(_query(entry, path) for entry in read_json(path)),
            galleries={MIXED: tuple(read_json(folder / f"image_splits/split.rc2.{name}.json"))},
        )
        splits[name] = {protocol.name: split}
    return Dataset(name="cirr", folder=folder, splits=splits, by_name=True)


def _query(entry: dict, path: Path) -> Query:
    try:
        members = entry["img_set"]["members"]
        return Query(
            reference=entry["reference"],
            captions=(entry["caption"] if entry["caption"].strip(" .") else SILENT,),
            targets=(entry["target_hard"],) if "target_hard" in entry else (),
            group=MIXED,
            subset=tuple(member for member in members if member != entry["reference"]),
            key=str(entry["pairid"]),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected pairid, reference, caption and img_set, got {entry}."
        ) from error
