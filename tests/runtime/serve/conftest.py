"""Servers over copies of the gallery, and a picture to ask them about."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from serving import UNLIMITED, Live, Shop, opened
from starlette.testclient import TestClient

from cir_rt.serve.settings import ServeSettings


@pytest.fixture
def shop(
    bundle: Path, gallery: Path, tmp_path: Path
) -> Callable[..., AbstractContextManager[Shop]]:
    """Return what opens a server here, with settings of the test's own."""

    def open_shop(**settings: Any) -> AbstractContextManager[Shop]:
        folder = tmp_path / "shop.gallery"
        if not folder.exists():
            shutil.copytree(gallery, folder)
        settings = {"limits": UNLIMITED, "threads": 1, **settings}
        return opened(ServeSettings(bundle=bundle, gallery=folder, **settings))

    return open_shop


@pytest.fixture(scope="module")
def standing(
    bundle: Path, gallery: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """Return a server that the tests of a file share; leave its gallery as it was."""
    folder = tmp_path_factory.mktemp("standing") / "shop.gallery"
    shutil.copytree(gallery, folder)
    settings = ServeSettings(bundle=bundle, gallery=folder, threads=1, limits=UNLIMITED)
    with opened(settings) as shop:
        yield shop


@pytest.fixture(scope="module")
def ask(standing: Shop) -> TestClient:
    return standing[0]


@pytest.fixture
def started(bundle: Path, gallery: Path, tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Return what starts a server process, with options of the test's own."""
    running: list[Live] = []

    def start(*options: str, **how: Any) -> Live:
        folder = shutil.copytree(gallery, tmp_path / f"live-{len(running)}.gallery")
        running.append(Live(bundle, folder, *options, **how))
        return running[-1]

    yield start
    for live in running:
        live.kill()


@pytest.fixture(scope="session")
def live(bundle: Path, gallery: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a server process that all tests share; leave its gallery as it was."""
    folder = shutil.copytree(gallery, tmp_path_factory.mktemp("live") / "live.gallery")
    found = Live(bundle, folder, "--rate=0")
    yield found
    found.kill()


@pytest.fixture
def photo(garments: Path) -> bytes:
    """Return a picture that the gallery does not hold, as a JPEG."""
    return sorted((garments / "images").glob("dress-train-*.jpg"))[0].read_bytes()


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an FP32 bundle of the model that ships with the package."""
    from cir_rt.export.build import BuildOptions, build_engine
    from cir_rt.export.demo import LOCATION

    folder = tmp_path_factory.mktemp("shipped") / "garments.cir"
    build_engine(LOCATION, folder, BuildOptions(precision="fp32", threads=1), rerank=False)
    return folder


@pytest.fixture(scope="session")
def showroom(shipped: Path, garments: Path) -> Path:
    """Return its gallery of the 144 pictures to rank, all but the dresses with a title."""
    import csv

    from cir_rt.gallery.indexing import Source
    from cir_rt.retriever import Retriever

    with (garments / "labels.csv").open(encoding="utf-8") as file:
        titles = {row["id"]: row["title"] for row in csv.DictReader(file)}
    folder = shipped.parent / "garments.gallery"
    paths = sorted((garments / "images").glob("*-val-*.jpg"))
    found = [
        Source(id=p.stem, path=p, metadata={} if "dress" in p.stem else {"title": titles[p.stem]})
        for p in paths
    ]
    with Retriever.open(shipped, threads=1) as retriever:
        retriever.index(found, folder)
    return folder


@pytest.fixture(scope="session")
def store(shipped: Path, showroom: Path) -> Iterator[Live]:
    """Return a server process over them; leave its gallery as it was."""
    found = Live(shipped, showroom, "--rate=0")
    yield found
    found.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a browser without a window; one a file, since it holds the thread's event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `dev` is missing")
    from shopper import CHROMIUM, launch

    if CHROMIUM is None:
        pytest.skip("no Chromium here. Install it:  apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = launch(driver)
        yield chromium
        chromium.close()


@pytest.fixture
def enter(browser: Any, store: Live) -> Iterator[Callable[..., Any]]:
    """Return what opens a window of a size before the page; what it asked and said is checked."""
    from shopper import Shopper

    shoppers: list[Shopper] = []

    def open_window(size: str, url: str = store.url, **context: Any) -> Shopper:
        shoppers.append(Shopper(browser, url, size, **context))
        return shoppers[-1]

    yield open_window
    for one in shoppers:
        one.leave()
