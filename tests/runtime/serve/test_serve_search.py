"""A search over HTTP is the library's own search, held against a Retriever of the same folders."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cir_rt.preprocess import Preprocess
from cir_rt.retriever import Retriever
from cir_rt.serve.problem import MEDIA_TYPE
from cir_rt.serve.service import Service

OWN, TEXT = "dress-val-00000", "the same but in red"


@pytest.fixture(scope="module")
def retriever(bundle: Path, gallery: Path) -> Iterator[Retriever]:
    with Retriever.open(bundle, gallery, threads=1) as opened:
        yield opened


def asked(client: TestClient, form: bool, image: bytes | None = None, **fields: Any) -> Any:
    """Send a search as a form or as JSON."""
    if form:
        files = (
            {"image": ("photo.jpg", image)} if image else {"k": (None, str(fields.pop("k", 10)))}
        )
        return client.post("/v1/search", files=files, data=fields)
    if image:
        fields["image"] = base64.b64encode(image).decode()
    return client.post("/v1/search", json=fields)


@pytest.mark.parametrize("form", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"text": TEXT},
        {"text": TEXT, "k": 3},
        {"text": TEXT, "weight": 0.3},
        {"text": TEXT, "min_score": 0.5},
        {"text": TEXT, "rerank": 0, "mode": "exact"},
        {"text": TEXT, "deadline_ms": 5000},
        {"where": "article = 'dress'"},
        {"text": "größer & ‘schöner’"},
        {},
    ],
)
def test_the_answer_is_the_retrievers(
    ask: TestClient, retriever: Retriever, photo: bytes, form: bool, fields: dict[str, Any]
) -> None:
    answer = asked(ask, form, photo, **fields)
    assert answer.status_code == 200, answer.text
    expected = retriever.search(image=photo, **fields).to_json()
    found = answer.json()
    assert found["hits"] == expected["hits"]
    assert found["weights"] == expected["weights"]
    assert (found["reranked"], found["complete"]) == (0, True)


@pytest.mark.parametrize("form", [True, False])
def test_an_id_is_the_reference_and_not_its_own_answer(
    ask: TestClient, retriever: Retriever, form: bool
) -> None:
    found = asked(ask, form, id=OWN, text=TEXT, k=5).json()
    expected = retriever.search(image=OWN, text=TEXT, k=5).to_json()
    assert found["hits"] == expected["hits"]
    assert OWN not in [hit["id"] for hit in found["hits"]]


def test_words_alone(ask: TestClient, retriever: Retriever) -> None:
    found = asked(ask, False, text=TEXT).json()
    assert found["hits"] == retriever.search(text=TEXT).to_json()["hits"]
    assert found["weights"] == {"image": 0, "text": 1}


def test_stages_sum_to_the_total(ask: TestClient, photo: bytes) -> None:
    timing = asked(ask, True, photo, text=TEXT).json()["timing_ms"]
    total = timing.pop("total")
    assert {"decode", "wait", "image", "text", "prune"} <= set(timing)
    assert sum(timing.values()) == pytest.approx(total, abs=1e-6)


def test_an_empty_answer_says_why(ask: TestClient) -> None:
    found = asked(ask, False, text=TEXT, where="article = 'boat'").json()
    assert found["hits"] == []
    assert found["empty_because"] == "no picture meets the condition article = 'boat'"


@pytest.mark.parametrize(
    ("fields", "status", "kind", "said"),
    [
        ({}, 422, "field", "Neither picture nor words"),
        ({"id": OWN, "image": "AAAA"}, 422, "field", "Both image and id"),
        ({"text": TEXT, "kk": 3}, 422, "field", "Did you mean 'k'?"),
        ({"text": TEXT, "color": 3}, 422, "field", "Known: image, id"),
        ({"text": TEXT, "k": 0}, 422, "field", "k: expected integer of 1 to 200"),
        ({"text": TEXT, "k": 201}, 422, "field", "k: expected"),
        ({"text": TEXT, "k": "3"}, 422, "field", "k: expected"),
        ({"text": TEXT, "k": 3.5}, 422, "field", "k: expected"),
        ({"text": TEXT, "k": True}, 422, "field", "k: expected"),
        ({"text": TEXT, "k": None}, 422, "field", "k: expected"),
        ({"text": TEXT, "k": 10**400}, 422, "field", "k: expected"),
        ({"text": TEXT, "rerank": 101}, 422, "field", "rerank: expected integer of 0 to 100"),
        ({"text": TEXT, "rerank": 5}, 422, "field", "rerank is 5"),
        ({"text": TEXT, "mode": "quick"}, 422, "field", "mode: expected exact or fast"),
        ({"text": TEXT, "weight": 1.5}, 422, "field", "weight: expected number of 0 to 1"),
        ({"text": TEXT, "where": "price <"}, 422, "field", "expected a number"),
        ({"text": TEXT, "where": "a" * 1001}, 422, "field", "where: expected text of 1 to 1000"),
        ({"text": TEXT, "deadline_ms": 0}, 422, "field", "deadline_ms: expected"),
        ({"text": ["red"]}, 422, "field", "text: expected"),
        ({"text": ""}, 422, "field", "text: expected"),
        ({"text": "a" * 501}, 422, "field", "text: expected text of 1 to 500 characters"),
        ({"text": "   "}, 422, "text", "empty"),
        ({"text": "red " * 100}, 422, "text", "at most 24"),
        ({"text": "\ud800"}, 422, "text", "not valid Unicode"),
        ({"id": ""}, 422, "field", "id: expected"),
        ({"id": "dress-val-0000"}, 404, "unknown-id", "Nearest: dress-val-000"),
        ({"id": "\x00"}, 404, "unknown-id", "no picture"),
        ({"image": "*"}, 422, "field", "image: expected base64"),
        ({"image": 3}, 422, "field", "image: expected a file's bytes"),
        ({"image": "AAAA"}, 422, "picture", "not a picture"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    ask: TestClient, fields: dict[str, Any], status: int, kind: str, said: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = ask.post("/v1/search", content=json.dumps(fields), headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert problem["type"] == f"urn:cir-rt:problem:{kind}"
    assert said in problem["detail"]
    assert problem["instance"].endswith(answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("body", "media_type", "status", "said"),
    [
        (b"{", "application/json", 400, "no JSON"),
        (b"[1]", "application/json", 400, "a JSON object"),
        (b'{"k": NaN}', "application/json", 400, "NaN is no JSON number"),
        (b"\xff", "application/json", 400, "no JSON"),
        (b"[" * 40_000, "application/json", 400, "no JSON (too deep)"),
        (b"[" + b"[]," * 60_000, "application/json", 400, "more than 50000 values"),
        (b'{"k":' + b"9" * 9999 + b"}", "application/json", 400, "no JSON"),
        (b"text=red", "application/x-www-form-urlencoded", 415, "Expected multipart/form-data"),
        (b"red", "", 415, "got none"),
        (b"red", "multipart/form-data", 400, "Missing boundary"),
        (b"red", "multipart/form-data; boundary=x", 400, "no multipart form"),
        (b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x", 400, "no multipart form"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    ask: TestClient, body: bytes, media_type: str, status: int, said: str
) -> None:
    answer = ask.post("/v1/search", content=body, headers={"content-type": media_type})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("text", (None, "red")), ("text", (None, "blue"))], "text: given twice"),
        ([("text", ("t.txt", b"red"))], "text: is a file"),
        ([("image", (None, "red"))], "image: expected a file"),
        ([("text", (None, "red")), ("k", (None, "ten"))], "k: expected integer"),
        ([("text", (None, "red")), ("k", (None, "[" * 9999))], "k: expected integer"),
        ([("text", (None, "red")), ("weight", (None, "NaN"))], "weight: expected number"),
        ([("text", (None, "red")), ("k", (None, ""))], "k: expected integer"),
    ],
)
def test_a_form_that_says_nothing_clear_is_refused(
    ask: TestClient, files: list[Any], said: str
) -> None:
    answer = ask.post("/v1/search", files=files)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_a_compressed_body_is_refused(ask: TestClient) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert ask.post("/v1/search", content=b"x", headers=headers).status_code == 415


def test_an_id_never_opens_a_file(
    ask: TestClient, photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo)
    monkeypatch.chdir(tmp_path)
    looked = monkeypatch.setattr(os.path, "exists", lambda path: pytest.fail(f"looked at {path}"))
    assert looked is None
    for name in ("photo.jpg", "./photo.jpg", str(tmp_path / "photo.jpg"), "/etc/passwd", "."):
        answer = ask.post("/v1/search", json={"id": name, "text": TEXT})
        assert answer.status_code == 404
        assert str(tmp_path.parent) not in answer.text.replace(name, "")


def test_uploads_stay_in_memory(
    standing: tuple[TestClient, Service], photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tempfile import SpooledTemporaryFile

    def refuse(_: object) -> None:
        pytest.fail("an upload went to the disk")

    monkeypatch.setattr(SpooledTemporaryFile, "rollover", refuse)
    client, service = standing
    padded = photo + bytes(3 << 20)
    answer = client.post("/v1/search", files={"image": ("x", padded)})
    assert answer.status_code == 200, answer.text
    assert service.memory.held_bytes == 0


def test_bodies_and_pictures_in_progress_are_bounded(
    standing: tuple[TestClient, Service], photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, service = standing
    for room in (100, len(photo) + 1000):  # not for the body; not for its pixels
        monkeypatch.setattr(service.memory, "limit_bytes", room)
        answer = client.post("/v1/search", files={"image": ("x", photo)})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert service.memory.held_bytes == 0


def test_a_picture_is_decoded_once_and_not_by_the_engines(
    ask: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    pixels = Preprocess.pixels

    def watched(self: Preprocess, source: Any) -> Any:
        threads.append((threading.current_thread().name.partition("_")[0], type(source).__name__))
        return pixels(self, source)

    monkeypatch.setattr(Preprocess, "pixels", watched)
    ask.post("/v1/search", files={"image": ("x", photo)})
    assert threads[0] == ("decode", "JpegImageFile")
    assert all(thread == "cir-rt" for thread, _ in threads[1:])  # scaled there, to the same pixels


def test_what_fails_inside_stays_inside(
    standing: tuple[TestClient, Service], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    client, service = standing

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret: the same but in red")

    monkeypatch.setattr(service.retriever, "search_batch", broken)
    answer = client.post("/v1/search", json={"text": TEXT})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["detail"] == "RuntimeError; the server's log says more."


def test_a_caller_that_hangs_up_leaves_the_queue(
    shop: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop() as (client, service), ThreadPoolExecutor(1) as pool:
        begun, go_on, answered = threading.Event(), threading.Event(), []
        search_batch = service.retriever.search_batch

        def slow(images: Any, texts: list[str], **how: Any) -> Any:
            answered.extend(texts)
            begun.set()
            go_on.wait()
            return search_batch(images, texts, **how)

        monkeypatch.setattr(service.retriever, "search_batch", slow)
        first = pool.submit(client.post, "/v1/search", json={"text": "first"})
        begun.wait()
        try:
            assert client.portal.call(hung_up, client.app, b'{"text": "second"}') == 499
            assert (service.batcher.depth, service.batcher.admitted) == (0, 1)
        finally:
            go_on.set()
        assert first.result().status_code == 200
        assert answered == ["first"]


async def hung_up(app: Any, body: bytes) -> int:
    """Send a whole search and hang up; return the status that nobody read."""
    messages = [
        {"type": "http.request", "body": body, "more_body": False},
        {"type": "http.disconnect"},
    ]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)  # what was sent before is dealt with meanwhile
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", 0))

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/search", "headers": headers}
    await app({**scope, "query_string": b""}, receive, send)
    return statuses[0]
