"""Who is let in, from where, how often; what every answer carries; what the log keeps silent."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cir_rt.serve.assets import assets
from cir_rt.serve.log import JsonLines
from cir_rt.serve.service import Service
from cir_rt.serve.settings import Limits
from cir_rt.serve.shield import HEADERS

OpenShop = Callable[..., AbstractContextManager[tuple[TestClient, Service]]]

SEARCH, GALLERY = "search-token-0123456789", "gallery-token-0123456789"
CALLS = {
    ("POST", "/v1/search"): "search",
    ("GET", "/v1/items"): "search",
    ("GET", "/v1/items/dress-val-00000/image"): "search",
    ("GET", "/metrics"): "search",
    ("POST", "/v1/items"): "gallery",
    ("DELETE", "/v1/items/none"): "gallery",
    ("GET", "/health"): "",
    ("GET", "/ready"): "",
    ("GET", "/openapi.json"): "",
    ("GET", "/"): "",
}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"search {SEARCH}\ngallery {GALLERY}\n")
    return file


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """Return the log's lines as they come."""
    found: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(JsonLines().format(record)))

    log, handler = logging.getLogger("cir_rt.serve"), Keep()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


def test_each_scope_opens_its_own_calls_alone(shop: OpenShop, tokens: Path) -> None:
    with shop(token_file=tokens) as (client, _):
        for (method, path), scope in CALLS.items():
            for token, granted in ((SEARCH, "search"), (GALLERY, "gallery"), (None, None)):
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                answer = client.request(method, path, headers=headers)
                if scope in ("", granted):
                    assert answer.status_code not in (401, 403), (method, path, token)
                else:
                    assert answer.status_code == (403 if token else 401), (method, path, token)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {SEARCH}", f"Bearer {SEARCH}x", f"Bearer x{SEARCH}"]
)
def test_a_wrong_token_is_challenged(shop: OpenShop, tokens: Path, header: str) -> None:
    with shop(token_file=tokens) as (client, _):
        answer = client.post("/v1/search", headers={"Authorization": header})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="cir-rt"'


def test_a_wrong_token_costs_no_work(
    shop: OpenShop, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(token_file=tokens) as (client, service):
        monkeypatch.setattr(service.memory, "hold", lambda: pytest.fail("the body was read"))
        assert client.post("/v1/search", json={"text": "red"}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "evil.example"}, 421),  # a name that its owner lets point here
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "["}, 421),
        ({"Origin": "http://127.0.0.1:8080"}, 200),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_foreign_page_cannot_ask(ask: TestClient, headers: dict[str, str], status: int) -> None:
    assert ask.post("/v1/search", json={"text": "red"}, headers=headers).status_code == status
    assert ask.get("/health", headers=headers).status_code == status


def test_with_tokens_any_name_will_do_and_no_foreign_page(shop: OpenShop, tokens: Path) -> None:
    with shop(token_file=tokens, host="0.0.0.0") as (client, _):
        here = {"Host": "shop.example", "Authorization": f"Bearer {SEARCH}"}
        own, foreign = {"Origin": "https://shop.example"}, {"Origin": "https://evil.example"}
        assert (
            client.post("/v1/search", json={"text": "red"}, headers=here | own).status_code == 200
        )
        assert client.post("/v1/search", json={"text": "red"}, headers=here | foreign).is_error


def test_who_asks_too_often_is_told_to_wait(shop: OpenShop, tokens: Path) -> None:
    with shop(token_file=tokens, limits=Limits(rate=2)) as (client, _):
        mine, other = ({"Authorization": f"Bearer {token}"} for token in (SEARCH, GALLERY))
        statuses = [client.get("/v1/items", headers=mine).status_code for _ in range(5)]
        assert statuses == [200] * 4 + [429]
        answer = client.post("/v1/search", headers=mine)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert client.delete("/v1/items/none", headers=other).status_code == 404
        assert client.get("/v1/items/dress-val-00000/image", headers=mine).status_code == 200
        guesses = [client.get("/metrics").status_code for _ in range(5)]
        assert guesses == [401] * 4 + [429]


