"""A writer killed at any instant, again and again, while others read: nothing confirmed is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from living_gallery import (
    Change,
    Contents,
    compact_and_die,
    contents,
    log_file,
    open_living,
    picture,
    watch,
    write,
)

KILLS = 50  # of each of the four galleries

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["living_gallery"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_killed_writer_and_its_readers(tmp_path, precision):
    folder = tmp_path / "shop.gallery"
    open_living(folder, precision).close()
    held: Contents = {}
    with readers(folder, tmp_path / "stop", 2) as told:
        for seed in range(KILLS):
            held = check(folder, held, killed_writer(folder, precision, seed))
    for reader in told:
        assert reader["fault"] is None
        assert reader["rows"] > 0


def test_power_that_fails_takes_what_was_not_synced(tmp_path):
    folder = tmp_path / "shop.gallery"
    open_living(folder, "fp32").close()
    rng = random.Random(0)
    held: Contents = {}
    for seed in range(KILLS):
        safe = {path: path.stat().st_size for path in growing_files(folder)}
        told = killed_writer(folder, "fp32", seed, torn=True)
        tear(folder, safe, told, rng)
        held = check(folder, held, told)


def started(work: Callable[..., None], *args: Any) -> tuple[Any, BinaryIO]:
    """Start a process that tells what it does; return it and the pipe that it tells into."""
    read, told = _processes.Pipe(duplex=False)
    process = _processes.Process(target=work, args=(told, *args))
    process.start()
    told.close()
    with read:
        return process, os.fdopen(os.dup(read.fileno()), "rb")


@contextmanager
def readers(folder: Path, stop: Path, count: int) -> Iterator[list[dict[str, Any]]]:
    """Let processes read a gallery meanwhile; what they tell is there afterwards."""
    running = [started(watch, folder, seed, stop) for seed in range(count)]
    told: list[dict[str, Any]] = []
    try:
        yield told
    finally:
        stop.touch()
        for process, pipe in running:
            with pipe:
                told += [json.loads(line) for line in pipe]
            process.join()


@pytest.mark.parametrize("place", ["copying", "in the transaction", "committed", "removed"])
def test_a_writer_killed_while_it_compacts(tmp_path, place):
    folder = tmp_path / "shop.gallery"
    with open_living(folder, "fp32") as gallery:
        gallery.add([picture(f"shop/{n}", n) for n in range(20)])
        gallery.delete([f"shop/{n}" for n in range(0, 20, 3)])
    before = contents(folder)
    process, pipe = started(compact_and_die, folder, place)
    pipe.close()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert contents(folder) == before
    with open_living(folder, "fp32") as gallery:
        assert gallery.segment == (place in ("committed", "removed"))
        assert len(list(folder.glob("vectors/*"))) == len(list(folder.glob("tokens/*"))) == 1
        gallery.compact()
        assert gallery.segment == 1
    assert contents(folder) == before


def growing_files(folder: Path) -> list[Path]:
    """Return the files that a writer appends to: segments and SQLite's log."""
    found = [*folder.glob("vectors/*"), *folder.glob("tokens/*"), log_file(folder)]
    return [path for path in found if path.exists()]


def tear(
    folder: Path, safe: dict[Path, int], told: list[dict[str, Any]], rng: random.Random
) -> None:
    """Cut or garble the tails of files behind what was safe at first or synced since.

    The log's index in memory goes with the power; SQLite makes it anew from the log.
    """
    for line in told:
        if "synced" in line:
            safe[Path(line["synced"])] = line["size_bytes"]
    for path in growing_files(folder):
        kept, size = safe.get(path, 0), path.stat().st_size
        if size > kept:
            cut = rng.randint(kept, size)
            with path.open("r+b") as file:
                file.seek(cut)
                if rng.random() < 0.5:
                    file.truncate()
                else:
                    file.write(rng.randbytes(size - cut))
    (folder / "gallery.sqlite-shm").unlink(missing_ok=True)


def killed_writer(
    folder: Path, precision: str, seed: int, *, torn: bool = False
) -> list[dict[str, Any]]:
    """Start a writer, kill it at a random instant, and return all that it told."""
    rng = random.Random(seed)
    process, pipe = started(write, folder, precision, seed, torn)
    with pipe:
        lines = [pipe.readline() for _ in range(rng.randrange(60 if torn else 12))]
        time.sleep(rng.random() * 0.03)
        process.kill()
        lines += pipe.readlines()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def check(folder: Path, held: Contents, told: list[dict[str, Any]]) -> Contents:
    """Hold a gallery against what was confirmed; the last change may be in, wholly, or not."""
    pending = None
    for line in told:
        if "held" in line:
            assert held == {item_id: tuple(found) for item_id, found in line["held"].items()}
        elif "change" in line:
            pending = Change(*line["change"])
        elif "done" in line:
            assert pending is not None
            held, pending = pending.after(held), None
    found = contents(folder)
    assert found in ([held] if pending is None else [held, pending.after(held)])
    return found
