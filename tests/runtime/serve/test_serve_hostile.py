"""Three hundred hostile uploads: each is refused with a 4xx while normal searches go on."""

from __future__ import annotations

import io
import itertools
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import Live, Shop
from starlette.testclient import TestClient

from cir_rt.client import Client, Refused
from cir_rt.serve import upload

TEXT = "the same but in red"


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """Return a PNG whose header says more than its few bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def scan_bomb() -> bytes:
    """Return a JPEG of 4,000 passes over 4 million pixels: some 100 kB, minutes to decode."""
    whole = saved(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + 4000 * last[:60] + whole[-2:]


def wrong_bytes() -> Iterator[tuple[str, bytes]]:
    yield from {
        "nothing": b"",
        "text": b"hello",
        "html": b"<html><script>alert(1)</script></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "pdf": b"%PDF-1.7\n1 0 obj <<>> endobj",
        "zip": b"PK\x03\x04" + bytes(60),
        "gzip": b"\x1f\x8b\x08" + bytes(60),
        "program": b"\x7fELF" + bytes(200),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "psd": b"8BPS\x00\x01" + bytes(100),
        "zeros": bytes(4096),
        "ppm": saved(noise(), "PPM"),
        "ico": saved(noise(), "ICO"),
        "tga": saved(noise(), "TGA"),
        "pcx": saved(noise(), "PCX"),
        "jpeg 2000 or what it begins with": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
        "animation": saved(noise(), "GIF", save_all=True, append_images=[noise(), noise(41, 30)]),
        "pages": saved(noise(), "TIFF", save_all=True, append_images=[noise()]),
        "float": saved(Image.new("F", (8, 8)), "TIFF"),
    }.items()


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "scans", scan_bomb()
    yield "pixels", saved(Image.new("1", (20_000, 20_000)), "PNG")
    yield "gif screen", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(20)
    yield (
        "webp",
        b"RIFF\x1e\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + 6 * b"\xff" + bytes(9),
    )
    sides = (1, 30_001, 65_535, 2**31 - 1)
    for width, height in itertools.product(sides, sides):
        if (width, height) != (1, 1):
            yield f"{width} x {height}", png(width, height)
    yield "more rows than said", png(0, 0, bytes(999))


def damaged() -> Iterator[tuple[str, bytes]]:
    kinds = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}, "GIF": {}}
    for kind, settings in kinds.items():
        whole = saved(noise(), kind, **settings)
        for share in (0.02, 0.1, 0.3, 0.5, 0.7):
            yield f"{kind} cut at {share}", whole[: int(share * len(whole))]
        yield f"{kind} without a head", whole[2:]


def hostile() -> list[Any]:
    cases = [*wrong_bytes(), *bombs(), *damaged()]
    return [pytest.param(data, id=name) for name, data in cases]


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("data", hostile())
def test_a_hostile_picture_is_refused_wherever_it_goes(standing: Shop, data: bytes) -> None:
    ask, service = standing
    begun = time.monotonic()
    files = {"image": ("x.jpg", data, "image/jpeg")}
    for answer in (
        ask.post("/v1/search", files=files, data={"text": TEXT}),
        ask.post("/v1/items", files=files, data={"id": "hostile"}),
    ):
        assert answer.status_code == 422, answer.text
        assert answer.json()["type"] == "urn:cir-rt:problem:picture"
    assert ask.post("/v1/search", json={"text": TEXT}).status_code == 200
    assert "hostile" not in [hit["id"] for hit in ask.get("/v1/items?limit=500").json()["items"]]
    assert service.memory.held_bytes == 0
    assert time.monotonic() - begun < 10  # a bomb that is decoded takes minutes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_what_looks_like_two_things_is_taken_for_its_pixels_alone(
    ask: TestClient, kind: str
) -> None:
    tail = b"PK\x03\x04<?php system('id'); ?><script>alert(1)</script>"
    data = saved(noise(), kind) + tail
    stored = ask.post("/v1/items", files={"image": ("x.php", data)}, data={"id": "two"})
    assert stored.status_code == 201, stored.text
    served = ask.get("/v1/items/two/image")
    assert tail not in served.content
    assert served.headers["content-type"] == "image/jpeg"
    assert served.headers["x-content-type-options"] == "nosniff"
    ask.delete("/v1/items/two")


@pytest.mark.parametrize("progressive", [False, True])
def test_an_honest_jpeg_has_few_scans(progressive: bool) -> None:
    data = saved(noise(500, 400), "JPEG", progressive=progressive, optimize=True)
    assert upload.opened(data, 10**6).size == (500, 400)
    assert data.count(b"\xff\xda") < upload.MOST_SCANS / 5


def test_the_limit_of_pixels_is_the_servers(ask: TestClient, standing: Shop) -> None:
    image = saved(Image.new("1", (7000, 6000)), "PNG")
    assert len(image) < 10_000
    answer = ask.post("/v1/search", files={"image": ("x", image)})
    assert answer.status_code == 422
    assert "more than 40 megapixels" in answer.json()["detail"]


# What is hostile below HTTP: raw bytes to a server of its own process.


def talk(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes, and return all that comes back until the server hangs up."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as channel,
        ThreadPoolExecutor(1) as reading,
    ):
        answer = reading.submit(heard, channel)
        with suppress(ConnectionError):  # it need not listen to the end
            for part in parts:
                channel.sendall(part)
                time.sleep(pause_s)
        return answer.result()


def heard(channel: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while received := channel.recv(65536):
            answer += received
    return answer


def post(*headers: bytes, path: bytes = b"/v1/search") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"", b""])


JSON = b"Content-Type: application/json"


@pytest.mark.parametrize(
    "message",
    [
        post(b"X-Long: " + 3_000_000 * b"a"),
        post(*(b"X-%d: a" % n for n in range(100_000))),
        post(JSON, path=b"/" + 3_000_000 * b"a"),
        post(JSON, b"Content-Length: 999999999999"),
        post(JSON, b"Content-Length: -1"),
        post(JSON, b"Content-Length: ten"),
        post(JSON, b"Content-Length: " + 5000 * b"9"),
        post(JSON, b"Content-Length: 2", b"Content-Length: 3") + b"{}",
        post(JSON, b"Transfer-Encoding: chunked") + b"zz\r\n",
        post(JSON, b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        post(JSON, b"Upgrade: websocket", b"Connection: upgrade"),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" + bytes(99),
        b"GET /\r\n\r\n",
    ],
    ids=lambda message: message[:90].decode("latin-1"),
)
def test_a_hostile_message_is_refused(live: Live, message: bytes) -> None:
    answer = talk(live.port, message, b"\r\n")
    assert answer.startswith(b"HTTP/1.1 4") or (len(message) > 10**6 and answer == b"")
    with Client(live.url) as client:
        assert client.search(text=TEXT)


def test_a_body_without_end_is_cut_off(live: Live) -> None:
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    answer = talk(live.port, post(JSON, b"Transfer-Encoding: chunked"), *(20 * [chunk]))
    assert answer.startswith(b"HTTP/1.1 413") or answer == b""  # it may hang up in mid-sentence


def test_uploads_are_refused_while_others_are_answered(live: Live, photo: bytes) -> None:
    """All the hostile pictures, thrice each and four at a time, beside shoppers' searches."""
    pictures = [case.values[0] for case in hostile()] * 3
    stop = threading.Event()

    def shopper() -> int:
        answered = 0
        with Client(live.url) as client:
            while not stop.is_set():
                assert len(client.search(image=photo, text=TEXT, k=3)) == 3
                answered += 1
        return answered

    def attack(pictures: list[Any]) -> list[int]:
        statuses = []
        with Client(live.url) as client:
            for data in pictures:
                with pytest.raises(Refused) as refused:
                    client.search(image=data, text=TEXT)
                statuses.append(refused.value.status)
        return statuses

    with ThreadPoolExecutor(6) as pool:
        shoppers = [pool.submit(shopper) for _ in range(2)]
        attacks = [pool.submit(attack, pictures[n::4]) for n in range(4)]
        try:
            statuses = [status for task in attacks for status in task.result()]
        finally:
            stop.set()
        assert all(task.result() > 0 for task in shoppers)
    assert len(statuses) >= 200
    assert set(statuses) == {422}


