"""A small gallery that lives: random changes, what they should leave, and what a reader may see."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from small_gallery import DIM, MODEL, jpeg

from cir_rt.errors import GalleryError
from cir_rt.gallery import ExactIndex, Gallery, Item, compaction
from cir_rt.gallery.current import CurrentIndex, save_index
from cir_rt.gallery.facts import TokenFormat
from cir_rt.gallery.segment import Segment

TOKENS = TokenFormat(fingerprint="feedface" * 8, count=2, width=4)
IDS = [f"shop/{n}" for n in range(40)]
KINDS = ["add"] * 6 + ["delete"] * 3 + ["tokens"] * 2 + ["compact"] * 3 + ["index"]

Contents = dict[str, tuple[int, bool]]  # by id: the seed of all that it has, and whether tokens


class Change(NamedTuple):
    kind: str
    pictures: dict[str, int]  # id: seed

    def after(self, held: Contents) -> Contents:
        """Return what a gallery of these contents holds after the change."""
        held = dict(held)
        for item_id, seed in self.pictures.items():
            if self.kind == "add":
                held[item_id] = seed, seed % 3 == 0
            elif self.kind == "delete":
                del held[item_id]
            else:
                held[item_id] = seed, True
        return held

    def make(self, gallery: Gallery) -> None:
        """Make the change."""
        if self.kind == "add":
            gallery.add([picture(*pair) for pair in self.pictures.items()])
        elif self.kind == "delete":
            gallery.delete(self.pictures)
        elif self.kind == "tokens":
            gallery.add_tokens({i: tokens(seed) for i, seed in self.pictures.items()})
        elif self.kind == "compact":
            gallery.compact()
        else:
            rebuild_index(gallery)


def draw(rng: random.Random, held: Contents) -> Change:
    """Draw a change that a gallery of these contents can take."""
    kind = rng.choice(KINDS)
    if kind == "add":
        ids = rng.sample(IDS, rng.randint(1, 5))
        return Change(kind, {i: rng.randrange(1 << 30) for i in ids})
    able = [i for i, (_, has_tokens) in held.items() if not (kind == "tokens" and has_tokens)]
    chosen = rng.sample(able, min(len(able), rng.randint(1, 4)))
    if kind in ("compact", "index"):
        chosen = []
    return Change(kind, {i: held[i][0] for i in chosen})


def rebuild_index(gallery: Gallery) -> None:
    """Save an index anew, of a kind that is installed."""
    save_index(gallery, "hnsw" if find_spec("hnswlib") else "exact", threads=1, now=True)


@cache
def _template() -> bytes:
    return jpeg(1, 16)


def thumbnail(seed: int) -> bytes:
    """Return a JPEG that says the seed in a comment."""
    comment = f"{seed}".encode()
    head, rest = _template()[:2], _template()[2:]
    return head + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + rest


def vector(seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return found / np.linalg.norm(found)


def tokens(seed: int) -> np.ndarray:
    shape = (TOKENS.count, TOKENS.width)
    return np.random.default_rng(seed + 1).standard_normal(shape).astype(np.float32)


def picture(item_id: str, seed: int) -> Item:
    return Item(
        id=item_id,
        vector=vector(seed),
        thumbnail=thumbnail(seed),
        source_hash=f"{seed:064x}",
        metadata={"seed": seed, "id": item_id},
        tokens=tokens(seed) if seed % 3 == 0 else None,
    )


def open_living(folder: Path, precision: str) -> Gallery:
    return Gallery.open_writer(
        folder, fingerprint=MODEL, dim=DIM, precision=precision, tokens=TOKENS
    )


def seen(gallery: Gallery, rows: list[int]) -> Contents:
    """Return what live rows hold; AssertionError where what one has does not belong together."""
    found: Contents = {}
    without = set(gallery.ids_without_tokens())
    for row, (item_id, metadata) in zip(rows, gallery.items(rows), strict=True):
        seed = metadata["seed"]
        assert metadata["id"] == item_id
        stored = gallery.vectors._format
        expected = stored.decode(stored.encode([vector(seed)]))[0]
        np.testing.assert_array_equal(gallery.vectors[row], expected)
        assert gallery.row(item_id) == row
        assert gallery.thumbnail(item_id) == thumbnail(seed)
        if item_id not in without:
            (held,) = gallery.tokens([row])
            np.testing.assert_array_equal(held, _stored_tokens(seed))
        found[item_id] = seed, item_id not in without
    return found


def _stored_tokens(seed: int) -> np.ndarray:
    return TOKENS.rows.decode(TOKENS.rows.encode([tokens(seed)]))[0]


def contents(folder: Path) -> Contents:
    """Return what a gallery holds, after every checksum was held."""
    with Gallery.open(folder) as gallery:
        assert gallery.verify() == []
        rows = [int(row) for row in np.flatnonzero(gallery.live)]
        found = seen(gallery, rows)
        assert len(found) == len(rows) == len(gallery)
        assert list(found) == gallery.ids()
        return found


def check_search(gallery: Gallery, index: CurrentIndex, seed: int) -> None:
    """Hold what an index finds against brute force; AssertionError where they differ."""
    query = vector(seed)[None]
    rows, scores = index.search(query, 3, gallery.live)
    expected_rows, expected_scores = ExactIndex(gallery.vectors).search(query, 3, gallery.live)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def write(pipe: Connection, folder: Path, precision: str, seed: int, torn: bool) -> None:
    """Change the gallery for ever; tell each change before, and again when it is confirmed."""

    def tell(**told: Any) -> None:
        os.write(pipe.fileno(), (json.dumps(told) + "\n").encode())

    rng = random.Random(seed)
    gallery = open_living(folder, precision)
    if torn:
        _tell_of_syncs(gallery, tell)
    held = seen(gallery, [int(row) for row in np.flatnonzero(gallery.live)])
    tell(held=held)
    while True:
        change = draw(rng, held)
        tell(change=change)
        change.make(gallery)
        held = change.after(held)
        tell(done=change.kind)


def log_file(folder: Path) -> Path:
    return folder / "gallery.sqlite-wal"


def compact_and_die(pipe: Connection, folder: Path, place: str) -> None:
    """Compact, and be killed at one instant of it."""
    gallery = open_living(folder, "fp32")
    owner, name = {
        "copying": (Segment, "append"),
        "in the transaction": (gallery._catalog, "_write_facts"),
        "committed": (compaction, "remove_leftovers"),
        "removed": (gallery._catalog, "shrink"),
    }[place]
    setattr(owner, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    gallery.compact()


def _tell_of_syncs(gallery: Gallery, tell: Callable[..., None]) -> None:
    """Tell what of each file is safe: the log at each statement outside of a transaction."""
    sync, db = os.fsync, gallery._catalog._db

    def told(file: int) -> None:
        sync(file)
        tell(synced=os.readlink(f"/proc/self/fd/{file}"), size_bytes=os.fstat(file).st_size)

    def begun(_statement: str) -> None:
        if not db.in_transaction:
            log = log_file(gallery.folder)
            tell(synced=str(log), size_bytes=log.stat().st_size if log.exists() else 0)

    os.fsync = told
    db.execute("PRAGMA wal_autocheckpoint = 0")  # so that the log only grows
    db.set_trace_callback(begun)


def watch(pipe: Connection, folder: Path, seed: int, stop: Path) -> None:
    """Read random rows while others write, until stop appears; tell how many, and what was wrong.

    A row looked up by the number that it had before a compaction is refused, never another's.
    """
    rng = random.Random(seed)
    rows = compactions = 0
    fault = None
    try:
        with Gallery.open(folder) as gallery:
            index = CurrentIndex(gallery, threads=1)
            while not stop.exists():
                gallery.refresh()
                index.follow(gallery)
                check_search(gallery, index, rng.randrange(1 << 30))
                live = np.flatnonzero(gallery.live).tolist()
                some = rng.sample(live, min(len(live), 4))
                time.sleep(rng.random() * 0.01)  # a commit may fall here
                try:
                    rows += len(seen(gallery, some))
                except GalleryError as error:
                    if "was compacted meanwhile" not in str(error):
                        raise
                    compactions += 1
    except BaseException as error:
        fault = repr(error)
    told = {"rows": rows, "compactions": compactions, "fault": fault}
    os.write(pipe.fileno(), (json.dumps(told) + "\n").encode())
