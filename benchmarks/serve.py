"""A server under load: searches from many connections, answered in batches and one at a time.

    python benchmarks/serve.py demo/garments.cir demo/garments.gallery --json

Two servers on a copy of the gallery each, one with batches and one without, are asked in turns;
every connection sends its next search when it has the last answer. Half of the searches upload a
picture with words, the others name one of the gallery, or are words alone. With `--minutes`, the
first server then lives on with searches and changes of its gallery, to see whether it grows.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from recording import keep

from cir_rt.client import Client, Refused
from cir_rt.machine import environment

ROUNDS = 5
CHANGED = 50  # pictures that come and go
PAUSE_S = 0.2  # between two changes
_PATIENT = "--budget-ms=60000"
WORDS = ("the same but in red", "in blue with stripes", "darker and longer", "with short sleeves")


class Server:
    """A server process on a free port."""

    def __init__(self, bundle: Path, gallery: Path, *options: str) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "cir_rt.cli", "serve", str(bundle), str(gallery)]
        self._process = subprocess.Popen(
            [*command, "--port=0", "--rate=0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"the server did not start (exit {self._process.wait()})")
        self.url: str = json.loads(line)["url"]

    @property
    def rss_mb(self) -> float:
        """Memory that the process holds."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return round(int(line.split()[1]) / 1024, 1)

    def stop(self) -> None:
        """Stop it gracefully."""
        self._process.terminate()
        if self._process.wait(60):
            raise click.ClickException(f"the server ended with {self._process.returncode}")


@dataclass(kw_only=True)
class Tally:
    """What came back."""

    answered_ms: list[float] = field(default_factory=list)
    refused: int = 0  # 503, as is announced
    failed: dict[str, int] = field(default_factory=dict)  # anything else, by its status
    seconds: float = 0.0

    def note(self, status: str, ms: float) -> None:
        """Count an answer."""
        if status == "200":
            self.answered_ms.append(ms)
        elif status == "503":
            self.refused += 1
        else:
            self.failed[status] = self.failed.get(status, 0) + 1

    def to_json(self) -> dict[str, Any]:
        """Return rate and latency of what was answered, and the rest by its number."""
        p50, p99 = np.percentile(self.answered_ms, [50, 99]) if self.answered_ms else (None, None)
        return {
            "requests_per_s": round(len(self.answered_ms) / self.seconds, 1),
            "p50_ms": None if p50 is None else round(float(p50), 2),
            "p99_ms": None if p99 is None else round(float(p99), 2),
            "answered": len(self.answered_ms),
            "refused": self.refused,
            "failed": self.failed,
        }


def searches(url: str) -> list[bytes]:
    """Return whole HTTP requests that ask of the gallery's own pictures."""
    with Client(url) as client:
        ids = [item_id for item_id, _ in client.items(page=200)][:200]
        found = []
        for n, item_id in enumerate(ids):
            words = WORDS[n % len(WORDS)]
            fields = {"text": words, **({} if n % 4 == 3 else {"id": item_id})}
            found.append(request(url, fields, client.image(item_id) if n % 2 == 0 else None))
    return found


