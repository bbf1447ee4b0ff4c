"""The whole way of a query, held against numpy over the gallery's own vectors."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cir_rt import errors
from cir_rt.bundle import open_bundle, read_manifest
from cir_rt.encoder import Encoder
from cir_rt.gallery import Gallery
from cir_rt.gallery.indexing import Source
from cir_rt.pictures import StoredId
from cir_rt.results import Hits
from cir_rt.retriever import Retriever

OWN, TEXT = "dress-val-00000", "the same but in red"


@pytest.fixture(scope="module")
def retriever(bundle: Path, gallery: Path) -> Iterator[Retriever]:
    with Retriever.open(bundle, gallery, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(garments: Path) -> Path:
    return garments / "images" / f"{OWN}.jpg"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the batches that the image engine was given."""
    seen: list[int] = []
    encode = Encoder.encode_pixels

    def watched(self: Encoder, pixels: np.ndarray) -> np.ndarray:
        seen.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Encoder, "encode_pixels", watched)
    return seen


def answers(hits: Hits) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


def close_to(found: Hits, expected: Hits) -> None:
    assert [h.id for h in found] == [h.id for h in expected]
    np.testing.assert_allclose(
        [h.score for h in found], [h.score for h in expected], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("weight", [None, 0.0, 0.3, 1.0])
def test_the_answer_is_that_of_brute_force(
    retriever: Retriever, bundle: Path, gallery: Path, file: Path, weight: float | None
) -> None:
    encoder = Encoder.open(open_bundle(bundle), threads=1)
    v, u = encoder.encode_pictures([file]), encoder.encode_texts([TEXT])
    query, weights = encoder.compose(v, u, weight)
    with Gallery.open(gallery) as opened:
        scores = np.asarray(opened.vectors, np.float64) @ query[0]
        order = np.argsort(-scores, kind="stable")[:10]
        expected = opened.items(order)
    hits = retriever.search(image=file, text=TEXT, weight=weight)
    assert [h.id for h in hits] == [item_id for item_id, _ in expected]
    assert [h.metadata for h in hits] == [metadata for _, metadata in expected]
    assert [h.rank for h in hits] == list(range(1, 11))
    np.testing.assert_allclose([h.score for h in hits], scores[order], atol=1e-5)
    assert all(h.prune_score == h.score for h in hits)
    assert hits.weights is not None
    np.testing.assert_allclose([hits.weights.image, hits.weights.text], weights[0], atol=1e-6)


def test_path_bytes_picture_and_array_are_one(retriever: Retriever, file: Path) -> None:
    array = np.asarray(Image.open(file).convert("RGB"))
    expected = answers(retriever.search(image=file, text=TEXT))
    for image in (str(file), file.read_bytes(), Image.open(file), array, array[:, ::-1][:, ::-1]):
        assert answers(retriever.search(image=image, text=TEXT)) == expected


def test_an_id_is_not_encoded_again_nor_found(
    retriever: Retriever, file: Path, counted: list[int]
) -> None:
    by_file = retriever.search(image=file, text=TEXT, k=200)
    assert counted == [1]
    by_id = retriever.search(image=OWN, text=TEXT, k=200)
    assert counted == [1]
    assert "image" not in by_id.timing
    assert OWN in [h.id for h in by_file]
    rest = [(h.id, h.score) for h in by_file if h.id != OWN]
    assert [h.id for h in by_id] == [item_id for item_id, _ in rest]
    np.testing.assert_allclose([h.score for h in by_id], [s for _, s in rest], atol=1e-5)
    assert [h.rank for h in by_id] == list(range(1, len(by_file)))


def test_a_picture_alone_finds_itself(retriever: Retriever, file: Path) -> None:
    hits = retriever.search(image=file)
    assert hits[0].id == OWN
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert hits.weights is not None
    assert (hits.weights.image, hits.weights.text) == (1, 0)
    close_to(retriever.search(image=file, text=TEXT, weight=1), hits)


def test_words_alone(retriever: Retriever, file: Path, counted: list[int]) -> None:
    hits = retriever.search(text=TEXT)
    assert hits.weights is not None
    assert (hits.weights.image, hits.weights.text) == (0, 1)
    assert counted == []
    close_to(retriever.search(image=file, text=TEXT, weight=0), hits)


@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_the_weight_may_be_said(retriever: Retriever, file: Path, weight: float) -> None:
    weights = retriever.search(image=file, text=TEXT, weight=weight).weights
    assert weights is not None
    assert (weights.image, weights.text) == pytest.approx((weight, 1 - weight))


@pytest.mark.parametrize("k", [1, 10, 500])
def test_batch_is_single(retriever: Retriever, garments: Path, k: int) -> None:
    paths = sorted((garments / "images").glob("*-val-*.jpg"))[:19]
    images: list[Any] = [None if n % 5 == 0 else p for n, p in enumerate(paths)]
    images[1], images[2] = paths[1].stem, paths[2].stem  # ids leave themselves out
    texts = [None if n % 5 == 1 else f"in red and {'longer ' * (n % 4)}" for n in range(19)]
    batch = retriever.search_batch(images, texts, k=k)
    assert len(batch) == 19
    for found, image, text in zip(batch, images, texts, strict=True):
        alone = retriever.search(image=image, text=text, k=k)
        close_to(found, alone)
        assert found.weights is not None
        assert alone.weights is not None
        assert found.weights.image == pytest.approx(alone.weights.image, abs=1e-5)
    assert retriever.search_batch([], []) == []


def test_k(retriever: Retriever, gallery: Path) -> None:
    with Gallery.open(gallery) as opened:
        size = len(opened)
    every = retriever.search(text=TEXT, k=size + 50)
    assert len(every) == size == len({h.id for h in every})
    scores = [h.score for h in every]
    assert scores == sorted(scores, reverse=True)
    assert answers(retriever.search(text=TEXT, k=1)) == answers(every)[:1]
    assert len(retriever.search(image=OWN, k=size)) == size - 1


@pytest.mark.parametrize(
    ("query", "kind", "said"),
    [
        ({}, errors.UsageError, "neither picture nor words"),
        ({"text": TEXT, "k": 0}, errors.UsageError, "k is 0"),
        ({"text": TEXT, "k": -3}, errors.UsageError, "k is -3"),
        ({"text": TEXT, "rerank": 50}, errors.UsageError, "rerank is 50"),
        ({"text": TEXT, "weight": 1.01}, errors.UsageError, "outside 0"),
        ({"text": TEXT, "weight": -0.1}, errors.UsageError, "outside 0"),
        ({"text": TEXT, "weight": float("nan")}, errors.UsageError, "outside 0"),
        ({"text": TEXT, "min_score": float("inf")}, errors.UsageError, "min_score is inf"),
        ({"text": TEXT, "where": ""}, errors.UsageError, "expected a field"),
        ({"text": ""}, errors.TextError, "empty"),
        ({"text": "red " * 100}, errors.TextError, "at most 24"),
        ({"image": "dress-val-0000"}, errors.UnknownId, "no file.*Nearest: dress-val-000"),
        ({"image": Path("missing.jpg")}, errors.PictureError, "no such file"),
        ({"image": b"not a picture"}, errors.PictureError, "not a picture"),
        ({"image": np.zeros((4, 4))}, errors.PictureError, "uint8"),
        pytest.param(
            {"image": "x" * 5000},
            errors.UnknownId,
            "no file",
            id="long name",
        ),
    ],
)
def test_bad_queries_are_refused(
    retriever: Retriever, query: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        retriever.search(**query)
    assert len(retriever.search(text=TEXT)) == 10  # and the next one is served


def test_what_is_said_to_be_an_id_is_no_file(retriever: Retriever, file: Path) -> None:
    assert retriever.search(image=str(file))
    with pytest.raises(errors.UnknownId):
        retriever.search(image=StoredId(file))


def test_lists_of_unequal_length_are_refused(retriever: Retriever) -> None:
    with pytest.raises(errors.UsageError, match="2 images and 1 texts"):
        retriever.search_batch([None, None], [TEXT])


def test_rerank_of_none_or_zero_is_no_rerank(retriever: Retriever) -> None:
    expected = answers(retriever.search(text=TEXT))
    for rerank in (None, 0):
        assert answers(retriever.search(text=TEXT, rerank=rerank)) == expected


def test_stages_sum_to_the_total(retriever: Retriever, file: Path) -> None:
    timing = dict(retriever.search(image=file, text=TEXT).timing)
    total = timing.pop("total")
    assert {"preprocess", "image", "tokenize", "text", "compose", "prune", "fetch"} <= set(timing)
    assert min(timing.values()) >= 0
    assert sum(timing.values()) == pytest.approx(total, abs=1e-6)


def test_threads_get_the_answers_of_one(retriever: Retriever, garments: Path) -> None:
    paths = sorted((garments / "images").glob("*-val-*.jpg"))[:24]
    texts = [f"in {colour}" for colour in ("red", "green", "blue")] * 8

    def ask(path: Path, text: str) -> list[tuple[str, float]]:
        return answers(retriever.search(image=path, text=text))

    expected = [ask(p, t) for p, t in zip(paths, texts, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(ask, paths, texts)) == expected


def test_what_another_writer_adds_and_deletes_is_seen(
    bundle: Path, gallery: Path, garments: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(gallery, tmp_path / "copy.gallery")
    new = sorted((garments / "images").glob("*-train-*.jpg"))[0]
    with Retriever.open(bundle, folder, threads=1) as reader:
        before = answers(reader.search(image=new))
        assert before[0][1] < 0.99999
        with Retriever.open(bundle, threads=1) as other:
            other.index([Source(id="new", path=new)], folder)
        hits = reader.search(image=new)
        assert hits[0].id == "new"
        assert answers(hits)[1:] == before[:9]
        assert Image.open(io.BytesIO(reader.thumbnail("new"))).size == (192, 192)
        with Retriever.open(bundle, threads=1) as other:
            assert other.index([], folder, delete=["new"]).deleted == 1
        assert answers(reader.search(image=new)) == before
        with pytest.raises(errors.UnknownId):
            reader.thumbnail("new")


def test_a_condition_that_cannot_be_read_costs_no_encoding(
    retriever: Retriever, file: Path, counted: list[int]
) -> None:
    with pytest.raises(errors.UsageError, match="expected a number"):
        retriever.search(image=file, where="price <")
    assert counted == []


def test_what_scores_too_low_is_no_answer(retriever: Retriever, file: Path) -> None:
    every = retriever.search(image=file, text=TEXT)
    floor = every[4].score
    assert answers(retriever.search(image=file, text=TEXT, min_score=floor)) == answers(every)[:5]
    assert retriever.search(image=file, text=TEXT, min_score=-1.0).empty_because == ""
    none = retriever.search(image=file, text=TEXT, min_score=1.5)
    assert len(none) == 0
    assert none.empty_because == f"nothing fits: the best scores {every[0].score:.3f}, below 1.5"
    both = retriever.search_batch([file, None], [None, TEXT], min_score=0.9999)
    assert [h.id for h in both[0]][:1] == [OWN]
    assert len(both[1]) == 0


def test_searches_come_between_the_pictures_of_an_indexing(
    bundle: Path, gallery: Path, garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted((garments / "images").glob("*.jpg"))
    sources = [Source(id=f"{k}", path=p) for k, p in enumerate(paths)]
    encode = Encoder.encode_pixels

    def slow(self: Encoder, pixels: np.ndarray) -> np.ndarray:
        time.sleep(0.002 * len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Encoder, "encode_pixels", slow)
    with Retriever.open(bundle, gallery, threads=1) as retriever, ThreadPoolExecutor(1) as pool:
        expected = answers(retriever.search(text=TEXT))
        told: list[int] = []

        def progress(done: int, _: int) -> None:
            told.append(done)
            assert answers(retriever.search(text=TEXT)) == expected  # not from another thread alone

        job = pool.submit(retriever.index, sources, tmp_path / "g", progress=progress)
        between = 0
        while not job.done():
            assert answers(retriever.search(text=TEXT)) == expected
            between += 1
        assert job.result().added == len(sources)
        assert between > len(told)  # several for each batch
    with Retriever.open(bundle, tmp_path / "g", threads=1) as again:
        assert len(again.search(text=TEXT, k=10_000)) == len(sources)


def test_an_empty_gallery_answers_nothing_until_it_grows(
    bundle: Path, file: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(bundle)
    fingerprint = manifest.fingerprints.vectors
    folder = tmp_path / "empty.gallery"
    Gallery.open_writer(folder, fingerprint=fingerprint, dim=manifest.dim).close()
    with Retriever.open(bundle, folder, threads=1) as retriever:
        assert len(retriever.search(image=file, text=TEXT)) == 0
        assert [len(h) for h in retriever.search_batch([None, file], [TEXT, None])] == [0, 0]
        assert "pictures=0" in repr(retriever)
        retriever.index([Source(id="one", path=file)], folder)
        assert [h.id for h in retriever.search(text=TEXT)] == ["one"]
        assert len(retriever.search(image="one", text=TEXT)) == 0


def test_a_gallery_of_another_model_is_refused(bundle: Path, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other.gallery"
    Gallery.open_writer(folder, fingerprint="0" * 64, dim=32).close()
    with pytest.raises(errors.GalleryMismatch, match=r"000000000000.*cir-rt index"):
        Retriever.open(bundle, folder)
    with (
        Retriever.open(bundle, threads=1) as retriever,
        pytest.raises(errors.GalleryMismatch),
    ):
        retriever.index([Source(id="one", path=file)], folder)


def test_what_cannot_be_opened_is_refused(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.BundleError, match="not a bundle"):
        Retriever.open(tmp_path, gallery)
    with pytest.raises(errors.GalleryError, match="no gallery here"):
        Retriever.open(bundle, tmp_path)
    with pytest.raises(errors.EngineMismatch, match="built for cpu"):
        Retriever.open(bundle, gallery, device="cuda:0")


def test_without_a_gallery_a_search_says_so(bundle: Path) -> None:
    with Retriever.open(bundle, threads=1) as retriever:
        with pytest.raises(errors.GalleryError, match="no gallery is open"):
            retriever.search(text=TEXT)
        assert repr(retriever) == "Retriever(device=cpu, pictures=0)"


def test_a_closed_retriever_says_so(bundle: Path, gallery: Path) -> None:
    retriever = Retriever.open(bundle, gallery, threads=1)
    retriever.close()
    with pytest.raises(errors.CirRtError, match="closed"):
        retriever.search(text=TEXT)


def test_close_may_be_called_inside_with(bundle: Path, gallery: Path) -> None:
    with Retriever.open(bundle, gallery, threads=1) as retriever:
        retriever.close()


def test_close_ends_an_indexing_at_its_next_batch(
    bundle: Path, garments: Path, tmp_path: Path
) -> None:
    sources = [Source(id=f"{k}", path=p) for k, p in enumerate((garments / "images").glob("*.jpg"))]
    assert len(sources) > 128
    begun = threading.Event()
    retriever = Retriever.open(bundle, threads=1)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(retriever.index, sources, tmp_path / "g", progress=lambda *_: begun.set())
        begun.wait()
        retriever.close()
        with pytest.raises(errors.UsageError, match="closed while indexing"):
            job.result()
    with Retriever.open(bundle, tmp_path / "g", threads=1) as again:
        assert 64 <= len(again.search(text="red", k=10_000)) < len(sources)
