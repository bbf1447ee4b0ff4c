"""Reading files for indexing: workers, kills, and files that need no second reading."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_photos import MeanColour, counts, paint, photo_folder

from cir_rt.errors import CirRtError
from cir_rt.gallery import Gallery, decoder, stamps
from cir_rt.gallery.decoder import thumbnail
from cir_rt.gallery.indexing import Source, find_pictures, index_pictures
from cir_rt.preprocess import Preprocess


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos")


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open_writer(tmp_path / "gallery", fingerprint="a" * 64, dim=3) as opened:
        yield opened


@pytest.mark.parametrize("size", [(1, 1), (7, 19), (256, 256), (989, 111), (300, 600)])
def test_thumbnails(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (200, 30, 30))
    with Image.open(io.BytesIO(thumbnail(image))) as found:
        assert (found.format, found.mode) == ("JPEG", "RGB")
        if max(size) <= 256:
            assert found.size == size
        else:
            assert max(found.size) == 256
            assert min(found.size) == pytest.approx(256 * min(size) / max(size), abs=1)
        assert np.abs(np.asarray(found).astype(int) - (200, 30, 30)).max() < 6
    assert image.size == size


@pytest.fixture
def many(photos: Path) -> list[Source]:
    for k in range(200):
        paint(photos / "many" / f"{k:03d}.png", k, (8, 8))
    return find_pictures([photos / "many"])


def test_workers_do_what_this_process_does(
    many: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.jpg").write_text("not a picture")
    many.insert(70, Source(id="bad", path=tmp_path / "bad.jpg"))
    many.insert(80, Source(id="gone", path=tmp_path / "gone.jpg"))
    monkeypatch.setattr(decoder, "IN_PROCESS", 64)
    found = []
    for workers in (0, 2):
        folder = tmp_path / f"gallery{workers}"
        with Gallery.open_writer(folder, fingerprint="a" * 64, dim=3) as gallery:
            report = index_pictures(MeanColour(), gallery, many, workers=workers)
            ids = gallery.ids()
            stored = [(gallery.vector(i).tobytes(), gallery.thumbnail(i)) for i in ids]
            found.append((ids, stored, counts(report), report.unreadable))
    assert found[0] == found[1]
    assert [i for i, _ in found[0][3]] == ["bad", "gone"]


class Deadly(type(Path())):  # type: ignore[misc]
    """A file that brings down the process that reads it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def test_a_file_that_brings_a_worker_down_is_reported(
    many: list[Source], gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "IN_PROCESS", 0)
    many[70:72] = [Source(id=f"deadly{k}", path=Deadly(f"/tmp/{k}.jpg")) for k in range(2)]
    report = index_pictures(MeanColour(), gallery, many, workers=1)
    assert counts(report) == (198, 0, 0, 198)
    reasons = dict(report.unreadable)
    assert set(reasons) == {"deadly0", "deadly1"}
    assert "brought its process down (exit 3)" in reasons["deadly0"]


# Without a guard around its main module, as in a notebook; the marker is found in workers.
KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from cir_rt.gallery import Gallery, decoder
from cir_rt.gallery.indexing import find_pictures, index_pictures
from cir_rt.preprocess import Preprocess

class Slow:
    preprocess = Preprocess(size=8)
    def encode_pixels(self, pixels):
        time.sleep(0.05)
        means = pixels.mean((2, 3)).astype(np.float32) + np.float32(2)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

photos, folder = map(Path, sys.argv[1:])
sys.path.append(str(folder))
decoder.IN_PROCESS = 0
with Gallery.open_writer(folder, fingerprint="a" * 64, dim=3) as gallery:
    index_pictures(Slow(), gallery, find_pictures([photos]), workers=1,
                   progress=lambda done, _: print(done, flush=True))
"""


def running_with(marker: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if marker.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for workers in /proc")
def test_a_killed_run_is_taken_up_where_it_was(many: list[Source], tmp_path: Path) -> None:
    folder, photos = tmp_path / "killed.gallery", many[0].path
    assert photos is not None
    command = [sys.executable, "-c", KILLED, str(photos.parent), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        confirmed = int(process.stdout.readline())
        workers = set(running_with(str(folder))) - {str(process.pid)}
        process.send_signal(signal.SIGKILL)
    assert workers
    until = time.monotonic() + 20
    while workers & set(running_with(str(folder))) and time.monotonic() < until:
        time.sleep(0.05)
    assert not workers & set(running_with(str(folder)))  # they end with their parent
    encoder = MeanColour()
    with Gallery.open_writer(folder, fingerprint="a" * 64, dim=3) as gallery:
        kept = len(gallery)
        assert kept >= confirmed
        assert counts(index_pictures(encoder, gallery, many)) == (200 - kept, 0, kept, 200)
        assert gallery.verify() == []
    assert sum(encoder.batches) == 200 - kept


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are read; stamps are believed at once."""
    seen: list[str] = []
    plain = decoder.read

    def watched(preprocess: Preprocess, request: decoder.Request) -> decoder.Reading:
        seen.append(request.path.name)
        return plain(preprocess, request)

    monkeypatch.setattr(decoder, "read", watched)
    monkeypatch.setattr(stamps, "_SETTLED_NS", 0)
    return seen


def test_a_file_that_looks_the_same_is_not_read_again(
    photos: Path, gallery: Gallery, reads: list[str]
) -> None:
    def run() -> tuple[int, int, int, int]:
        reads.clear()
        return counts(index_pictures(MeanColour(), gallery, find_pictures([photos])))

    assert run() == (6, 0, 0, 6)
    assert len(reads) == 6
    assert run() == (0, 0, 6, 6)
    assert reads == []
    status = (photos / "2.png").stat()
    before = (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(photos / "2.png", ns=(status.st_atime_ns, status.st_mtime_ns))  # a careful copy
    run()
    assert reads == ["2.png"]
    (photos / "3.png").touch()
    assert run() == (0, 0, 6, 6)
    assert reads == ["3.png"]
    assert run() == (0, 0, 6, 6)
    assert reads == []
    gallery.delete(["4"])
    assert run() == (1, 0, 5, 6)
    assert reads == ["4.png"]
    (gallery.folder / stamps.FILE).write_bytes(b"not a database" * 99)
    assert run() == (0, 0, 6, 6)
    assert len(reads) == 6


def test_a_file_that_has_just_changed_is_read_again(tmp_path: Path) -> None:
    path = paint(tmp_path / "new.png", 1)
    stamp = stamps.Stamp.of(path, path.stat())
    with stamps.Stamps(tmp_path) as kept:
        kept.remember([("new", "hash", stamp)])
        assert kept.hash_of("new", path) is None
        kept.remember([("new", "hash", stamp._replace(changed_ns=stamp.changed_ns - 3 * 10**9))])
        assert kept.hash_of("new", path) is None  # it is not what it was
    assert stamps.Stamp.of(path, path.stat()) == stamp


def test_an_empty_answer_of_workers_is_an_error(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(CirRtError, match=r"did not start \(exit 0\).*workers=0"):
        decoder.Worker(Preprocess(size=8))
