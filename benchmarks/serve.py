"""A server under load: searches from many connections against one at a time, or a long soak.

    python benchmarks/serve.py demo/garments.cir demo/garments.gallery --json
    python benchmarks/serve.py demo/garments.cir demo/garments.gallery --soak 30 --json

The first asks in turns: from all connections; from one, which asks when it has its answer; and from
all, of a server that answers without batches. The second lets searches, changes of the gallery and
reloads go on for so many minutes beside one another, and watches the process.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from load import Tally, load, searches
from recording import keep

from cir_rt.client import Client, Refused
from cir_rt.machine import environment

ROUNDS = 5
CHANGED = 50  # pictures that come and go
PAUSE_S = 0.2  # between two changes
RELOAD_S = 60
SAMPLES = 300  # of the process, in a soak
_WARM = 0.1  # of a soak
DEPLOYED = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # as docs/deploy.md says
_PATIENT = "--budget-ms=60000"
_MIB = 1 << 20


class State(NamedTuple):
    """What a process holds."""

    rss_mb: float
    threads: int
    files: int


class Server:
    """A server process on a free port."""

    def __init__(self, bundle: Path, gallery: Path, *options: str) -> None:
        """Start it and wait until it answers."""
        self.gallery = gallery
        command = [sys.executable, "-m", "cir_rt.cli", "serve", str(bundle), str(gallery)]
        self._process = subprocess.Popen(
            [*command, "--port=0", "--rate=0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **DEPLOYED},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"the server did not start (exit {self._process.wait()})")
        self.url: str = json.loads(line)["url"]

    def state(self) -> State:
        """Look at the process."""
        place = Path(f"/proc/{self._process.pid}")
        lines = (place / "status").read_text(encoding="utf-8").splitlines()
        told = dict(line.split(":", 1) for line in lines)
        return State(
            rss_mb=round(int(told["VmRSS"].split()[0]) / 1024, 1),
            threads=int(told["Threads"]),
            files=len(list((place / "fd").iterdir())),
        )

    def reload(self) -> None:
        """Tell it to take its release anew."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop it gracefully."""
        self._process.terminate()
        if self._process.wait(60):
            raise click.ClickException(f"the server ended with {self._process.returncode}")


@contextmanager
def started(bundle: Path, gallery: Path, *options: str) -> Iterator[Server]:
    """Run a server on a copy of a gallery."""
    with tempfile.TemporaryDirectory() as work:
        server = Server(bundle, shutil.copytree(gallery, Path(work, "gallery")), *options)
        try:
            yield server
        finally:
            server.stop()


