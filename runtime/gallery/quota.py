"""What a gallery takes on disk, held below what it may take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cir_rt.errors import StorageFull
from cir_rt.gallery.catalog import Catalog


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder, those that vanish meanwhile left out."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def check_quota(folder: Path, catalog: Catalog, quota_bytes: int | None, new_bytes: int) -> None:
    """Raise StorageFull where new_bytes more would pass the quota; None is no limit."""
    if quota_bytes is None or folder_bytes(folder) + new_bytes <= quota_bytes:
        return
    catalog.shrink()  # it may be the log that is too much
    size = folder_bytes(folder)
    if size + new_bytes > quota_bytes:
        raise StorageFull(
            f"{folder}: takes {size:,} bytes, this would add up to {new_bytes:,}, and the quota is "
            f"{quota_bytes:,}. Nothing was added. Delete pictures and compact it, or raise the "
            "quota."
        )
