"""A picture file read for indexing: hashed, decoded, made small. Here, or in a worker process.

A worker is a fresh Python that reads requests from its standard input, so that it inherits neither
engines nor threads, needs no guard around the caller's main module, and ends with its parent
however that ends. It gives way to the encoder (nice), and a file that brings it down is reported
like any other that cannot be read.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cir_rt.errors import CirRtError, PictureError
from cir_rt.gallery.item import THUMBNAIL_SIDE
from cir_rt.gallery.stamps import Stamp
from cir_rt.pictures import load
from cir_rt.preprocess import Preprocess

IN_PROCESS = 256  # pictures decoded in this process before others are started: that takes 0.3 s
MOST_WORKERS = 8
TOGETHER = 8  # files of one request: a worker that gives way is seldom woken at once

_NICE = 10
_PATIENCE_S = 5.0
_SERVE = "import sys; sys.path[:] = {path!r}; from cir_rt.gallery.decoder import serve; serve()"

Looks = tuple[Preprocess, ...]  # what each picture is made into: one for each encoder


class Request(NamedTuple):
    """One file to read."""

    path: Path | None
    known_hash: str | None  # with this one it need not be decoded
    data: bytes | None = None  # what a file without a path holds


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What came of one file."""

    stamp: Stamp | None = None  # None where the file could not be looked at
    source_hash: str = ""  # sha256 of the file, in hex
    pixels: tuple[np.ndarray, ...] = ()  # (size, size, 3) uint8 a look; none where not decoded
    thumbnail: bytes = b""
    fault: str = ""  # why it cannot be read


def read(looks: Looks, request: Request) -> Reading:
    """Read one file, and decode it unless it has the known hash."""
    stamp, path, data = None, request.path, request.data or b""
    if path is not None:
        try:
            with path.open("rb") as file:
                stamp = Stamp.of(path, os.fstat(file.fileno()))
                data = file.read()
        except OSError as error:
            return Reading(fault=str(error))
    source_hash = hashlib.sha256(data).hexdigest()
    if source_hash == request.known_hash:
        return Reading(stamp=stamp, source_hash=source_hash)
    try:
        image = load(data)
    except PictureError as error:
        return Reading(stamp=stamp, fault=str(error))
    return Reading(
        stamp=stamp,
        source_hash=source_hash,
        pixels=tuple(preprocess.pixels(image) for preprocess in looks),
        thumbnail=thumbnail(image),
    )


def thumbnail(image: Image.Image) -> bytes:
    """Return the picture re-encoded as JPEG, at most 256 pixels a side."""
    small = image.copy()
    small.info = {}  # a JPEG's comment would go with it
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


class Worker:
    """A process that reads files; owned by one thread at a time."""

    def __init__(self, looks: Looks) -> None:
        """Start it. Raises CirRtError where it does not come up."""
        self._looks = looks
        self._start()

    def read(self, requests: Sequence[Request]) -> list[Reading]:
        """Read files as the function does; one that ends the process is a fault of its own."""
        try:
            return self._ask(requests)
        except (OSError, EOFError, pickle.UnpicklingError):
            code = self._end()
            self._start()
        if len(requests) > 1:  # one of them it was
            return [reading for request in requests for reading in self.read([request])]
        path = requests[0].path
        return [Reading(fault=f"{path}: decoding it brought its process down (exit {code}).")]

    def close(self) -> None:
        """End the process."""
        self._end()

    def _start(self) -> None:
        command = [sys.executable, "-c", _SERVE.format(path=sys.path)]
        self._process = subprocess.Popen(  # in a session of its own: ^C is the parent's to handle
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            self._ask(self._looks)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise CirRtError(
                f"a process to decode pictures did not start (exit {self._end()}): {command[0]}. "
                "Index with workers=0 to decode in this process."
            ) from error

    def _ask(self, request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def _end(self) -> int:
        """Let it end, by force where it does not, and return its exit code."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            return self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()


def serve() -> None:
    """Answer requests on standard input until it ends: the worker's side."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is not an answer
    os.nice(_NICE)
    looks = pickle.load(requests)
    answer: Any = None
    while True:
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
        try:
            asked = pickle.load(requests)
        except EOFError:
            return
        answer = [read(looks, request) for request in asked]


class Decoder:
    """Reads files ahead of their use: the first few in threads here, the rest in workers."""

    def __init__(self, looks: Looks, workers: int | None = None) -> None:
        """Take how many processes to start: one a core unless said, none where it is 0."""
        cores = min(MOST_WORKERS, os.cpu_count() or 1)
        self._looks = looks
        self._workers = (cores if sys.executable else 0) if workers is None else workers
        self._threads = ThreadPoolExecutor(self._workers or cores, thread_name_prefix="decode")
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._begun = 0

    def begin(self, requests: Sequence[Request]) -> Iterator[Reading]:
        """Begin to read files; the iterator waits for each. Called by one thread."""
        here = self._workers == 0 or self._begun < IN_PROCESS
        self._begun += len(requests)
        work = self._read_here if here else self._read_elsewhere
        parts = [requests[k : k + TOGETHER] for k in range(0, len(requests), TOGETHER)]
        futures = [self._threads.submit(work, part) for part in parts]
        return (reading for future in futures for reading in future.result())

    def _read_here(self, requests: Sequence[Request]) -> list[Reading]:
        return [read(self._looks, request) for request in requests]

    def _read_elsewhere(self, requests: Sequence[Request]) -> list[Reading]:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:  # as many workers as threads, never more
            worker = Worker(self._looks)
        try:
            return worker.read(requests)
        finally:
            self._idle.put(worker)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()
