"""Prune: conditions, indexes and compaction, held against the whole gallery in order."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir_rt import errors
from cir_rt.gallery import Gallery
from cir_rt.gallery.sources import Source
from cir_rt.prune import Pruner
from cir_rt.results import Hits
from cir_rt.retriever import Retriever

OWN, TEXT = "dress-val-00000", "the same but in red"


def answers(hits: Hits) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


@pytest.fixture
def file(garments: Path) -> Path:
    return garments / "images" / f"{OWN}.jpg"


@pytest.fixture
def priced(bundle: Path, gallery: Path, tmp_path: Path) -> Path:
    """Return a gallery whose n-th picture costs n."""
    folder = shutil.copytree(gallery, tmp_path / "priced.gallery")
    with Gallery.open(folder) as opened:
        stored = opened.items(range(len(opened)))
    priced = [
        Source(id=i, path=None, metadata={**m, "price": n}) for n, (i, m) in enumerate(stored)
    ]
    with Retriever.open(bundle, threads=1) as retriever:
        assert retriever.index(priced, folder).updated == len(stored)
    return folder


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ("price < 72", lambda m: m["price"] < 72),
        ("price < 7 and article = 'dress'", lambda m: m["price"] < 7),
        ("price = 100", lambda m: m["price"] == 100),
        ("article = 'hat'", lambda m: False),
        (f"id != '{OWN}'", lambda m: m["price"] > 0),
    ],
)
@pytest.mark.parametrize("k", [1, 5, 500])
def test_a_condition_keeps_the_best_of_those_that_meet_it(
    bundle: Path, priced: Path, where: str, fits: Callable[[dict[str, Any]], bool], k: int
) -> None:
    with Retriever.open(bundle, priced, threads=1) as retriever:
        for image in (None, OWN):
            every = retriever.search(image=image, text=TEXT, k=500)
            expected = [(h.id, h.score) for h in every if fits(dict(h.metadata))][:k]
            found = retriever.search(image=image, text=TEXT, k=k, where=where)
            assert answers(found) == expected
            assert [h.rank for h in found] == list(range(1, len(found) + 1))
            assert ("meets the condition" in found.empty_because) is (where == "article = 'hat'")


def test_a_row_is_held_against_a_condition_once(
    bundle: Path, priced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts, plain = [], Gallery.matching

    def watched(self: Gallery, condition: str, values: Sequence[Any]) -> np.ndarray:
        firsts.append(values[0])
        return plain(self, condition, values)

    def cheap() -> list[str]:
        return sorted(h.id for h in retriever.search(text=TEXT, k=50, where="price < 10"))

    monkeypatch.setattr(Gallery, "matching", watched)
    with Retriever.open(bundle, priced, threads=1) as retriever:
        before = [cheap() for _ in range(3)][-1]
        assert (len(before), firsts) == (10, [0])
        assert len(retriever.search(text=TEXT, where="price < 5")) == 5
        assert firsts == [0, 0]
        retriever.index([], priced, delete=[OWN])
        assert cheap() == [i for i in before if i != OWN]
        assert firsts == [0, 0]
        dear = Source(id=before[1], path=None, metadata={"price": 99})
        cheaper = Source(id="toptee-val-00001", path=None, metadata={"price": 9.5})
        assert retriever.index([dear, cheaper], priced).updated == 2
        assert cheap() == sorted([*before[2:], cheaper.id])
        assert firsts == [0, 0, 288]
        with (
            Gallery.open(priced) as held,
            Gallery.open_writer(priced, fingerprint=held.fingerprint, dim=held.dim) as writer,
        ):
            writer.compact()  # numbers the rows anew
        assert cheap() == sorted([*before[2:], cheaper.id])
        assert firsts == [0, 0, 288, 0]


@pytest.mark.parametrize("index", ["exact", "hnsw", "faiss"])
def test_every_index_answers_alike(bundle: Path, priced: Path, file: Path, index: str) -> None:
    if index != "exact":
        pytest.importorskip({"hnsw": "hnswlib"}.get(index, index))
    queries: list[dict[str, Any]] = [
        {"image": file, "text": TEXT},
        {"image": OWN, "k": 200},
        {"text": TEXT, "where": "price < 9"},
    ]
    with Retriever.open(bundle, priced, threads=1) as retriever:
        expected = [answers(retriever.search(**query)) for query in queries]
        report = retriever.index([], priced, index=index)
        assert report.index == index
        assert [answers(retriever.search(**query)) for query in queries] == expected
    with Retriever.open(bundle, priced, threads=1, index=index) as retriever:
        assert [answers(retriever.search(**query)) for query in queries] == expected
    with pytest.raises(errors.UsageError, match="no index 'abacus'"):
        Retriever.open(bundle, priced, index="abacus")


def test_a_compaction_under_our_hands_is_not_seen(
    bundle: Path, priced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, times = Pruner.search, [0]

    def compacting(self: Pruner, *args: Any, **settings: Any) -> Any:
        found = plain(self, *args, **settings)
        if times[0] == 0:
            held = self.gallery
            with Gallery.open_writer(priced, fingerprint=held.fingerprint, dim=held.dim) as writer:
                writer.delete([OWN])
                writer.compact()
        times[0] += 1
        return found

    with Retriever.open(bundle, priced, threads=1) as retriever:
        before = answers(retriever.search(text=TEXT, k=200))
        monkeypatch.setattr(Pruner, "search", compacting)
        after = answers(retriever.search(text=TEXT, k=200, where="price >= 0"))
        assert times == [2]
        assert after == [(i, score) for i, score in before if i != OWN]
