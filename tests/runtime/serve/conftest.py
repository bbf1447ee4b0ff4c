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
