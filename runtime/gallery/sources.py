"""What there is to index: pictures below folders, and a table of metadata."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cir_rt.errors import DataError
from cir_rt.pictures import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Source:
    """One picture to index."""

    id: str
    path: Path | None  # None, and no data: new metadata for a picture that the gallery holds
    metadata: Mapping[str, Any] | None = None  # None keeps what is stored
    data: bytes | None = None  # the picture's file, where it lies on no disk

    @property
    def pictured(self) -> bool:
        """Whether there is a picture to read."""
        return self.path is not None or self.data is not None


def find_pictures(folders: Sequence[Path], metadata: Path | None = None) -> list[Source]:
    """List pictures below the folders; the id is the path below its folder without suffix.

    `metadata` is a CSV or JSONL table: a row belongs to a picture by its `id`, and names its file
    below the folder where it has a `file`. Rows of no picture that is found come last, without a
    path; without a table, stored metadata stays. Raises DataError.
    """
    rows = _read_metadata(metadata) if metadata else {}
    named = {str(row["file"]): key for key, row in rows.items() if row.get("file")}
    sources: dict[str, Source] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder. Expected a folder of pictures.")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            below = path.relative_to(folder)
            key = named.get(below.as_posix(), below.with_suffix("").as_posix())
            if key in sources:
                raise DataError(
                    f"{path} and {sources[key].path} have the same id '{key}'. "
                    "Rename one, or give ids with --metadata."
                )
            kept = _fields(rows.get(key, {})) if metadata else None
            sources[key] = Source(id=key, path=path, metadata=kept)
    if sources and rows and not set(rows) & set(sources):
        raise DataError(
            f"{metadata}: none of its {len(rows)} ids is a picture's. The first picture is "
            f"'{next(iter(sources))}', the first row '{next(iter(rows))}'."
        )
    rest = [Source(id=k, path=None, metadata=_fields(rows[k])) for k in rows if k not in sources]
    return [*sources.values(), *rest]


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("id", "file")}


def _read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """Read the table as rows by id. Raises DataError for what cannot be right."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows: list[Any]
        lines = path.suffix.lower() == ".jsonl"
        if lines:
            rows = [
                json.loads(line, parse_constant=_no_number)
                for line in text.split("\n")
                if line.strip()
            ]
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        table = {str(row["id"]): row for row in rows}
        files = [row["file"] for row in rows if row.get("file")]
        if any(None in row or None in row.values() for row in rows if not lines):
            raise ValueError("a row has more or fewer cells than the header")
        if len(table) < len(rows) or len(set(files)) < len(files):
            raise ValueError("an id or a file stands there twice")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected CSV with a header, or JSONL, with an 'id' in each row ({error!r})."
        ) from error
    return table


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
