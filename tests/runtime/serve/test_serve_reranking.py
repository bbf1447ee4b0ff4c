"""A bundle that re-ranks behind HTTP, held against a Retriever of the same folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import UNLIMITED, Shop, opened
from starlette.testclient import TestClient

from cir_rt.errors import GalleryError
from cir_rt.retriever import Retriever
from cir_rt.serve.service import Service
from cir_rt.serve.settings import Batching, ServeSettings

OWN, TEXT = "dress-val-00000", "the same but in red"


@pytest.fixture(scope="module")
def reranks(
    reranking: Path, stocked: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    folder = shutil.copytree(stocked, tmp_path_factory.mktemp("reranks") / "shop.gallery")
    patient = Batching(budget_ms=60_000)
    settings = ServeSettings(
        bundle=reranking, gallery=folder, threads=1, limits=UNLIMITED, batching=patient
    )
    with opened(settings) as shop:
        yield shop


@pytest.fixture(scope="module")
def ask(reranks: Shop) -> TestClient:
    return reranks[0]


@pytest.fixture(scope="module")
def retriever(reranking: Path, stocked: Path) -> Iterator[Retriever]:
    with Retriever.open(reranking, stocked, threads=1) as found:
        yield found


@pytest.mark.parametrize(
    "how", [{}, {"rerank": 0}, {"rerank": 7}, {"rerank": 100, "k": 3}, {"mode": "fast"}]
)
@pytest.mark.parametrize("by", ["image", "id"])
def test_the_answer_is_the_retrievers(
    ask: TestClient, retriever: Retriever, photo: bytes, how: dict[str, Any], by: str
) -> None:
    if by == "image":  # which both image engines look at, each in its own way
        answer = ask.post("/v1/search", files={"image": ("x", photo)}, data={"text": TEXT, **how})
        expected = retriever.search(photo, TEXT, **how).to_json()
    else:
        answer = ask.post("/v1/search", json={"id": OWN, "text": TEXT, **how})
        expected = retriever.search(OWN, TEXT, **how).to_json()
    assert answer.status_code == 200, answer.text
    found = answer.json()
    for key in ("hits", "weights", "reranked", "complete"):
        assert found[key] == expected[key]
    timing = found["timing_ms"]
    total = timing.pop("total")
    assert sum(timing.values()) == pytest.approx(total, abs=1e-6)


def test_a_deadline_returns_what_is_known(ask: TestClient, retriever: Retriever) -> None:
    found = ask.post("/v1/search", json={"id": OWN, "text": TEXT, "deadline_ms": 1}).json()
    assert found["complete"] is False
    pruned = retriever.search(OWN, TEXT, rerank=0)
    assert found["reranked"] < 20
    if not found["reranked"]:
        assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in pruned]
    later = ask.post("/v1/search", json={"id": OWN, "text": TEXT, "deadline_ms": 60_000}).json()
    assert (later["complete"], later["reranked"]) == (True, 20)


def test_a_picture_that_is_added_can_be_reranked(ask: TestClient, photo: bytes) -> None:
    added = ask.post("/v1/items", data={"id": "new"}, files={"image": ("x", photo)})
    assert added.status_code == 201
    found = ask.post("/v1/search", json={"id": OWN, "text": TEXT, "rerank": 100, "k": 200}).json()
    assert "new" in [hit["id"] for hit in found["hits"]]
    assert (found["complete"], found["reranked"]) == (True, 100)
    by_new = ask.post("/v1/search", json={"id": "new", "text": TEXT})
    assert by_new.json()["reranked"] == 20
    assert ask.delete("/v1/items/new").status_code == 204


def test_a_gallery_without_tokens_is_told_before_the_port_opens(
    reranking: Path, gallery: Path
) -> None:
    with pytest.raises(GalleryError, match="token"):
        Service(ServeSettings(bundle=reranking, gallery=gallery, threads=1))
