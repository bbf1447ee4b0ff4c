"""Candidate tokens in a gallery: added with the pictures or later, refused where they differ."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_reranker import MODEL, Truth, reranking_bundle

from cir_rt.bundle import read_manifest, write_manifest
from cir_rt.errors import GalleryError, GalleryMismatch
from cir_rt.gallery import Gallery, decoder
from cir_rt.gallery.facts import TokenFormat
from cir_rt.gallery.indexing import Source
from cir_rt.results import Hits
from cir_rt.retriever import Retriever

OWN, TEXT = "dress-val-00000", "the same but in red"


def ids(hits: Hits) -> list[str]:
    return [hit.id for hit in hits]


def test_index_adds_vectors_and_tokens(stocked: Path, truth: Truth) -> None:
    with Gallery.open(stocked) as gallery:
        assert gallery.token_format == TokenFormat(fingerprint=MODEL, count=5, width=16)
        assert gallery.ids_without_tokens() == []
        assert gallery.verify() == []
        rows = [gallery.row(i) for i in truth.tokens]
        np.testing.assert_allclose(
            gallery.tokens(rows), np.stack(list(truth.tokens.values())), atol=0.05
        )


def test_a_gallery_without_tokens_gets_them_by_indexing_again(
    bundle: Path,
    reranking: Path,
    gallery: Path,
    sources: list[Source],
    truth: Truth,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = shutil.copytree(gallery, tmp_path / "copy.gallery")
    with Retriever.open(reranking, copy, threads=1) as retriever:
        pruned = retriever.search(image=OWN, text=TEXT, rerank=0)
        with pytest.raises(GalleryMismatch, match=r"no candidate tokens.*cir-rt index.*--rerank 0"):
            retriever.search(image=OWN, text=TEXT)
        seen: list[int] = []
        encode = retriever._opened.encoder.encode_pixels
        watched = retriever._opened.encoder
        monkeypatch.setattr(
            watched, "encode_pixels", lambda pixels: seen.append(len(pixels)) or encode(pixels)
        )
        report = retriever.index(sources[:100], copy)
        assert (report.added, report.updated, report.unchanged) == (0, 100, 0)
        assert seen == []  # no vector was encoded again
        with pytest.raises(GalleryError, match=r"has no candidate tokens.*cir-rt index"):
            retriever.search(image=OWN, text=TEXT, rerank=200)
        again = retriever.index(sources, copy)
        assert (again.added, again.updated, again.unchanged) == (0, 44, 100)
        assert retriever.index(sources, copy).unchanged == 144
        assert seen == []
        hits = retriever.search(image=OWN, text=TEXT, k=200, rerank=200)
        assert ids(hits) == truth.order(truth.tokens[OWN], TEXT, list(truth.tokens)[1:])
        assert ids(retriever.search(image=OWN, text=TEXT, rerank=0)) == ids(pruned)
    with Gallery.open(copy) as opened:
        assert opened.verify() == []
        assert len(opened.live) == 144  # no row was written anew
        assert {m["article"] for _, m in opened.items(range(144))} == {
            s.id.split("-")[0] for s in sources
        }


def test_changed_pictures_and_metadata_keep_tokens_right(
    reranking: Path, stocked: Path, sources: list[Source], truth: Truth, tmp_path: Path
) -> None:
    copy = shutil.copytree(stocked, tmp_path / "copy.gallery")
    other = Path(shutil.copy(sources[5].path or "", tmp_path / "other.jpg"))
    changed = [
        replace(sources[0], path=other),
        replace(sources[1], metadata={"price": 3}),
        Source(id=sources[2].id, path=None, metadata={"price": 4}),
    ]
    with Retriever.open(reranking, copy, threads=1) as retriever:
        assert retriever.index(changed, copy).updated == 3
        hits = retriever.search(image=sources[9].id, text=TEXT, k=200, rerank=200)
    scores = {hit.id: hit.score for hit in hits}
    assert scores[sources[0].id] == pytest.approx(scores[sources[5].id], abs=1e-6)
    expected = truth.scores(truth.tokens[sources[9].id], TEXT, [s.id for s in sources[1:3]])
    np.testing.assert_allclose([scores[s.id] for s in sources[1:3]], expected, atol=1e-4)


def test_tokens_of_another_reranker_are_refused(
    bundle: Path, stocked: Path, sources: list[Source], tmp_path: Path
) -> None:
    folder = reranking_bundle(bundle, tmp_path / "other.cir")
    manifest = read_manifest(folder)
    prints = replace(manifest.fingerprints, tokens="0" * 64)
    write_manifest(replace(manifest, fingerprints=prints), folder)
    with Retriever.open(folder, stocked, threads=1) as retriever:
        assert len(retriever.search(image=OWN, text=TEXT, rerank=0)) == 10
        with pytest.raises(GalleryMismatch, match=r"of model beefcafebeef.*cir-rt index"):
            retriever.search(image=OWN, text=TEXT)
        with pytest.raises(GalleryMismatch, match="of model beefcafebeef"):
            retriever.index(sources[:1], stocked)


def test_a_compaction_between_prune_and_tokens_is_survived(
    reranking: Path, stocked: Path, truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(stocked, tmp_path / "copy.gallery")
    gone = list(truth.tokens)[40:90]
    located = Gallery.located_tokens
    once = [True]

    def compacted(self: Gallery, *asked: Any, **how: Any) -> Any:
        if once:
            once.clear()
            fingerprint, dim = self.fingerprint, self.dim
            with Gallery.open_writer(copy, fingerprint=fingerprint, dim=dim) as writer:
                writer.delete(gone)
                writer.compact()
        return located(self, *asked, **how)

    with Retriever.open(reranking, copy, threads=1) as retriever:
        monkeypatch.setattr(Gallery, "located_tokens", compacted)
        hits = retriever.search(image=OWN, text=TEXT, k=200, rerank=200)
    assert not once
    left = [i for i in truth.tokens if i not in gone and i != OWN]
    assert ids(hits) == truth.order(truth.tokens[OWN], TEXT, left)


def test_workers_make_the_same_tokens(
    reranking: Path,
    stocked: Path,
    sources: list[Source],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoder, "IN_PROCESS", 0)
    with Retriever.open(reranking, threads=1) as retriever:
        retriever.index(sources[:20], tmp_path / "new.gallery", workers=1)
    with Gallery.open(tmp_path / "new.gallery") as new, Gallery.open(stocked) as old:
        for item_id in new.ids():
            np.testing.assert_array_equal(
                new.tokens([new.row(item_id)]), old.tokens([old.row(item_id)])
            )
