"""Some seconds of everything at once: no error, and nothing that grows."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from serving import Live

from cir_rt.client import Client, Refused
from cir_rt.gallery import Gallery

TEXT = "the same but in red"
WARM_S, SOAK_S = 7.0, 14.0
MORE_THREADS, MORE_FILES, MORE_RSS_MB = 2, 6, 12.0  # SQLite closes a file when all let go of it
ARENAS = {"MALLOC_ARENA_MAX": "1"}  # as docs/deploy.md says: a reload's threads bring no new ones


class State(NamedTuple):
    """What a process holds."""

    threads: int
    files: int
    rss_mb: float


def state(live: Live) -> State:
    place = Path(f"/proc/{live.process.pid}")
    told = dict(re.findall(r"^(\w+):\s+(\d+)", (place / "status").read_text(), re.MULTILINE))
    files = len(list((place / "fd").iterdir()))
    return State(int(told["Threads"]), files, int(told["VmRSS"]) / 1024)


def searches(client: Client, photo: bytes) -> Iterator[str]:
    """Ask in all the ways that shoppers ask; yield the words of what went well."""
    for n in itertools.count():
        ways: tuple[Callable[[], object], ...] = (
            lambda: client.search(photo, TEXT, k=3),
            lambda: client.search(text=TEXT, where="id like 'd%'"),
            lambda: client.search(id="dress-val-00000", text=TEXT, k=200),
            lambda: client.image("dress-val-00001"),
            lambda: list(client.items(page=200)),
            lambda: client.metrics(),
        )
        assert ways[n % len(ways)]()
        yield "searched"


def changes(client: Client, photo: bytes) -> Iterator[str]:
    """Add, replace and delete pictures; a change that is told to come back comes back."""
    for n in itertools.count():
        name, turn = f"new-{n // 3 % 7}", n % 3
        time.sleep(0.03)  # another writer has its turn
        try:
            if turn < 2:
                client.add(name, photo + bytes(turn), {"price": n})
            else:
                client.delete(name)
            yield "changed"
        except Refused as refused:
            if refused.kind == "busy" and refused.retry_after_s:
                yield "told to come back"
            elif refused.kind != "unknown-id":  # its picture was not added a moment ago
                raise


def compactions(live: Live, bundle: Path) -> Iterator[str]:
    """Let another process compact the gallery; one of the two writers has to wait."""
    command = [sys.executable, "-m", "cir_rt.cli", "index", str(bundle), "--compact"]
    while True:
        done = subprocess.run(
            [*command, "--gallery", str(live.gallery)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or "GalleryBusy" in done.stderr, done.stderr
        yield "compacted" if done.returncode == 0 else "came too late"
        time.sleep(0.5)


def reloads(live: Live) -> Iterator[str]:
    while True:
        time.sleep(1.0)
        live.process.send_signal(signal.SIGHUP)
        yield "told to reload"


def soak(live: Live, bundle: Path, photo: bytes, seconds: float) -> Counter[str]:
    """Let all of it go on beside one another; return how often each went well."""
    stop = threading.Event()

    def go(steps: Iterator[str]) -> Counter[str]:
        done: Counter[str] = Counter()
        while not stop.is_set():
            done[next(steps)] += 1
        return done

    clients = [Client(live.url) for _ in range(3)]
    work = [searches(clients[0], photo), searches(clients[1], photo), changes(clients[2], photo)]
    work += [compactions(live, bundle), reloads(live)]
    with ThreadPoolExecutor(len(work)) as pool:
        tasks = [pool.submit(go, steps) for steps in work]
        try:
            stop.wait(seconds)
        finally:
            stop.set()
    for client in clients:
        client.close()
    return sum((task.result() for task in tasks), Counter())


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_everything_at_once_leaves_no_error_and_nothing_behind(
    bundle: Path, gallery: Path, photo: bytes, tmp_path: Path
) -> None:
    folder = shutil.copytree(gallery, tmp_path / "live.gallery")
    live = Live(bundle, folder, "--rate=0", environment=ARENAS)
    try:
        soak(live, bundle, photo, WARM_S)
        time.sleep(1.0)
        before = state(live)
        done = soak(live, bundle, photo, SOAK_S)
        time.sleep(1.0)
        after = state(live)
        assert min(done[word] for word in ("searched", "changed", "compacted")) > 0, done
        events = Counter(str(line["event"]) for line in live.log)
        assert events["reloaded"] >= 5, events
        assert events["fault"] == 0, [line for line in live.log if line["event"] == "fault"]
        statuses = {line["status"] for line in live.log if "status" in line}
        assert statuses <= {200, 201, 204, 404, 503}
        assert after.threads <= before.threads + MORE_THREADS, (before, after)
        assert after.files <= before.files + MORE_FILES, (before, after)
        assert after.rss_mb <= before.rss_mb + MORE_RSS_MB, (before, after)
        assert live.stop() == 0
        with Gallery.open(live.gallery) as opened:
            assert opened.verify() == []
    finally:
        live.kill()
