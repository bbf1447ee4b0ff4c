"""The gallery over HTTP: pictures come and go, and every search sees them."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from starlette.testclient import TestClient

from cir_rt.errors import StorageFull
from cir_rt.gallery import Gallery
from cir_rt.gallery.indexing import Source
from cir_rt.gallery.listing import page
from cir_rt.retriever import Retriever
from cir_rt.serve.changes import MOST_WAITING
from cir_rt.serve.service import Service

OpenShop = Callable[..., AbstractContextManager[tuple[TestClient, Service]]]


def add(client: TestClient, item_id: str, image: bytes, **fields: Any) -> Any:
    files = {"image": ("photo.jpg", image)}
    return client.post("/v1/items", files=files, data={"id": item_id, **fields})


def ids(client: TestClient, limit: int) -> list[str]:
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = client.get("/v1/items", params={"limit": limit, "cursor": cursor}).json()
        assert len(answer["items"]) <= limit
        found += [item["id"] for item in answer["items"]]
        cursor = answer["next"]
    return found


@pytest.mark.parametrize("item_id", ["new", "a/b c", "größe/100%", "a/../b", "?x=1#y", "it/image"])
def test_a_picture_comes_and_goes(shop: OpenShop, photo: bytes, item_id: str) -> None:
    with shop() as (client, _):
        before = client.get("/health").json()["gallery"]
        answer = add(client, item_id, photo, metadata='{"price": 7}')
        assert answer.status_code == 201, answer.text
        assert answer.json() == {
            "id": item_id,
            "outcome": "added",
            "generation": before["generation"] + 1,
            "pictures": before["pictures"] + 1,
        }
        best = client.post("/v1/search", files={"image": ("x", photo)}).json()["hits"][0]
        assert (best["id"], best["metadata"]) == (item_id, {"price": 7})
        assert best["score"] == pytest.approx(1, abs=1e-5)
        place = f"/v1/items/{quote(item_id, safe='')}"
        assert answer.headers["location"] == f"{place}/image"
        assert client.get(f"{place}/image").status_code == 200
        assert client.delete(place).status_code == 204
        assert client.delete(place).status_code == 404
        assert client.get(f"{place}/image").status_code == 404
        best = client.post("/v1/search", files={"image": ("x", photo)}).json()["hits"][0]
        assert best["id"] != item_id


def test_the_same_again_changes_nothing_and_another_replaces(
    shop: OpenShop, photo: bytes, garments: Path
) -> None:
    other = sorted((garments / "images").glob("shirt-train-*.jpg"))[0].read_bytes()
    with shop() as (client, _):
        assert add(client, "one", photo, metadata='{"a": 1}').json()["outcome"] == "added"
        same = add(client, "one", photo)  # without metadata, what is stored stays
        assert (same.status_code, same.json()["outcome"]) == (200, "unchanged")
        assert add(client, "one", photo, metadata='{"a": 2}').json()["outcome"] == "updated"
        replaced = add(client, "one", other)
        assert (replaced.status_code, replaced.json()["outcome"]) == (200, "updated")
        found = client.post("/v1/search", files={"image": ("x", other)}).json()["hits"][0]
        assert (found["id"], found["metadata"]) == ("one", {"a": 2})


def test_json_is_as_good_as_a_form(shop: OpenShop, photo: bytes) -> None:
    import base64

    coded = base64.b64encode(photo).decode()
    metadata = {"a": [1, {"b": None}], "c": "größer"}
    with shop() as (client, _):
        body = {"id": "one", "image": coded, "metadata": metadata}
        assert client.post("/v1/items", json=body).status_code == 201
        assert add(client, "two", photo, metadata=json.dumps(metadata)).status_code == 201
        hits = client.post("/v1/search", json={"image": coded, "k": 2}).json()["hits"]
        assert {hit["id"] for hit in hits} == {"one", "two"}
        assert [hit["metadata"] for hit in hits] == [metadata] * 2


@pytest.mark.parametrize(
    ("fields", "image", "said"),
    [
        ({}, b"", "id is missing"),
        ({"id": "x"}, None, "image is missing"),
        ({"id": "x"}, b"no picture", "not a picture"),
        ({"id": "x\ny"}, b"", "without control characters"),
        ({"id": ".."}, b"", "not . or .."),
        ({"id": "x" * 513}, b"", "id: expected text of 1 to 512"),
        ({"id": "x", "metadata": "[1]"}, b"", "metadata: expected a JSON object"),
        ({"id": "x", "metadata": "{"}, b"", "metadata: expected a JSON object"),
        ({"id": "x", "metadata": '{"a": "\\ud800"}'}, b"", "cannot be kept as JSON"),
        ({"id": "x", "metadata": '{"a": 1e999}'}, b"", "cannot be kept as JSON"),
        ({"id": "x", "metadata": json.dumps({"a": "b" * 16_000})}, b"", "metadata: expected"),
        ({"id": "x", "price": "3"}, b"", "no field 'price'"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    ask: TestClient, photo: bytes, fields: dict[str, str], image: bytes | None, said: str
) -> None:
    files = {"x": (None, "")} if image is None else {"image": ("x", image or photo)}
    if image is None:
        files = {"id": (None, fields.pop("id"))}
    answer = ask.post("/v1/items", files=files, data=fields)
    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("limit", [1, 7, 19, 144, 500])
def test_pages_make_the_whole_gallery(ask: TestClient, gallery: Path, limit: int) -> None:
    with Gallery.open(gallery) as opened:
        expected = sorted(opened.ids())
    if limit > 1:
        assert ids(ask, limit) == expected
    else:
        assert ask.get("/v1/items?limit=1").json()["items"][0]["id"] == expected[0]


def test_a_page_goes_on_where_it_was_whatever_comes_and_goes(
    shop: OpenShop, photo: bytes, gallery: Path
) -> None:
    with Gallery.open(gallery) as opened:
        expected = sorted(opened.ids())
    with shop() as (client, _):
        first = client.get("/v1/items", params={"limit": 50}).json()
        shown = [item["id"] for item in first["items"]]
        assert shown == expected[:50]
        for item_id in shown[10:]:  # so many that the gallery is compacted
            assert client.delete(f"/v1/items/{item_id}").status_code == 204
        add(client, "zebra", photo)
        add(client, "aardvark", photo)
        rest = client.get("/v1/items", params={"limit": 500, "cursor": first["next"]}).json()
        assert [item["id"] for item in rest["items"]] == [*expected[50:], "zebra"]
        assert rest["next"] is None


def test_ids_are_ordered_by_code_point(shop: OpenShop, photo: bytes) -> None:
    names = ["a", "Z", "é", "z", "𝔞", "｡", "10", "9", "a/b", "a b"]
    with shop() as (client, service):
        for name in names:
            add(client, name, photo, metadata="{}")
        listed = ids(client, 3)
        assert listed == sorted(listed)
        assert set(names) < set(listed)
        with Gallery.open(service.settings.gallery) as opened:
            assert [item_id for item_id, _ in page(opened, "é", 2)] == ["｡", "𝔞"]
            assert page(opened, "\U0010ffff", 5) == []


@pytest.mark.parametrize(
    "asked", ["limit=0", "limit=501", "limit=x", "limit=²", "limit=-1", "cursor=*", "page=3"]
)
def test_a_page_that_cannot_be_is_refused(ask: TestClient, asked: str) -> None:
    assert ask.get(f"/v1/items?{asked}").status_code == 422


def test_thumbnails_are_the_stored_ones_and_stay_with_the_browser(
    ask: TestClient, gallery: Path
) -> None:
    with Gallery.open(gallery) as opened:
        expected = opened.thumbnail("dress-val-00000")
    answer = ask.get("/v1/items/dress-val-00000/image")
    assert answer.content == expected
    assert answer.headers["content-type"] == "image/jpeg"
    again = {"If-None-Match": answer.headers["etag"]}
    assert ask.get("/v1/items/dress-val-00000/image", headers=again).status_code == 304
    assert ask.get("/v1/items/dress-val-00001/image", headers=again).status_code == 200
    assert ask.head("/v1/items/dress-val-00000/image").content == b""


def test_nothing_of_an_upload_but_its_pixels_is_served(shop: OpenShop) -> None:
    mark = b"<script>alert(1)</script>"
    exif = Image.Exif()
    exif[270] = mark.decode()
    buffer = io.BytesIO()
    picture = Image.effect_noise((300, 200), 50).convert("RGB")
    picture.save(buffer, "JPEG", comment=mark, exif=exif, icc_profile=mark)
    upload = buffer.getvalue() + mark
    assert upload.count(mark) == 4
    with shop() as (client, _):
        assert add(client, "poly", upload).status_code == 201
        served = client.get("/v1/items/poly/image").content
    assert mark not in served
    assert Image.open(io.BytesIO(served)).size == (256, 171)


def test_what_another_process_changes_is_seen(
    shop: OpenShop, bundle: Path, photo: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "new.jpg"
    file.write_bytes(photo)
    with shop() as (client, service), Retriever.open(bundle, threads=1) as other:
        generation = client.get("/health").json()["gallery"]["generation"]
        other.index([Source(id="new", path=file)], service.settings.gallery)
        assert client.get("/health").json()["gallery"]["generation"] == generation + 1
        assert client.get("/v1/items/new/image").status_code == 200
        hits = client.post("/v1/search", files={"image": ("x", photo)}).json()["hits"]
        assert hits[0]["id"] == "new"


def test_while_another_writes_changes_are_to_come_back(
    shop: OpenShop, photo: bytes, bundle: Path
) -> None:
    with shop() as (client, service):
        state = service.manifest
        with Gallery.open_writer(
            service.settings.gallery, fingerprint=state.fingerprints.vectors, dim=state.dim
        ):
            for answer in (add(client, "x", photo), client.delete("/v1/items/dress-val-00000")):
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) > 0
                assert str(service.settings.gallery.parent) not in answer.text
            assert client.post("/v1/search", json={"text": "red"}).status_code == 200
        assert add(client, "x", photo).status_code == 201


def test_a_full_disk_is_told(shop: OpenShop, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFull("/secret/place: the disk is full.")

    with shop() as (client, service):
        monkeypatch.setattr(service.retriever, "index", full)
        answer = add(client, "x", photo)
        assert answer.status_code == 507
        assert "secret" not in answer.text


def test_changes_that_wait_are_bounded_and_all_are_made(
    shop: OpenShop, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop() as (client, service), ThreadPoolExecutor(MOST_WAITING + 4) as pool:
        index, go_on = service.retriever.index, threading.Event()

        def slow(*arguments: Any, **how: Any) -> Any:
            go_on.wait()
            return index(*arguments, **how)

        monkeypatch.setattr(service.retriever, "index", slow)
        names = [f"new-{n}" for n in range(MOST_WAITING + 4)]
        tasks = [pool.submit(add, client, name, photo) for name in names]
        try:
            while sum(task.done() for task in tasks) < 4:
                assert client.post("/v1/search", json={"text": "red"}).status_code == 200
        finally:
            go_on.set()
        answers = [task.result() for task in tasks]
        assert sorted(a.status_code for a in answers) == [201] * MOST_WAITING + [503] * 4
        stored = {name for name, a in zip(names, answers, strict=True) if a.status_code == 201}
        assert stored == {item_id for item_id in ids(client, 500) if item_id.startswith("new-")}


def test_searches_go_on_while_pictures_come_and_go(shop: OpenShop, photo: bytes) -> None:
    with shop() as (client, service), ThreadPoolExecutor(4) as pool:
        stop = threading.Event()

        def search() -> list[int]:
            statuses = []
            while not stop.is_set():
                answer = client.post("/v1/search", json={"text": "red", "k": 3})
                statuses.append(answer.status_code)
                for hit in answer.json()["hits"]:
                    if not hit["id"].startswith("new"):
                        client.get(f"/v1/items/{hit['id']}/image").raise_for_status()
            return statuses

        tasks = [pool.submit(search) for _ in range(3)]
        try:
            for n in range(25):
                assert add(client, f"new-{n}", photo).status_code == 201
                assert client.delete(f"/v1/items/new-{n}").status_code == 204
        finally:
            stop.set()
        statuses = [status for task in tasks for status in task.result()]
        assert set(statuses) == {200}
        with Gallery.open(service.settings.gallery) as opened:
            assert opened.verify() == []
            assert opened.wasted < 0.2  # the space was given back meanwhile
