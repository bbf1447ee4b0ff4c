"""Searches that re-rank, held against numpy over the pictures' own files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import json_of, refused, run
from PIL import Image
from small_reranker import EARLY, Truth, reranking_bundle

from cir_rt.cascade import survivors
from cir_rt.errors import TextError, UsageError
from cir_rt.gallery import Gallery
from cir_rt.gallery.indexing import Source
from cir_rt.rerank import Reranker
from cir_rt.results import Hits
from cir_rt.retriever import Retriever

OWN, TEXT = "dress-val-00000", "the same but in red"
CANDIDATES = 20


@pytest.fixture(scope="module")
def retriever(reranking: Path, stocked: Path) -> Iterator[Retriever]:
    with Retriever.open(reranking, stocked, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(garments: Path) -> Path:
    return garments / "images" / f"{OWN}.jpg"


def ids(hits: Hits) -> list[str]:
    return [hit.id for hit in hits]


def falling(hits: Hits) -> bool:
    return bool((np.diff([hit.score for hit in hits]) <= 0).all())


@pytest.mark.parametrize("rerank", [None, 1, 7, 19, 111, 500])
@pytest.mark.parametrize("k", [1, 10, 200])
@pytest.mark.parametrize("by", ["file", "id"])
def test_the_answer_is_that_of_brute_force(
    retriever: Retriever, truth: Truth, file: Path, rerank: int | None, k: int, by: str
) -> None:
    image: Any = file if by == "file" else OWN
    pruned = retriever.search(image=image, text=TEXT, k=200, rerank=0)
    hits = retriever.search(image=image, text=TEXT, k=k, rerank=rerank)
    count = min(rerank or CANDIDATES, len(pruned))
    expected = truth.order(truth.tokens[OWN], TEXT, ids(pruned)[:count])
    assert ids(hits) == [*expected, *ids(pruned)[count:]][:k]
    scores = truth.scores(truth.tokens[OWN], TEXT, expected)
    found = [hit.score for hit in hits][:count]
    np.testing.assert_allclose(found, scores[:k], atol=1e-4)
    assert falling(hits)
    assert {h.id: h.prune_score for h in hits}.items() <= {p.id: p.score for p in pruned}.items()
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert (hits.reranked, hits.complete) == (count, True)
    assert (pruned.reranked, pruned.complete) == (0, True)
    assert all(hit.score == hit.prune_score for hit in pruned)
    rest = hits[count:]
    if rest:  # lowered by one constant
        lowered = [hit.prune_score - hit.score for hit in rest]
        np.testing.assert_allclose(lowered, lowered[0], atol=1e-5)
        assert rest[0].score < hits[count - 1].score


def test_path_bytes_picture_array_and_id_are_one(
    retriever: Retriever, truth: Truth, file: Path
) -> None:
    array = np.asarray(Image.open(file).convert("RGB"))
    found = [
        retriever.search(image=image, text=TEXT, k=200, rerank=200)
        for image in (file, file.read_bytes(), Image.open(file), array, OWN)
    ]
    scores = [{h.id: h.score for h in hits if h.id != OWN} for hits in found]
    for other in scores[1:]:
        assert list(other) == list(scores[0])
        np.testing.assert_allclose(list(other.values()), list(scores[0].values()), atol=1e-6)
    assert OWN not in ids(found[-1])


def test_fast_is_a_brute_force_cascade(retriever: Retriever, truth: Truth) -> None:
    pruned = ids(retriever.search(image=OWN, text=TEXT, k=200, rerank=0))
    best = pruned[:37]
    reference = truth.tokens[OWN]
    early = truth.scores(reference, TEXT, best, EARLY)
    kept = survivors(early, 0.05, 3)
    deep = truth.order(reference, TEXT, [i for i, k in zip(best, kept, strict=True) if k])
    dropped = [best[n] for n in np.argsort(-early, kind="stable") if not kept[n]]
    hits = retriever.search(image=OWN, text=TEXT, k=200, rerank=37, mode="fast")
    assert ids(hits) == [*deep, *dropped, *pruned[37:]]
    assert 0 < len(deep) < 37
    assert falling(hits)
    assert (hits.reranked, hits.complete) == (37, True)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_batch_is_single(retriever: Retriever, garments: Path, mode: str) -> None:
    paths = sorted((garments / "images").glob("*-val-*.jpg"))[:12]
    images: list[Any] = [p if n % 2 else p.stem for n, p in enumerate(paths)]
    texts: list[str | None] = [f"in {'longer ' * (n % 4)}red" for n in range(12)]
    images[3], texts[4] = None, None  # pruned alone, where nothing else is said
    batch = retriever.search_batch(images, texts, k=30, mode=mode)
    for found, image, text in zip(batch, images, texts, strict=True):
        alone = retriever.search(image=image, text=text, k=30, mode=mode)
        assert ids(found) == ids(alone)
        np.testing.assert_allclose([h.score for h in found], [h.score for h in alone], atol=1e-5)
        assert found.reranked == alone.reranked == (CANDIDATES if image and text else 0)
    assert retriever.search_batch([], [], rerank=50) == []


def test_threads_get_the_answers_of_one(retriever: Retriever, garments: Path) -> None:
    paths = sorted((garments / "images").glob("*-val-*.jpg"))[:24]
    modes = ["exact", "fast"] * 12

    def ask(path: Path, mode: str) -> list[tuple[str, float]]:
        image: Any = path if mode == "exact" else path.stem
        return [(h.id, h.score) for h in retriever.search(image=image, text=TEXT, mode=mode)]

    expected = [ask(p, m) for p, m in zip(paths, modes, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(ask, paths, modes)) == expected


def test_filters_and_min_score_are_held_to_what_was_pruned(retriever: Retriever) -> None:
    where = "article = 'shirt'"
    pruned = retriever.search(image=OWN, text=TEXT, k=200, rerank=0, where=where)
    floor = pruned[8].score
    hits = retriever.search(image=OWN, text=TEXT, k=200, where=where, min_score=floor)
    assert set(ids(hits)) == set(ids(pruned)[:9])
    assert hits.reranked == 9
    none = retriever.search(image=OWN, text=TEXT, min_score=1.5)
    assert (len(none), none.reranked, none.complete) == (0, 0, True)
    assert none.empty_because.startswith("nothing fits")


@pytest.mark.parametrize(
    "query",
    [{"image": OWN}, {"text": TEXT}, *({"image": OWN, "text": TEXT, "weight": w} for w in (0, 1))],
)
def test_one_of_both_is_not_reranked_unless_said(
    retriever: Retriever, query: dict[str, Any]
) -> None:
    hits = retriever.search(**query)
    assert hits.reranked == 0
    assert all(hit.score == hit.prune_score for hit in hits)
    if "weight" in query:
        assert retriever.search(**query, rerank=7).reranked == 7
        return
    with pytest.raises(UsageError, match="rerank is 7, but a query lacks picture or words"):
        retriever.search(**query, rerank=7)
    with pytest.raises(UsageError, match="lacks picture or words"):
        retriever.search_batch([OWN, query.get("image")], [TEXT, query.get("text")], rerank=7)


@pytest.mark.parametrize(
    ("query", "kind", "said"),
    [
        ({"rerank": -1}, UsageError, "rerank is -1. Expected 0 or more"),
        ({"mode": "slow"}, UsageError, "mode is 'slow'"),
        ({"deadline_ms": 0}, UsageError, "deadline_ms is 0"),
        ({"deadline_ms": float("nan")}, UsageError, "deadline_ms is nan"),
        ({"deadline_ms": float("inf")}, UsageError, "deadline_ms is inf"),
        ({"text": "red " * 20}, TextError, "at most 14"),
    ],
)
def test_bad_queries_are_refused(
    retriever: Retriever, query: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        retriever.search(**{"image": OWN, "text": TEXT, **query})
    assert retriever.search(image=OWN, text=TEXT).reranked == CANDIDATES


def test_a_bundle_without_a_reranker_says_so(bundle: Path, stocked: Path) -> None:
    with Retriever.open(bundle, stocked, threads=1) as plain:
        assert plain.candidates == 0
        hits = plain.search(image=OWN, text=TEXT)
        assert (hits.reranked, hits.complete) == (0, True)
        for asked in ({"rerank": 5}, {"mode": "fast"}, {"mode": "slow"}):
            with pytest.raises(UsageError, match=r"no re-ranker.*cir-rt build-engine"):
                plain.search(image=OWN, text=TEXT, **asked)


def test_a_bundle_without_a_cascade_says_so(bundle: Path, stocked: Path, tmp_path: Path) -> None:
    folder = reranking_bundle(bundle, tmp_path / "plain.cir", cascade=False, candidates=9)
    with Retriever.open(folder, stocked, threads=1) as plain:
        assert plain.candidates == 9
        assert plain.search(image=OWN, text=TEXT).reranked == 9
        with pytest.raises(UsageError, match="no cascade"):
            plain.search(image=OWN, text=TEXT, mode="fast")


def test_float_engines_and_float_galleries(
    bundle: Path, sources: list[Source], stocked: Path, retriever: Retriever, tmp_path: Path
) -> None:
    """Any engine reads any gallery of its model: the numbers are the same but for rounding."""
    expected = {h.id: h.score for h in retriever.search(image=OWN, text=TEXT, k=200, rerank=200)}
    floats = reranking_bundle(bundle, tmp_path / "floats.cir", codes=False, token_precision="fp16")
    with Retriever.open(floats, stocked, threads=1) as opened:
        hits = opened.search(image=OWN, text=TEXT, k=200, rerank=200)
        assert ids(hits) == list(expected)
        np.testing.assert_allclose([h.score for h in hits], list(expected.values()), atol=1e-5)
        opened.index(sources, tmp_path / "fp16.gallery")
    with Gallery.open(tmp_path / "fp16.gallery") as gallery:
        assert gallery.token_format is not None
        assert gallery.token_format.precision == "fp16"
    for folder in (floats, reranking_bundle(bundle, tmp_path / "codes.cir")):
        with Retriever.open(folder, tmp_path / "fp16.gallery", threads=1) as opened:
            hits = opened.search(image=OWN, text=TEXT, k=200, rerank=200)
            found = [expected[h.id] for h in hits]
            np.testing.assert_allclose([h.score for h in hits], found, atol=0.05)


def test_stages_sum_to_the_total(retriever: Retriever, file: Path) -> None:
    stages = {"rerank_text", "fetch_tokens", "rerank"}
    for image, mode in ((file, "exact"), (OWN, "fast"), (file, "fast")):
        hits = retriever.search(image=image, text=TEXT, mode=mode)
        timing = dict(hits.timing)
        total = timing.pop("total")
        assert stages <= set(timing)
        assert ("rerank_image" in timing) == (image == file)
        assert min(timing.values()) >= 0
        assert sum(timing.values()) == pytest.approx(total, abs=1e-6)
    assert stages.isdisjoint(retriever.search(image=OWN, text=TEXT, rerank=0).timing)


def test_json_says_how_far_it_came(retriever: Retriever) -> None:
    values = json.loads(json.dumps(retriever.search(image=OWN, text=TEXT).to_json()))
    assert (values["reranked"], values["complete"]) == (CANDIDATES, True)
    assert set(values["hits"][0]) == {"id", "score", "prune_score", "rank", "metadata"}


def test_a_deadline_returns_the_best_known(
    retriever: Retriever, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that only re-ranking moves: 10 ms a candidate, counted from the call."""
    now = [50.0]
    run = Reranker._run

    def slow(self: Reranker, role: str, rows: int, given: Any) -> Any:
        start = now[0]
        found = run(self, role, rows, given)
        now[0] = start + (rows * 0.01 if role == "rerank" else 0)
        self._paces[role].took(rows, 1000 * (now[0] - start))
        return found

    monkeypatch.setattr(Reranker, "_run", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pruned = ids(retriever.search(image=OWN, text=TEXT, k=200, rerank=0))
    retriever.search(image=OWN, text=TEXT)
    for deadline_ms in (1, 45, 90, 190, 210):
        hits = retriever.search(
            image=OWN, text=TEXT, k=200, rerank=CANDIDATES, deadline_ms=deadline_ms
        )
        done = hits.reranked
        assert done == min(CANDIDATES, 2 * (deadline_ms // 20))
        assert hits.complete == (done == CANDIDATES)
        best = truth.order(truth.tokens[OWN], TEXT, pruned[:done]) if done else []
        assert ids(hits) == [*best, *pruned[done:]]
        assert falling(hits)
        assert hits.to_json()["complete"] == hits.complete


def test_waiting_in_the_queue_counts(retriever: Retriever) -> None:
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(retriever._opened.call, lambda: time.sleep(0.3))
        late = pool.submit(retriever.search, image=OWN, text=TEXT, deadline_ms=100)
        busy.result()
        hits = late.result()
    assert (hits.reranked, hits.complete) == (0, False)
    assert all(hit.score == hit.prune_score for hit in hits)
    assert {"fetch_tokens"} >= {s for s in hits.timing if "rerank" in s or "tokens" in s}


def test_reload_takes_the_reranker_over(reranking: Path, stocked: Path) -> None:
    with Retriever.open(reranking, stocked, threads=1) as retriever:
        before = ids(retriever.search(image=OWN, text=TEXT))
        old = retriever._opened.reranker
        retriever.reload()
        assert ids(retriever.search(image=OWN, text=TEXT)) == before
        assert retriever._opened.reranker is not old


def test_the_command_line(
    reranking: Path, stocked: Path, gallery: Path, retriever: Retriever
) -> None:
    search = ["search", reranking, stocked, "--image", OWN, "--text", TEXT, "-k5", "--threads=1"]
    for chosen, how in (
        ([], {}),
        (["--rerank", "7"], {"rerank": 7}),
        (["--mode", "fast", "--rerank", "30"], {"rerank": 30, "mode": "fast"}),
    ):
        values = json_of(run(*search, *chosen, "--json"))
        hits = retriever.search(image=OWN, text=TEXT, k=5, **how)
        assert [hit["id"] for hit in values["hits"]] == ids(hits)
        assert (values["reranked"], values["complete"]) == (hits.reranked, True)
    assert "20 candidates re-ranked\n" in run(*search).stdout
    late = run(*search, "--deadline-ms", "0.001")
    assert "0 candidates re-ranked, then time was up" in late.stdout
    without = ["search", reranking, gallery, "--image", OWN, "--text", TEXT, "--threads=1"]
    refused(run(*without), 1, "keeps no candidate tokens", "cir-rt index", "--rerank 0")
    assert len(json_of(run(*without, "--rerank", "0", "--json"))["hits"]) == 10
