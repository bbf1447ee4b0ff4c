"""Plain triplets: {split}.jsonl (reference, caption, targets), gallery.{split}.txt, images/.

A split without a gallery file ranks every picture that its queries name. labels.csv is optional.
"""

from __future__ import annotations

import json
from pathlib import Path

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import Dataset, Protocol, Query, Split
from cir_rt.export.data.formats import read_labels, sentences

GROUP = "all"
PROTOCOL = Protocol(
    name="triplets",
    gallery="gallery.{split}.txt",
    keep_reference=False,
    captions="single",
    ks=(1, 5, 10, 50),
    mean_of=(1, 10, 50),
)


def read(folder: Path) -> Dataset:
    """Read every {split}.jsonl of the folder."""
    splits = {}
    for path in sorted(folder.glob("*.jsonl")):
        queries = tuple(
            _query(line, path, number)
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if line.strip()
        )
        gallery = folder / f"gallery.{path.stem}.txt"
        if gallery.exists():
            ids = [i.strip() for i in gallery.read_text(encoding="utf-8").splitlines() if i.strip()]
        else:
            ids = [i for q in queries for i in (q.reference, *q.targets)]
        split = Split(
            name=path.stem,
            protocol=PROTOCOL,
            queries=queries,
            galleries={GROUP: tuple(dict.fromkeys(ids))},
        )
        splits[path.stem] = {PROTOCOL.name: split}
    if not splits:
        raise DataError(f"{folder}: no {{split}}.jsonl beside the gallery files.")
    labels = read_labels(folder / "labels.csv")
    return Dataset(name="triplets", folder=folder, splits=splits, labels=labels)


def _query(line: str, path: Path, number: int) -> Query:
    try:
        entry = json.loads(line)
        return Query(
            reference=str(entry["reference"]),
            captions=sentences([entry["caption"]]),
            targets=_ids(entry["targets"]),
            group=GROUP,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}:{number}: expected reference, caption and targets ({error!r})."
        ) from error


def _ids(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"expected a list of targets, got {values!r}")
    return tuple(str(v) for v in values)
