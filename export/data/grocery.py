"""Grocery: photos taken in shops; "granny smith instead of golden delicious" has many answers.

Layout: dataset/ is the Grocery Store Dataset (github.com/marcusklasson/GroceryStoreDataset, MIT):
classes.csv, {split}.txt (file, class, coarse class), the photos, and one catalogue picture with a
description a class. Beside it {split}.jsonl holds the queries (reference, caption, target_class);
every photo of that class in {split}.txt is a right answer.

Where there is no train.jsonl, the catalogue is the training split: its pictures ask for each other
within a coarse class, in the words of the queries. No photo of a shop is among them.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import MIXED, Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import sentences

PROTOCOL = Protocol(
    name="grocery",
    gallery="every photo of the split's list",
    keep_reference=False,
    captions="single",
    ks=(1, 5, 10),
    precision_ks=(10,),
    mean_of=("mAP@10",),
)
PICTURES = "dataset"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A row of classes.csv: something that the shop sells."""

    name: str
    coarse: str
    picture: str  # id of the catalogue's
    description: str

    @property
    def spoken(self) -> str:
        """The name as people say it."""
        return self.name.replace("-", " ").lower()


def read(folder: Path) -> Dataset:
    """Read the queries of every {split}.jsonl, and the catalogue."""
    root = folder / PICTURES
    kinds = _kinds(root)
    products = {kind.picture: kind.name for kind in kinds.values()}
    splits = {}
    for path in sorted(folder.glob("*.jsonl")):
        shown = _photos(root / f"{path.stem}.txt", kinds)
        products |= {photo: kinds[number].name for photo, number in shown.items()}
        splits[path.stem] = _split(path.stem, _queries(path, shown), tuple(shown))
    if "train" not in splits:
        catalogue = tuple(kind.picture for kind in kinds.values())
        splits["train"] = _split("train", _exchanges(kinds), catalogue)
    return Dataset(
        name="grocery",
        folder=folder,
        splits=splits,
        labels={k.picture: (k.spoken, k.description) for k in kinds.values()},
        products=products,
        images=PICTURES,
    )


def _split(name: str, queries: tuple[Query, ...], ids: tuple[str, ...]) -> dict[str, Split]:
    split = Split(name=name, protocol=PROTOCOL, queries=queries, galleries={MIXED: ids})
    return {PROTOCOL.name: split}


def _kinds(root: Path) -> dict[str, Kind]:
    """Return classes.csv by class number."""
    path, kinds = root / "classes.csv", {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                text = root / row["Product Description Path (str)"].lstrip("/")
                kinds[row["Class ID (int)"]] = Kind(
                    name=row["Class Name (str)"],
                    coarse=row["Coarse Class ID (int)"],
                    picture=_id(row["Iconic Image Path (str)"].lstrip("/")),
                    description=text.read_text(encoding="utf-8").strip(),
                )
            except (AttributeError, KeyError, OSError) as error:
                raise DataError(f"{path}: expected the published columns ({error!r}).") from error
    return kinds


def _photos(path: Path, kinds: dict[str, Kind]) -> dict[str, str]:
    """Return {photo: class number} of a list of "file, class, coarse class"."""
    if not path.exists():
        raise DataError(f"{path}: not there. Expected the list of the photos that are ranked.")
    photos = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        file, kind, *_ = [part.strip() for part in line.split(",")] + [""]
        if kind not in kinds:
            raise DataError(f"{path}:{number}: expected file, class, coarse class, got {line!r}.")
        photos[_id(file)] = kind
    return photos


def _queries(path: Path, shown: dict[str, str]) -> tuple[Query, ...]:
    queries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            wanted = str(entry["target_class"])
            query = Query(
                reference=_id(entry["reference"]),
                captions=sentences([entry["caption"]]),
                targets=tuple(photo for photo, kind in shown.items() if kind == wanted),
                group=MIXED,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}:{number}: expected reference, caption and target_class ({error!r})."
            ) from error
        if not query.targets:
            raise DataError(f"{path}:{number}: no photo shows class {wanted}.")
        queries.append(query)
    return tuple(queries)


def _exchanges(kinds: dict[str, Kind]) -> tuple[Query, ...]:
    """Ask each catalogue picture for every other of its coarse class."""
    return tuple(
        Query(
            reference=a.picture,
            captions=(f"{b.spoken} instead of {a.spoken}",),
            targets=(b.picture,),
            group=MIXED,
        )
        for a, b in permutations(kinds.values(), 2)
        if a.coarse == b.coarse
    )


def _id(file: str) -> str:
    return file.rsplit(".", 1)[0]
