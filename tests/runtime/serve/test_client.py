"""The client against a live server: its answers are a Retriever's of the same folders."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from serving import Live

from cir_rt.client import Client, Refused, Stored
from cir_rt.errors import CirRtError, UsageError
from cir_rt.retriever import Retriever

OWN, TEXT = "dress-val-00000", "the same but in red"


def test_answers_are_the_retrievers(
    live: Live, bundle: Path, gallery: Path, photo: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "größe.jpg"
    file.write_bytes(photo)
    how = {"k": 7, "where": "article = 'dress'", "weight": 0.4, "min_score": -1.0, "rerank": 0}
    with Client(live.url) as client, Retriever.open(bundle, gallery, threads=1) as retriever:
        for image in (file, str(file), photo):
            found = client.search(image=image, text=TEXT, **how)  # type: ignore[arg-type]
            expected = retriever.search(image=image, text=TEXT, **how)  # type: ignore[arg-type]
            assert found.hits == expected.hits
            assert found.weights == expected.weights
            assert found.timing["total"] == pytest.approx(
                sum(ms for stage, ms in found.timing.items() if stage != "total")
            )
        assert client.search(id=OWN, text=TEXT).hits == retriever.search(OWN, TEXT).hits
        assert client.search(text=TEXT, deadline_ms=5000, mode="exact").complete
        empty = client.search(text=TEXT, where="article = 'boat'")
        assert (len(empty), "no picture meets" in empty.empty_because) == (0, True)


def test_pictures_come_and_go(live: Live, photo: bytes) -> None:
    with Client(live.url) as client:
        before = dict(client.items())
        stored = client.add("a/größe ?#", photo, {"price": 5})
        assert stored == Stored(
            id="a/größe ?#",
            outcome="added",
            generation=client.health()["gallery"]["generation"],
            pictures=len(before) + 1,
        )
        assert dict(client.items(page=20)) == before | {"a/größe ?#": {"price": 5}}
        assert client.image("a/größe ?#").startswith(b"\xff\xd8")
        assert client.search(image=photo)[0].id == "a/größe ?#"
        client.delete("a/größe ?#")
        assert dict(client.items(page=500)) == before
        assert 'cir_rt_requests_total{method="DELETE"' in client.metrics()
        assert client.ready()
        assert client.document()["openapi"] == "3.1.0"


def test_a_refusal_is_an_error_that_says_why(live: Live) -> None:
    with Client(live.url) as client:
        with pytest.raises(Refused, match=r"404 The gallery holds no such picture\.") as refused:
            client.image("none")
        assert (refused.value.status, refused.value.kind) == (404, "unknown-id")
        assert len(refused.value.request) == 16
        assert isinstance(refused.value, CirRtError)
        with pytest.raises(Refused, match="k: expected integer of 1 to 200"):
            client.search(text=TEXT, k=0)
        assert client.search(text=TEXT)  # and the connection is as good as before


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://x/path", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        Client(url)


def test_nobody_there_is_an_oserror() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(ConnectionRefusedError):
        client.ready()


class Forgetful(BaseHTTPRequestHandler):
    """Answers once on a connection, says that it keeps it, and closes it."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        Forgetful.asked += 1
        body = b'{"ready": true}' if self.path == "/ready" else b"<html>a proxy's page</html>"
        self.send_response(200 if self.path == "/ready" else 502)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_a_connection_that_was_closed_while_it_lay_idle_is_opened_again() -> None:
    with HTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            assert [client.ready() for _ in range(5)] == [True] * 5
            assert Forgetful.asked == 5
            with pytest.raises(Refused, match=r"502 Bad Gateway\. <html>a proxy") as refused:
                client.health()
            assert refused.value.retry_after_s == 7
        server.shutdown()