def measure(
    batched: Server, unbatched: Server, count: int, connections: int, rerank: int | None
) -> dict[str, Any]:
    """Ask in turns; return each one's figures, the ratios of their rates, the memory."""
    ways = {
        "batched": (batched, connections),
        "one_after_another": (batched, 1),
        "unbatched": (unbatched, connections),
    }
    requests = {server.url: searches(server.url, rerank) for server in (batched, unbatched)}
    tallies = {name: Tally() for name in ways}
    rounds: list[dict[str, float]] = []
    warm = None
    for turn in range(ROUNDS + 1):  # the first is the warm-up
        parts = {
            name: load(server.url, requests[server.url], wide, count=count // ROUNDS)
            for name, (server, wide) in ways.items()
        }
        if turn == 0:
            warm = batched.state()
            continue
        rounds.append({name: part.rate for name, part in parts.items()})
        for name, part in parts.items():
            tallies[name].add(part)
    assert warm is not None
    return {
        **{name: tally.to_json() for name, tally in tallies.items()},
        "ratio": ratio(rounds, "one_after_another"),
        "ratio_unbatched": ratio(rounds, "unbatched"),
        "process": growth(warm, batched.state()),
    }


def ratio(rounds: list[dict[str, float]], other: str) -> dict[str, float]:
    """Return how many times another way's rate the batched one has, round by round."""
    found = [rates["batched"] / rates[other] for rates in rounds]
    return {
        "median": round(statistics.median(found), 3),
        "least": round(min(found), 3),
        "most": round(max(found), 3),
    }


def growth(warm: State, end: State) -> dict[str, Any]:
    """Return what a process held when it was warm, and at the end."""
    percent = round(100 * (end.rss_mb / warm.rss_mb - 1), 2)
    return {"warm": warm._asdict(), "end": end._asdict(), "rss_growth_percent": percent}


def soak(server: Server, minutes: float, connections: int, rerank: int | None) -> dict[str, Any]:
    """Let searches, changes and reloads go on; return what failed, and how the process grew."""
    requests, stop, changes = searches(server.url, rerank), threading.Event(), Tally()
    samples: list[tuple[float, State]] = []
    beside: tuple[Callable[[], None], ...] = (
        lambda: change(server.url, stop, changes),
        lambda: watch(server, stop, 60 * minutes / SAMPLES, samples),
        lambda: reloads(server, stop),
    )
    threads = [threading.Thread(target=work) for work in beside]
    disk_mb = size_mb(server.gallery)
    for thread in threads:
        thread.start()
    try:
        tally = load(server.url, requests, connections, seconds=60 * minutes)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    changes.seconds = tally.seconds
    held = samples[round(_WARM * len(samples)) :]
    at, rss = [seconds / 60 for seconds, _ in held], [state.rss_mb for _, state in held]
    return {
        "searches": tally.to_json(),
        "changes": changes.to_json(),
        "process": growth(held[0][1], held[-1][1]),
        "rss_mb_a_minute": round(float(np.polyfit(at, rss, 1)[0]), 3),
        "rss_mb": {"least": min(rss), "most": max(rss), "tenths": rss[:: max(1, len(rss) // 10)]},
        "gallery_mb": {"begin": disk_mb, "end": size_mb(server.gallery)},
    }


def change(url: str, stop: threading.Event, tally: Tally) -> None:
    """Add and delete pictures until told to stop."""
    rng, held = random.Random(0), set()
    with Client(url) as client:
        ids = [item_id for item_id, _ in client.items()]
        while not stop.wait(PAUSE_S):
            name, start = f"come-and-go-{rng.randrange(CHANGED)}", time.perf_counter()
            try:
                if name in held:
                    client.delete(name)
                    held.remove(name)
                else:
                    client.add(name, client.image(rng.choice(ids)), {"price": rng.randrange(99)})
                    held.add(name)
                status = "200"
            except Refused as refusal:
                status = str(refusal.status)
            tally.note(status, 1000 * (time.perf_counter() - start))


def watch(
    server: Server, stop: threading.Event, pause_s: float, samples: list[tuple[float, State]]
) -> None:
    """Look at the process now and then until told to stop."""
    begun = time.perf_counter()
    while not stop.wait(pause_s):
        samples.append((time.perf_counter() - begun, server.state()))


def reloads(server: Server, stop: threading.Event) -> None:
    """Let the server take its release anew now and then until told to stop."""
    while not stop.wait(RELOAD_S):
        server.reload()


def size_mb(folder: Path) -> float:
    """Return what the files of a folder take."""
    return round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / _MIB, 1)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("gallery", type=click.Path(path_type=Path, exists=True))
@click.option("--requests", "count", default=10_000, show_default=True, help="Of each way.")
@click.option("--connections", type=int, help="64; 8 in a soak.")
@click.option("--batch", default=16, show_default=True)
@click.option("--threads", type=int, help="Of one engine; all cores unless said.")
@click.option("--rerank", type=int, help="Candidates; the bundle's own number unless said.")
@click.option("--soak", "minutes", type=float, help="Minutes of searches beside changes.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    bundle: Path,
    gallery: Path,
    count: int,
    connections: int | None,
    batch: int,
    threads: int | None,
    rerank: int | None,
    minutes: float | None,
    as_json: bool,
    record: bool,
) -> None:
    """Load servers in turns, or let one live on."""
    options = [f"--threads={threads}"] if threads else []
    wide = connections or (8 if minutes else 64)
    asked = {"connections": wide, "batch": batch, "rerank": rerank, "bundle": bundle.name}
    with ExitStack() as stack:
        server = stack.enter_context(started(bundle, gallery, f"--batch={batch}", *options))
        if minutes:
            result = {"minutes": minutes, **asked, **soak(server, minutes, wide, rerank)}
        else:
            # One at a time, searches wait longer; a refusal for it would spoil the rate.
            other = started(bundle, gallery, "--batch=1", _PATIENT, *options)
            found = measure(server, stack.enter_context(other), count, wide, rerank)
            result = {"requests": count, **asked, **found}
        result["environment"] = environment() | {"process": DEPLOYED}
    if record:
        keep("serve_soak" if minutes else "serve", result)
    click.echo(json.dumps(result, indent=None if as_json else 2))


if __name__ == "__main__":
    main()
