"""Hundreds of hostile uploads: each is refused with a 4xx while normal searches go on."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from dear_pictures import noise, saved
from hostile import JSON, KINDS, form, messages, pictures, post, sent
from PIL import Image
from serving import Live
from starlette.testclient import TestClient

from cir_rt.client import Client, Refused

TEXT = "the same but in red"
PATIENCE_S = 10.0  # a bomb that is decoded takes minutes
MOST_GROWTH_MB = 512  # what the server may hold of all requests, as it is told by default


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


@pytest.fixture(scope="module")
def besieged(
    bundle: Path, gallery: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Return a server that these tests share, and that must come out as it was."""
    folder = shutil.copytree(gallery, tmp_path_factory.mktemp("besieged") / "live.gallery")
    found = Live(bundle, folder, "--rate=0")
    try:
        with Client(found.url) as client:
            before, begun_mb = client.health()["gallery"], memory_mb(found, "VmRSS")
            yield found
            assert client.health()["gallery"] == before
            assert "cir_rt_held_bytes 0.0" in client.metrics()
        assert memory_mb(found, "VmHWM") - begun_mb < MOST_GROWTH_MB
        assert not [line for line in found.log if line["event"] == "fault"]
    finally:
        found.kill()


def memory_mb(live: Live, what: str) -> float:
    status = Path(f"/proc/{live.process.pid}/status").read_text(encoding="utf-8")
    found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def attacked(
    live: Live, photo: bytes, attacks: dict[str, bytes], send: Callable[[bytes], str]
) -> dict[str, str]:
    """Send all, four at a time, beside shoppers' searches; return what came back by name."""
    stop = threading.Event()

    def shopper() -> int:
        answered = 0
        with Client(live.url) as client:
            while not stop.is_set():
                assert len(client.search(image=photo, text=TEXT, k=3)) == 3
                answered += 1
        return answered

    def timed(attack: bytes) -> str:
        begun = time.monotonic()
        said = send(attack)
        took_s = time.monotonic() - begun
        return said if took_s < PATIENCE_S else f"{said} after {took_s:.0f} seconds"

    with ThreadPoolExecutor(2) as shop, ThreadPoolExecutor(4) as pool:
        shoppers = [shop.submit(shopper) for _ in range(2)]
        try:
            answers = dict(zip(attacks, pool.map(timed, attacks.values()), strict=True))
        finally:
            stop.set()
        assert all(task.result() > 0 for task in shoppers)
    return answers


def test_there_are_three_hundred_of_them() -> None:
    found = [attack for family in (pictures(), messages()) for attack in family.values()]
    assert len({message for family in found for message in family.values()}) >= 300


@pytest.mark.parametrize("family", pictures())
def test_hostile_pictures_are_refused_wherever_they_go(
    besieged: Live, photo: bytes, family: str
) -> None:
    def send(data: bytes) -> str:
        said = set()
        with Client(besieged.url) as client:
            for call in (lambda: client.search(data, TEXT), lambda: client.add("hostile", data)):
                try:
                    said.add(f"taken: {call()}")
                except Refused as refused:
                    said.add(f"{refused.status} {refused.kind}")
        return ", ".join(sorted(said))

    answers = attacked(besieged, photo, pictures()[family], send)
    assert {name: said for name, said in answers.items() if said != "422 picture"} == {}


@pytest.mark.parametrize("family", messages())
def test_hostile_messages_are_refused(besieged: Live, photo: bytes, family: str) -> None:
    def send(message: bytes) -> str:
        answer = talk(besieged.port, message, b"\r\n")
        hung_up = len(message) > 10**6 and answer == b""  # it need not read to the end
        return "" if hung_up or answer.startswith(b"HTTP/1.1 4") else repr(answer[:99])

    answers = attacked(besieged, photo, messages()[family], send)
    assert {name: said for name, said in answers.items() if said} == {}


def test_what_the_messages_are_made_of_is_answered(besieged: Live) -> None:
    """The hostile ones are refused for what is hostile about them."""
    image = b'image"; filename="x.jpg'
    for message in (
        sent(b'{"text": "red"}', JSON),
        sent(form({b"text": b"red"}), b"Content-Type: multipart/form-data; boundary=part"),
        sent(
            form({image: saved(noise(), "PNG")}),
            b"Content-Type: multipart/form-data; boundary=part",
        ),
        post(JSON, b"Transfer-Encoding: chunked") + b'f\r\n{"text": "red"}\r\n0\r\n\r\n',
    ):
        assert talk(besieged.port, message).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", KINDS)
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


def test_the_limit_of_pixels_is_the_servers(ask: TestClient) -> None:
    image = saved(Image.new("1", (7000, 6000)), "PNG")
    assert len(image) < 10_000
    answer = ask.post("/v1/search", files={"image": ("x", image)})
    assert answer.status_code == 422
    assert "at most 40 megapixels" in answer.json()["detail"]


def test_a_body_without_end_is_cut_off(besieged: Live) -> None:
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    answer = talk(besieged.port, post(JSON, b"Transfer-Encoding: chunked"), *(20 * [chunk]))
    assert answer.startswith(b"HTTP/1.1 413") or answer == b""  # it may hang up in mid-sentence


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
