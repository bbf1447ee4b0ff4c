"""A new model and its gallery go into service in one step, and out again."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cir_rt import errors, release
from cir_rt.gallery import Gallery
from cir_rt.gallery.indexing import Source
from cir_rt.retriever import Retriever

OWN, TEXT = "dress-val-00000", "the same but in red"


@pytest.fixture
def shop(bundle: Path, gallery: Path, tmp_path: Path) -> Path:
    """Return a folder of two releases; the second one's gallery lacks a picture."""
    for name in ("one", "two"):
        shutil.copytree(bundle, tmp_path / name / "model.cir")
        shutil.copytree(gallery, tmp_path / name / "photos.gallery")
    delete(tmp_path / "two" / "photos.gallery", OWN)
    release.switch(tmp_path / "live", tmp_path / "one")
    return tmp_path


def delete(folder: Path, item_id: str) -> None:
    with Gallery.open(folder) as opened:
        fingerprint, dim = opened.fingerprint, opened.dim
    with Gallery.open_writer(folder, fingerprint=fingerprint, dim=dim) as writer:
        writer.delete([item_id])


@pytest.fixture
def retriever(shop: Path) -> Iterator[Retriever]:
    live = shop / "live"
    with Retriever.open(live / "model.cir", live / "photos.gallery", threads=1) as opened:
        yield opened


def size(retriever: Retriever) -> int:
    return len(retriever.search(text=TEXT, k=1000))


def test_a_switch_and_the_way_back(shop: Path) -> None:
    live = shop / "live"
    assert os.readlink(live) == "one"  # so that the folder may move
    found = release.switch(live, shop / "two")
    assert (found.bundle.name, found.gallery.name, found.pictures) == (
        "model.cir", "photos.gallery", 143,
    )  # fmt: skip
    assert live.resolve() == shop / "two"
    assert release.back(live).pictures == 144
    assert live.resolve() == shop / "one"
    assert release.back(live).pictures == 143  # and forth
    release.switch(live, shop / "two")  # which changes nothing, nor the way back
    assert release.back(live).folder.resolve() == shop / "one"
    assert {p.name for p in shop.iterdir()} == {"one", "two", "live", "live.previous"}


def test_there_is_no_way_back_from_the_first(shop: Path) -> None:
    with pytest.raises(errors.UsageError, match="none to go back to"):
        release.back(shop / "live")
    with pytest.raises(errors.UsageError, match="none to go back to"):
        release.back(shop / "nothing")


def spoil_bundle(two: Path) -> None:
    weights = two / "model.cir" / "compose.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")


def spoil_gallery(two: Path) -> None:
    vectors = next((two / "photos.gallery" / "vectors").iterdir())
    vectors.write_bytes(b"\x7f" + vectors.read_bytes()[1:])


def other_model(two: Path) -> None:
    shutil.rmtree(two / "photos.gallery")
    Gallery.open_writer(two / "photos.gallery", fingerprint="0" * 64, dim=32).close()


def second_gallery(two: Path) -> None:
    shutil.copytree(two / "photos.gallery", two / "more.gallery")


def other_name(two: Path) -> None:
    (two / "photos.gallery").rename(two / "pictures.gallery")


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (spoil_bundle, errors.BundleError, "altered"),
        (spoil_gallery, errors.GalleryError, "differ|damaged|row"),
        (other_model, errors.GalleryMismatch, "made by model"),
        (second_gallery, errors.GalleryError, "holds 2 galleries"),
        (other_name, errors.UsageError, "would find nothing"),
        (lambda two: shutil.rmtree(two), errors.BundleError, "holds 0 bundles"),
    ],
)
def test_what_does_not_fit_is_not_put_into_service(
    shop: Path, retriever: Retriever, spoil: object, kind: type[Exception], said: str
) -> None:
    assert callable(spoil)
    spoil(shop / "two")
    with pytest.raises(kind, match=said):
        release.switch(shop / "live", shop / "two")
    assert (shop / "live").resolve() == shop / "one"
    assert not (shop / "live.previous").exists()
    retriever.reload()
    assert size(retriever) == 144


def test_a_folder_is_not_taken_for_a_link(shop: Path) -> None:
    with pytest.raises(errors.UsageError, match=r"is no link.*mv .*one"):
        release.switch(shop / "one", shop / "two")
    assert (shop / "one" / "model.cir").is_dir()


def test_a_retriever_goes_over_when_it_is_told(shop: Path, retriever: Retriever) -> None:
    assert size(retriever) == 144
    release.switch(shop / "live", shop / "two")
    delete(shop / "one" / "photos.gallery", "dress-val-00001")
    assert size(retriever) == 143
    with pytest.raises(errors.UnknownId):
        retriever.search(image="dress-val-00001")  # still the first one, and its files
    retriever.reload()
    assert retriever.search(image="dress-val-00001", text=TEXT)
    with pytest.raises(errors.UnknownId):
        retriever.search(image=OWN)
    release.back(shop / "live")
    retriever.reload()
    assert retriever.search(image=OWN)


def test_no_query_is_dropped_by_reloads(shop: Path, retriever: Retriever) -> None:
    over = threading.Event()

    def ask() -> list[int]:
        sizes = []
        while not over.is_set():
            sizes.append(size(retriever))
        return sizes

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(ask) for _ in range(3)]
        try:
            for folder in ("two", "one", "two"):
                release.switch(shop / "live", shop / folder)
                retriever.reload()
                assert size(retriever) == {"one": 144, "two": 143}[folder]
        finally:
            over.set()
        for job in jobs:
            assert set(job.result()) <= {143, 144}


def test_what_cannot_be_opened_leaves_the_old_in_service(shop: Path, retriever: Retriever) -> None:
    (shop / "live").unlink()
    with pytest.raises(errors.BundleError):
        retriever.reload()
    assert size(retriever) == 144
    (shop / "live").symlink_to("two")
    other_model(shop / "two")
    with pytest.raises(errors.GalleryMismatch):
        retriever.reload()
    assert size(retriever) == 144
    retriever.close()
    with pytest.raises(errors.UsageError, match="closed"):
        retriever.reload()


def test_an_indexing_stays_with_the_model_that_it_began_with(
    shop: Path, retriever: Retriever, garments: Path
) -> None:
    paths = sorted((garments / "images").glob("*.jpg"))[:150]
    sources = [Source(id=f"{k}", path=p) for k, p in enumerate(paths)]
    with pytest.raises(errors.UsageError, match="or reloaded"):
        retriever.index(sources, shop / "new.gallery", progress=lambda *_: retriever.reload())
    assert retriever.index(sources, shop / "new.gallery").pictures == 150
