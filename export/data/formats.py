"""Dataset folders, recognised by their content."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

from cir_rt.errors import DataError
from cir_rt.export.data.dataset import Dataset

# format -> (what the folder must hold, module that reads it); the first that fits is taken, so
# that CIRR stands before FashionIQ and plain triplets come last
FORMATS = {
    "cirr": ("captions/cap.rc2.*.json", "cir_rt.export.data.cirr"),
    "fashioniq": ("captions/cap.*.*.json", "cir_rt.export.data.fashioniq"),
    "shoes": ("relative_captions_shoes.json", "cir_rt.export.data.shoes"),
    "birds": ("birds-to-words-v1.0.tsv", "cir_rt.export.data.birds"),
    "fashion200k": ("labels/*_*_detect_all.txt", "cir_rt.export.data.fashion200k"),
    "grocery": ("dataset/classes.csv", "cir_rt.export.data.grocery"),
    "triplets": ("*.jsonl", "cir_rt.export.data.triplets"),
}


def is_dataset(folder: Path) -> bool:
    """Tell whether the folder has a layout that is read here."""
    return any(any(folder.glob(pattern)) for pattern, _ in FORMATS.values())


def open_dataset(folder: str | Path) -> Dataset:
    """Read a dataset folder. Raises DataError where no known layout is found."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected a dataset folder.")
    for pattern, module in FORMATS.values():
        if any(folder.glob(pattern)):
            return importlib.import_module(module).read(folder)
    wanted = "; ".join(f"{name}: {pattern}" for name, (pattern, _) in FORMATS.items())
    raise DataError(f"{folder}: no dataset is recognised here. Expected one of: {wanted}.")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises DataError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}).") from error


def read_ids(path: Path) -> tuple[str, ...]:
    """Return the lines of a list that are not empty, each once. Raises DataError that names it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as a list of names ({error}).") from error
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def sentences(values: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple. Raises ValueError unless it is one that says something."""
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise ValueError(f"expected a list of texts, got {values!r}")
    if not any(v.strip(" .") for v in values):
        raise ValueError("all texts are empty")
    return tuple(values)


def read_labels(path: Path) -> dict[str, tuple[str, ...]]:
    """Read labels.csv as {id: (attributes, title)}.

    Every column but `id`, `title` and `group` joins the attribute phrase, in column order; empty
    phrases are left out. A missing file is an empty table.
    """
    labels = {}
    for row in _label_rows(path):
        values = [v for k, v in row.items() if k not in ("id", "title", "group") and v]
        phrases = (" ".join(values), row.get("title") or "")
        labels[row["id"]] = tuple(p for p in phrases if p.strip())
    return labels


def read_groups(path: Path) -> dict[str, str]:
    """Read the column `group` of labels.csv, the product that a picture shows, as {id: group}."""
    return {row["id"]: row["group"] for row in _label_rows(path) if row.get("group")}


def _label_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "id" not in rows[0]:
        raise DataError(f"{path}: has no column 'id'. It has: {', '.join(rows[0])}.")
    return rows
