"""What the tests of this room share: a bundle that re-ranks, a gallery for it, and the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_reranker import Truth, reranking_bundle

from cir_rt.gallery.indexing import Source
from cir_rt.retriever import Retriever

# Asserts in the conformance suite tell what they compared.
pytest.register_assert_rewrite("conformance", "fake_onnxruntime")


@pytest.fixture(scope="session")
def reranking(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle with a small re-ranker in it."""
    folder = tmp_path_factory.mktemp("reranking") / "garments.cir"
    return reranking_bundle(bundle, folder, margin=0.05)


@pytest.fixture(scope="session")
def sources(garments: Path) -> list[Source]:
    """Return the 144 pictures to rank."""
    paths = sorted((garments / "images").glob("*-val-*.jpg"))
    return [Source(id=p.stem, path=p, metadata={"article": p.stem.split("-")[0]}) for p in paths]


@pytest.fixture(scope="session")
def stocked(reranking: Path, sources: list[Source]) -> Path:
    """Return a gallery of them with candidate tokens; copy it before changing it."""
    gallery = reranking.parent / "garments.gallery"
    with Retriever.open(reranking, threads=1) as retriever:
        retriever.index(sources, gallery)
    return gallery


@pytest.fixture(scope="session")
def truth(reranking: Path, sources: list[Source]) -> Truth:
    """Return what every candidate scores, by the files alone."""
    return Truth(reranking, sources)
