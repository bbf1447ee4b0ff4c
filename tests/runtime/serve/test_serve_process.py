"""The server as a process: how it starts, reloads and stops, and what it tells systemd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import Live

from cir_rt.client import Client, Refused
from cir_rt.retriever import Retriever

TEXT, TOKEN = "the same but in red", "a-token-0123456789"

Start = Callable[..., Live]


def until(true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true in 20 s")


def refused(bundle: Path, gallery: Path, *options: str) -> tuple[int, str]:
    """Start a server that must not come up; return its exit code and what it says."""
    from command_line import run

    result = run("serve", bundle, gallery, "--threads=1", *options)
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_wrong_usage_ends_before_any_work(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    assert refused(bundle, gallery, "--host=0.0.0.0")[0] == 2
    assert refused(bundle, gallery, "--tls-cert=x.pem")[0] == 2
    assert refused(bundle, gallery, "--token-file=missing")[0] == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = refused(bundle, gallery, f"--port={taken.getsockname()[1]}")
        assert (code, "--port 0" in said) == (2, True)
    code, said = refused(bundle, tmp_path, "--port=0")
    assert (code, "cir-rt index" in said) == (1, True)


def test_a_missing_package_names_the_extra(
    bundle: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cir_rt.cli import command

    find = command.find_spec
    monkeypatch.setattr(command, "find_spec", lambda n: None if n == "uvicorn" else find(n))
    code, said = refused(bundle, gallery)
    assert code == 1
    assert "pip install 'cir-rt[serve]'" in said


def test_stopping_answers_what_was_accepted(
    started: Start, bundle: Path, gallery: Path, photo: bytes
) -> None:
    live = started("--batch=2")
    with Retriever.open(bundle, gallery, threads=1) as retriever:
        expected = retriever.search(image=photo, text=TEXT).hits

    def search() -> int:
        """Search until nobody listens any more; return how often."""
        for count in range(10_000):
            with Client(live.url) as client:
                try:
                    assert client.search(image=photo, text=TEXT).hits == expected
                except ConnectionRefusedError:
                    return count
                except (Refused, ConnectionResetError):  # told that it stops; or not accepted
                    continue
        raise AssertionError("it never stopped")

    with ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(search) for _ in range(6)]
        try:
            until(lambda: sum(line.get("status") == 200 for line in live.log) > 20)
            assert live.stop(signal.SIGTERM) == 0
        finally:
            live.kill()
        assert sum(task.result() for task in tasks) > 10
    events = [line["event"] for line in live.log]
    assert (events.count("stopping"), events[-1]) == (1, "stopped")
    assert "fault" not in events
    assert all(line.get("status") in (None, 200, 503) for line in live.log)


def test_a_new_release_is_taken_without_a_dropped_request(
    bundle: Path, gallery: Path, tmp_path: Path
) -> None:
    one = shutil.copytree(gallery, tmp_path / "one.gallery")
    two = shutil.copytree(gallery, tmp_path / "two.gallery")
    with Retriever.open(bundle, threads=1) as retriever:
        retriever.index([], two, delete=["dress-val-00000"])
    link = tmp_path / "live.gallery"
    link.symlink_to(one)
    live = Live(bundle, link, "--rate=0")
    try:
        stop = threading.Event()

        def search() -> int:
            answered = 0
            with Client(live.url) as client:
                while not stop.is_set():
                    assert len(client.search(text=TEXT)) == 10  # raises where it is refused
                    answered += 1
            return answered

        with Client(live.url) as client, ThreadPoolExecutor(3) as pool:
            tasks = [pool.submit(search) for _ in range(3)]
            try:
                for folder, pictures in ((two, 143), (one, 144), (two, 143)):
                    (tmp_path / "next").symlink_to(folder)
                    os.replace(tmp_path / "next", link)
                    live.process.send_signal(signal.SIGHUP)
                    until(lambda: client.health()["gallery"]["pictures"] == pictures)  # noqa: B023
                    assert len(client.search(text=TEXT, k=200)) == pictures
            finally:
                stop.set()
            assert min(task.result() for task in tasks) > 3
        link.unlink()
        live.process.send_signal(signal.SIGHUP)  # nothing there: the old one goes on
        until(lambda: any(line["event"] == "fault" for line in live.log))
        with Client(live.url) as client:
            assert len(client.search(text=TEXT)) == 10
        assert live.stop() == 0
    finally:
        live.kill()


def test_new_tokens_are_taken_and_bad_ones_are_not(started: Start, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"search {TOKEN}\n")
    live = started("--token-file", str(file))
    with Client(live.url, token=TOKEN) as old, Client(live.url, token=f"new-{TOKEN}") as new:
        assert old.search(text=TEXT)
        with pytest.raises(Refused, match="401"):
            new.search(text=TEXT)
        file.write_text(f"search new-{TOKEN}\n")
        live.process.send_signal(signal.SIGHUP)
        until(lambda: any(line["event"] == "reloaded" for line in live.log))
        assert new.search(text=TEXT)
        with pytest.raises(Refused, match="401"):
            old.search(text=TEXT)
        file.write_text("nothing of sense")
        live.process.send_signal(signal.SIGHUP)
        until(lambda: any(line["event"] == "fault" for line in live.log))
        assert new.search(text=TEXT)
    assert TOKEN not in str(live.log)


def test_tls(started: Start, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl here to make a certificate with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=shop", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([openssl, *made.split(), *names, *files], check=True, capture_output=True)
    live = started("--tls-cert", str(cert), "--tls-key", str(key))
    assert live.url.startswith("https://")
    with Client(live.url, tls=ssl.create_default_context(cafile=str(cert))) as client:
        assert client.search(text=TEXT)
        answer, _ = client._exchange("GET", "/ready", None, {})
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    with Client(live.url) as stranger, pytest.raises(ssl.SSLCertVerificationError):
        stranger.ready()
    old = ssl.create_default_context(cafile=str(cert))
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with Client(live.url, tls=old) as client, pytest.raises(OSError, match=r"(?i)ssl|tls"):
        client.ready()


def test_systemd_hears_that_it_is_ready_and_lives(started: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        live = started(environment=environment)
        heard = [channel.recv(64) for _ in range(4)]
        assert heard[0] == b"READY=1"
        assert heard[1:] == [b"WATCHDOG=1"] * 3
        assert live.stop(signal.SIGINT) == 0
        last = b""
        while last != b"STOPPING=1":
            last = channel.recv(64)


def test_nothing_is_written_outside_the_gallery(started: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    places = {name: str(home) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
    live = started(environment=places)
    with Client(live.url) as client:
        assert client.search(text=TEXT)
    held = {os.readlink(file) for file in Path(f"/proc/{live.process.pid}/fd").iterdir()}
    kept = [name for name in held if name.startswith("/") and not name.startswith("/dev/")]
    assert all(Path(name).is_relative_to(tmp_path) for name in kept), kept
    assert live.stop() == 0
    assert list(home.rglob("*")) == []


def test_without_a_pulse_there_is_no_sign_of_life() -> None:
    import asyncio

    from cir_rt.serve.systemd import Systemd

    sent: list[str] = []

    async def still() -> None:
        await asyncio.sleep(100)

    async def failing() -> None:
        raise RuntimeError

    async def watched(pulse: Callable[..., object]) -> None:
        systemd = Systemd({"NOTIFY_SOCKET": "@none", "WATCHDOG_USEC": "3000"})
        systemd.notify = sent.append  # type: ignore[method-assign]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(systemd.watch(pulse), 0.05)  # type: ignore[arg-type]

    for pulse in (still, failing):
        asyncio.run(watched(pulse))
        assert sent == []
    asyncio.run(watched(lambda: asyncio.sleep(0)))
    assert set(sent) == {"WATCHDOG=1"}
    assert asyncio.run(Systemd({}).watch(failing)) is None  # no systemd: no watchdog
