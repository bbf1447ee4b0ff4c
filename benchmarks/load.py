"""Searches over HTTP from many connections at once, and what came back of them.

It shares the cores with the server that it asks, so that requests are whole bytes made beforehand,
and of an answer its status and length are read and nothing else.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cir_rt.client import Client
from cir_rt.percentile import percentile

PICTURES = 200  # of the gallery's own that are asked about
WORDS = ("the same but in red", "in blue with stripes", "darker and longer", "with short sleeves")
_PAUSE_S = 0.1  # after a refusal; a real client waits a second, as it is told


@dataclass(kw_only=True)
class Tally:
    """What came back."""

    answered_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    own_cpu_s: float = 0.0  # what asking took

    def note(self, status: str, ms: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        if status[0] == "2":
            self.answered_ms.append(ms)

    def add(self, part: Tally) -> None:
        """Count what another one counted."""
        self.answered_ms += part.answered_ms
        self.statuses += part.statuses
        self.seconds += part.seconds
        self.own_cpu_s += part.own_cpu_s

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.answered_ms) / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return rate and latency of what was answered, and all answers by their status."""
        times = self.answered_ms or [float("nan")]
        tails = {f"p{q}_ms": percentile(times, q) for q in (50, 90, 99)}
        return {
            "requests_per_s": round(self.rate, 1),
            **{name: round(ms, 2) for name, ms in tails.items()},
            "statuses": dict(sorted(self.statuses.items())),
            "seconds": round(self.seconds, 1),
            "own_cpu_s": round(self.own_cpu_s, 1),
        }


def searches(url: str, rerank: int | None = None) -> list[bytes]:
    """Return whole HTTP requests that ask of the gallery's own pictures.

    Half of them upload a picture with words, the others name one of the gallery, or are words
    alone. `rerank` is left to the bundle unless said.
    """
    how = {} if rerank is None else {"rerank": str(rerank)}
    found = []
    with Client(url) as client:
        ids = [item_id for item_id, _ in client.items(page=PICTURES)][:PICTURES]
        for n, item_id in enumerate(ids):
            fields = {"text": WORDS[n // 4 % len(WORDS)], **how}
            image = client.image(item_id) if n % 2 == 0 else None
            if n % 4 == 1:
                fields["id"] = item_id
            found.append(request(url, fields, image))
    return found


def request(url: str, fields: dict[str, str], image: bytes | None) -> bytes:
    """Return a search as the bytes of an HTTP request."""
    line = b"\r\n--part\r\nContent-Disposition: form-data; "
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


def load(
    url: str, requests: Sequence[bytes], connections: int, *, count: int = 0, seconds: float = 0.0
) -> Tally:
    """Ask over so many connections, `count` times in all or for so long.

    Each connection sends its next search when it has the last answer.
    """
    tally, begun, cpu_s = Tally(), time.perf_counter(), time.process_time()
    turns = iter(range(count or sys.maxsize))
    until = begun + seconds if seconds else float("inf")
    asyncio.run(_asked(url, requests, connections, turns, until, tally))
    tally.seconds = time.perf_counter() - begun
    tally.own_cpu_s = time.process_time() - cpu_s
    return tally


async def _asked(
    url: str,
    requests: Sequence[bytes],
    connections: int,
    turns: Iterator[int],
    until: float,
    tally: Tally,
) -> None:
    host, _, port = url.rpartition("/")[2].rpartition(":")

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for turn in turns:
            start = time.perf_counter()
            if start > until:
                break
            writer.write(requests[turn % len(requests)])
            status = await _answer(reader)
            tally.note(status, 1000 * (time.perf_counter() - start))
            if status == "503":
                await asyncio.sleep(_PAUSE_S)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))


async def _answer(reader: asyncio.StreamReader) -> str:
    """Read one answer; return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, behind = head.partition(b"\r\ncontent-length:")
    await reader.readexactly(int(behind[: behind.index(b"\r")]))
    return head[9:12].decode()