@pytest.fixture(scope="module")
def impatient(
    bundle: Path, gallery: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Return a server that waits a second for a header, and one for a body."""
    folder = shutil.copytree(gallery, tmp_path_factory.mktemp("impatient") / "live.gallery")
    found = Live(bundle, folder, impatient=True)
    yield found
    found.kill()


def test_slow_callers_are_hung_up_on(impatient: Live) -> None:
    live = impatient
    begun = time.monotonic()
    head = post(JSON, b"Content-Length: 100")
    with ThreadPoolExecutor(5) as pool:
        silent = pool.submit(talk, live.port)
        slow_head = pool.submit(talk, live.port, *(head[n : n + 1] for n in range(30)), pause_s=0.1)
        slow_body = pool.submit(talk, live.port, head, *(30 * [b" "]), pause_s=0.1)
        with Client(live.url) as client:
            for _ in range(10):  # meanwhile
                assert client.search(text=TEXT)
        assert silent.result() == b""
        assert slow_head.result() == b""
        assert slow_body.result().startswith(b"HTTP/1.1 408")
    assert time.monotonic() - begun < 15


def test_a_kept_connection_may_be_slow_but_once(impatient: Live) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=20) as channel:
        for _ in range(3):  # a pause between requests is nobody's fault
            channel.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"true}"):
                answer += channel.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(1.2)
        channel.sendall(b"GET /ready HT")  # one within a request is
        assert channel.recv(65536) == b""
