"""Backup of a gallery while a writer goes on, and the way back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cir_rt.errors import GalleryError
from cir_rt.gallery import admission, verification
from cir_rt.gallery.catalog import Catalog
from cir_rt.gallery.disk import copy_start, exchange, lock_folder, storage_errors, sync_folder
from cir_rt.gallery.facts import Facts
from cir_rt.gallery.segment import Segment, token_segment, vector_segment

_ATTEMPTS = 5  # a gallery that is compacted faster than it can be copied is not one to wait for


def backup(folder: Path, catalog: Catalog, target: Path) -> None:
    """Copy the newest generation to a new folder, itself a gallery.

    Written under another name and renamed when it is whole on disk. Derived indexes are left out:
    they are built anew. Raises GalleryError where the target exists, and StorageFull.
    """
    if target.exists():
        raise GalleryError(f"{target}: exists. Name a new folder for the backup.")
    with storage_errors(target), being_made(target) as made:
        _copy(folder, catalog, made)
        os.rename(made, target)
        sync_folder(target.absolute().parent)


def restore(source: Path, folder: Path) -> Facts:
    """Put a verified copy of a backup in a gallery's place, at once; return what it then is.

    Readers of the gallery move to it with their next `refresh`. It gets a numbering of rows and a
    generation that the gallery never had. Raises GalleryError where the backup is damaged or
    another writer holds the gallery, and StorageFull.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        admission.refuse_other_content(folder)
        lock = lock_folder(folder)
    try:
        with storage_errors(folder), being_made(folder) as made:
            with closing(admission.open_catalog(source)) as catalog:
                _copy(source, catalog, made)
            with closing(Catalog(made / "gallery.sqlite", writable=True)) as copied:
                facts = copied.facts()
                for fault in verification.faults(made, copied, facts):
                    raise GalleryError(f"{source}: the backup is damaged. {fault}")
                facts = renumber(made, copied, facts, _newest(folder))
            put_in_place(made, folder)
            return facts
    finally:
        os.close(lock)


@contextmanager
def being_made(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside another one, and remove what is left of it afterwards.

    What a process that was killed left goes too.
    """
    folder = folder.absolute()
    start = f".{folder.name}.made-by-"
    for left in folder.parent.iterdir():
        if left.name.startswith(start) and not _runs(left.name.removeprefix(start)):
            shutil.rmtree(left, ignore_errors=True)
    made = folder.with_name(f"{start}{os.getpid()}")
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _runs(process: str) -> bool:
    """Tell whether a process of this number, not this one, is at work."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return int(process) != os.getpid()


def renumber(folder: Path, catalog: Catalog, facts: Facts, before: Facts | None) -> Facts:
    """Give a gallery that takes another one's place a numbering and generation of its own."""
    after = replace(
        facts,
        segment=max(facts.segment, before.segment if before else 0) + 1,
        generation=max(facts.generation, before.generation if before else 0) + 1,
    )
    for old, new in zip(_segments(folder, facts), _segments(folder, after), strict=True):
        os.rename(old.path, new.path)
        sync_folder(new.path.parent)
    catalog.commit_facts(after)
    return after


def put_in_place(made: Path, folder: Path) -> None:
    """Let a finished folder and the one whose place it takes change names."""
    with lock_file(made):
        exchange(made, folder.absolute())


@contextmanager
def lock_file(folder: Path) -> Iterator[None]:
    """Hold a folder's lock."""
    lock = lock_folder(folder)
    try:
        yield
    finally:
        os.close(lock)


def _copy(folder: Path, catalog: Catalog, made: Path) -> None:
    """Copy catalogue and segments of one generation, that the catalogue names."""
    for attempt in range(_ATTEMPTS):
        path = made / "gallery.sqlite"
        path.unlink(missing_ok=True)
        catalog.copy_to(path)
        with closing(Catalog(path, writable=False)) as copied:
            facts = copied.facts()
        try:
            for segment in _segments(folder, facts):
                _copy_segment(segment, facts, made)
            break
        except FileNotFoundError as error:  # compacted between one look and the next
            if attempt == _ATTEMPTS - 1:
                raise GalleryError(f"{folder}: compacted again and again. Retry later.") from error
    sync_folder(made)


def _copy_segment(segment: Segment, facts: Facts, made: Path) -> None:
    kind = segment.path.parent.name
    (made / kind).mkdir(exist_ok=True)
    rows = facts.rows if kind == "vectors" else facts.token_rows
    target = made / kind / segment.path.name
    target.unlink(missing_ok=True)
    copy_start(segment.path, target, rows * segment.format.row_bytes)
    sync_folder(made / kind)


def _segments(folder: Path, facts: Facts) -> list[Segment]:
    found = [vector_segment(folder, facts)]
    return [*found, token_segment(folder, facts)] if facts.tokens else found


def _newest(folder: Path) -> Facts | None:
    """Return what the gallery that is replaced was, None where that cannot be read."""
    with suppress(GalleryError), closing(admission.open_catalog(folder)) as catalog:
        return catalog.facts()
    return None
