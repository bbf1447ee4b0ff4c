"""A gallery whose files were damaged at random: an error, a fault that is told, or right data."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from living_gallery import Contents, contents, open_living, picture, seen

from cir_rt.errors import GalleryError
from cir_rt.gallery import Gallery
from cir_rt.gallery.repair import repair

FILES = ["gallery.sqlite", "gallery.sqlite-wal", "vectors/000000.f32", "tokens/000000.i8"]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A folder in memory where there is one: a disk would be waited for in each of the cases."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("fuzz")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def whole(memory):
    """The bytes of a gallery whose log was not folded in yet, and what it held at each commit."""
    folder = memory / "shop.gallery"
    history = [{}]
    with open_living(folder, "fp32") as gallery, Gallery.open(folder) as keeps_the_log:
        for change in (
            lambda: gallery.add([picture(f"shop/{n}", n) for n in range(12)]),
            lambda: gallery.delete(["shop/0", "shop/7"]),
            lambda: gallery._catalog.shrink(),
            lambda: gallery.add([picture(f"shop/{n}", n + 50) for n in range(3, 6)]),
        ):
            change()
            history.append(contents(folder))
        found = {name: (folder / name).read_bytes() for name in FILES}
        keeps_the_log.close()
    shutil.rmtree(folder)
    return folder, found, history


DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.just(0)),
    st.tuples(st.just("garble"), st.floats(0, 1, exclude_max=True), st.integers(1, 300)),
)


def damaged(data: bytes, kind: str, place: float, size: int) -> bytes:
    """Return a file's bytes with one bit turned, its end cut off, or some bytes garbled."""
    at = int(place * len(data))
    if kind == "cut":
        return data[:at]
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << size]) + data[at + 1 :]
    noise = np.random.default_rng(at).bytes(min(size, len(data) - at))
    return data[:at] + noise + data[at + len(noise) :]


@settings(max_examples=800, deadline=None)
@given(name=st.sampled_from(FILES), damage=DAMAGE, mend=st.sampled_from([True] + [False] * 3))
def test_damage_is_told_or_harmless(whole, name, damage, mend):
    folder, found, history = whole
    shutil.rmtree(folder, ignore_errors=True)
    for path, data in found.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(damaged(data, *damage) if path == name else data)
    # A log that ends early is what a power cut leaves: SQLite shows the commit before it.
    allowed = history if name.endswith("-wal") else history[-1:]
    sound = None
    try:
        with Gallery.open(folder) as gallery:
            sound = not gallery.verify()
            shown = _shown(gallery)
        if sound:
            assert shown in allowed
    except GalleryError:
        assert not sound
    if mend:
        _check_repair(folder, allowed)
    for rest in folder.parent.iterdir():
        shutil.rmtree(rest)


def _shown(gallery: Gallery) -> Contents:
    """Return all that can be read, row by row; AssertionError where an item is another's."""
    shown: Contents = {}
    vectors_whole = not any("vectors" in fault or "tokens" in fault for fault in gallery.verify())
    for row in np.flatnonzero(gallery.live).tolist():
        try:
            if vectors_whole:
                shown.update(seen(gallery, [row]))
            else:
                ((item_id, metadata),) = gallery.items([row])
                assert metadata["id"] == item_id
        except GalleryError:
            continue
    return shown


def _check_repair(folder, allowed) -> None:
    try:
        report = repair(folder)
    except GalleryError:
        return
    after = contents(folder)
    assert report.kept == len(after)
    assert any(
        all(i in held and held[i][0] == seed for i, (seed, _) in after.items()) for held in allowed
    )