def request(url: str, fields: dict[str, str], image: bytes | None) -> bytes:
    """Return a search as the bytes of an HTTP request; an image takes the id's place."""
    line = b"\r\n--part\r\nContent-Disposition: form-data; "
    if image is not None:
        fields.pop("id", None)
    parts = [line + f'name="{k}"\r\n\r\n{v}'.encode() for k, v in fields.items()]
    if image is not None:
        parts.append(line + b'name="image"; filename="x.jpg"\r\n\r\n' + image)
    body = b"".join(parts)[2:] + b"\r\n--part--\r\n"
    head = [
        "POST /v1/search HTTP/1.1",
        f"Host: {url.rpartition('/')[2]}",
        "Content-Type: multipart/form-data; boundary=part",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


async def load(
    url: str, requests: Sequence[bytes], connections: int, *, count: int = 0, seconds: float = 0.0
) -> Tally:
    """Send searches over so many connections: `count` in all, or for so long."""
    tally, begun = Tally(), time.perf_counter()
    turns = iter(range(count)) if count else iter(range(sys.maxsize))
    until = begun + seconds if seconds else float("inf")
    host, _, port = url.rpartition("/")[2].rpartition(":")

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for turn in turns:
            start = time.perf_counter()
            if start > until:
                break
            writer.write(requests[turn % len(requests)])
            status = await answer(reader)
            tally.note(status, 1000 * (time.perf_counter() - start))
            if status == "503":
                await asyncio.sleep(0.1)  # a real client waits a second, as it is told
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    tally.seconds = time.perf_counter() - begun
    return tally


async def answer(reader: asyncio.StreamReader) -> str:
    """Read one answer; return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    (length,) = (
        int(line.partition(":")[2]) for line in head.split("\r\n") if line[:15] == "content-length:"
    )
    await reader.readexactly(length)
    return head.split(" ", 2)[1]


def measure(servers: dict[str, Server], count: int, connections: int) -> dict[str, Any]:
    """Ask both servers in turns; return their figures, the ratio of their rates, the memory."""
    requests = {name: searches(server.url) for name, server in servers.items()}
    tallies = {name: Tally() for name in servers}
    ratios = []
    for name, server in servers.items():  # warm-up
        asyncio.run(load(server.url, requests[name], connections, count=count // ROUNDS))
    warm = servers["batched"].rss_mb
    for _ in range(ROUNDS):
        rates = {}
        for name, server in servers.items():
            part = asyncio.run(load(server.url, requests[name], connections, count=count // ROUNDS))
            rates[name] = len(part.answered_ms) / part.seconds
            merge(tallies[name], part)
        ratios.append(rates["batched"] / rates["one_at_a_time"])
    end = servers["batched"].rss_mb
    return {
        **{name: tally.to_json() for name, tally in tallies.items()},
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "rss": growth(warm, end),
    }


def merge(whole: Tally, part: Tally) -> None:
    """Add a part to the whole."""
    whole.answered_ms += part.answered_ms
    whole.refused += part.refused
    whole.seconds += part.seconds
    for status, count in part.failed.items():
        whole.failed[status] = whole.failed.get(status, 0) + count


def growth(warm_mb: float, end_mb: float) -> dict[str, float]:
    return {
        "warm_mb": warm_mb,
        "end_mb": end_mb,
        "growth_percent": round(100 * (end_mb / warm_mb - 1), 2),
    }


def soak(server: Server, minutes: float, connections: int) -> dict[str, Any]:
    """Let searches and changes go on; return what failed, and how memory grew after a tenth."""
    requests, stop, changes = searches(server.url), threading.Event(), Tally()
    changer = threading.Thread(target=change, args=(server.url, stop, changes))
    changer.start()
    try:
        first = asyncio.run(load(server.url, requests, connections, seconds=6 * minutes))
        warm = server.rss_mb
        rest = asyncio.run(load(server.url, requests, connections, seconds=54 * minutes))
    finally:
        stop.set()
        changer.join()
    merge(first, rest)
    return {
        "minutes": minutes,
        "searches": first.to_json(),
        "changes": len(changes.answered_ms),
        "changes_refused": changes.refused,
        "changes_failed": changes.failed,
        "rss": growth(warm, server.rss_mb),
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


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("gallery", type=click.Path(path_type=Path, exists=True))
@click.option("--requests", "count", default=10_000, show_default=True)
@click.option("--connections", default=64, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--threads", type=int, help="Of one engine; all cores unless said.")
@click.option("--minutes", default=0.0, show_default=True, help="Of searches beside changes.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--record", is_flag=True, help="Write it under benchmarks/results/ too.")
def main(
    bundle: Path,
    gallery: Path,
    count: int,
    connections: int,
    batch: int,
    threads: int | None,
    minutes: float,
    as_json: bool,
    record: bool,
) -> None:
    """Load two servers, and let one of them live on."""
    options = [f"--threads={threads}"] if threads else []
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        servers = {}
        # One at a time, searches wait longer; they must not be refused for it and spoil the rate.
        how = {"batched": [f"--batch={batch}"], "one_at_a_time": ["--batch=1", _PATIENT]}
        for name, own in how.items():
            copy = shutil.copytree(gallery, Path(work, name))
            servers[name] = Server(bundle, copy, *own, *options)
            stack.callback(servers[name].stop)
        result: dict[str, Any] = {
            "requests": count,
            "connections": connections,
            "batch": batch,
            **measure(servers, count, connections),
            "soak": soak(servers["batched"], minutes, connections // 8 or 1) if minutes else None,
            "environment": environment(),
        }
    if record:
        keep("serve", result)
    click.echo(json.dumps(result, indent=None if as_json else 2))


if __name__ == "__main__":
    main()