def test_every_answer_carries_the_headers(ask: TestClient) -> None:
    for method, path in (*CALLS, ("GET", "/none"), ("PUT", "/v1/items"), ("BREW", "/")):
        answer = ask.request(method, path)
        assert HEADERS.items() <= dict(answer.headers.multi_items()).items() or all(
            answer.headers[name] == value for name, value in HEADERS.items()
        )
        assert "cache-control" in answer.headers
        assert len(answer.headers["x-request-id"]) == 16
        assert "server" not in answer.headers
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/none", 404, None),
        ("GET", "/page/../../../../etc/passwd", 404, None),
        ("GET", "/page/%2e%2e%2findex.html", 404, None),
        ("GET", "/v1/items/%2e%2e%2f%2e%2e%2fetc%2fpasswd/image", 404, None),
        ("GET", "/v1/items/%00/image", 404, None),
        ("GET", "/v1/items/%ff/image", 404, None),
        ("DELETE", "/v1/items/", 404, None),
        ("PUT", "/v1/items", 405, {"GET", "HEAD", "POST"}),
        ("GET", "/v1/search", 405, {"POST"}),
        ("GET", "/v1/items/x", 405, {"DELETE"}),
        ("POST", "/health", 405, {"GET", "HEAD"}),
    ],
)
def test_other_paths_and_methods(
    ask: TestClient, method: str, path: str, status: int, allow: set[str] | None
) -> None:
    answer = ask.request(method, path)
    assert answer.status_code == status
    assert answer.json()["status"] == status
    if allow:
        assert {name.strip() for name in answer.headers["allow"].split(",")} == allow


def test_the_log_knows_no_words_and_no_pictures(
    shop: OpenShop, photo: bytes, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop() as (client, service):
        client.post(
            "/v1/search", data={"text": "secretwords"}, files={"image": ("secretname", photo)}
        )
        client.post("/v1/search", json={"text": "secretwords " * 30})
        client.post("/v1/search", json={"id": "secretid", "text": "secretwords"})
        client.get("/v1/items/secretid/image?secretquery=1", headers={"Referer": "secretpage"})
        client.get("/secretpath")

        def broken(*_: object, **how: object) -> None:
            raise RuntimeError(f"secret {how}")

        monkeypatch.setattr(service.retriever, "search_batch", broken)
        client.post("/v1/search", json={"text": "secretwords"})
    assert "secret" not in json.dumps(lines)
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 422, 404, 404, 404, 500]
    assert requests[0]["route"] == "/v1/search"
    assert requests[3]["route"] == "/v1/items/{id:path}/image"
    (fault,) = [line for line in lines if line["event"] == "fault"]
    assert fault["error"] == "RuntimeError"
    assert any("broken" in frame for frame in fault["where"])
    assert fault["request"] == requests[-1]["request"]


def test_figures_count_what_happened(shop: OpenShop, photo: bytes) -> None:
    with shop() as (client, _):
        client.post("/v1/search", json={"text": "red"})
        client.post("/v1/search", data={"text": "red"}, files={"image": ("x", photo)})
        client.post("/v1/search", json={"text": ""})
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        figures = dict(
            line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")
        )
    search = 'cir_rt_requests_total{method="POST",route="/v1/search",status='
    assert figures[search + '"200"}'] == "2.0"
    assert figures[search + '"422"}'] == "1.0"
    assert figures['cir_rt_refusals_total{kind="field"}'] == "1.0"
    assert figures["cir_rt_batch_size_sum"] == "2.0"
    for stage in ("decode", "image"):
        assert figures[f'cir_rt_stage_seconds_count{{stage="{stage}"}}'] == "1.0"
    for stage in ("wait", "text", "prune", "total"):
        assert figures[f'cir_rt_stage_seconds_count{{stage="{stage}"}}'] == "2.0"
    assert figures["cir_rt_queue_depth"] == "0.0"
    assert figures["cir_rt_gallery_pictures"] == "144.0"


def test_the_page_is_read_once_and_nothing_else_is_served(ask: TestClient) -> None:
    found = assets()
    assert set(found) == {
        "/" if file.name == "index.html" else f"/page/{file.name}"
        for file in (resources.files("cir_rt.serve") / "page").iterdir()
    }
    for path, asset in found.items():
        answer = ask.get(path)
        assert (answer.status_code, answer.content) == (200, asset.content)
        assert answer.headers["content-type"] == asset.media_type
        again = ask.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/page/", "/page/index.html", "/page/%2e%2e/app.py", "/page//etc/passwd"):
        assert ask.get(path).status_code == 404


def test_health_says_what_really_runs(shop: OpenShop) -> None:
    with shop() as (client, service):
        found = client.get("/health").json()
        assert found["device"] == service.retriever.device == "cpu"
        assert found["bundle"]["fingerprint"] == service.manifest.fingerprints.vectors
        assert found["gallery"]["pictures"] == 144
        assert client.get("/ready").json() == {"ready": True}
        service.ready = False
        assert client.get("/ready").status_code == 503
