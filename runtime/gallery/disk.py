"""The disk below a gallery: what it promises, and its errors in our words."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cir_rt.errors import GalleryBusy, GalleryError, StorageFull

_POLL_S = 0.05
_COPY_BYTES = 1 << 22
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the system or SQLite raises into StorageFull and GalleryError about path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(_full(path)) from error
        raise GalleryError(f"{path}: {error.strerror or error}.") from error
    except sqlite3.Error as error:
        if "disk is full" in str(error):
            raise StorageFull(_full(path)) from error
        raise GalleryError(
            f"{path}: SQLite says: {error}. Look for damage: cir-rt inspect GALLERY --verify"
        ) from error


def _full(path: Path) -> str:
    return f"{path}: the disk is full. What was stored is untouched; free some space and retry."


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def copy_start(source: Path, target: Path, size_bytes: int) -> None:
    """Copy the first bytes of a file to a new one, on disk before this returns.

    Raises GalleryError where the source is shorter.
    """
    with source.open("rb") as read, target.open("xb") as written:
        left = size_bytes
        while left:
            part = read.read(min(left, _COPY_BYTES))
            if not part:
                raise GalleryError(f"{source}: {left} bytes short of the {size_bytes} expected.")
            written.write(part)
            left -= len(part)
        written.flush()
        os.fsync(written.fileno())


def exchange(a: Path, b: Path) -> None:
    """Let two folders beside each other change names, at once whatever happens.

    Raises OSError where the file system cannot: FAT and some network file systems.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(a))
    sync_folder(a.absolute().parent)


def lock_folder(folder: Path, wait_s: float = 0.0) -> int:
    """Become the folder's only writer, and return the open file that holds the lock.

    Closing it, or the end of the process, lets go. Raises GalleryBusy where another writer still
    holds it after wait_s.
    """
    until = time.monotonic() + wait_s
    while True:
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(folder / "lock")):
                return file  # NOTE: a restored folder brings a lock of its own
        except BlockingIOError as error:
            if time.monotonic() >= until:
                os.close(file)
                raise GalleryBusy(
                    f"{folder}: held by another writer. Wait until it is done, or stop it, and "
                    "retry."
                ) from error
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        time.sleep(_POLL_S)
