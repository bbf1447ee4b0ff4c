"""Saved indexes: taken where they match the gallery, made again where they do not."""

from __future__ import annotations

import errno
import json
import os

import pytest
import small_gallery
from small_index import (
    clustered_vectors,
    is_right,
    needs_library,
    recall,
    shown,
    thorough,
    unit_vectors,
)

from cir_rt.errors import BackendMissing, GalleryError, StorageFull, UsageError
from cir_rt.gallery import Gallery, current, saved
from cir_rt.gallery.current import CurrentIndex, save_index
from cir_rt.gallery.exact import ExactIndex
from cir_rt.gallery.index import KINDS, candidates_class

ROWS = 300
VECTORS = unit_vectors(1000, 1)
QUERIES = unit_vectors(5, 2)


@pytest.fixture(params=KINDS[1:])
def kind(request):
    needs_library(request.param)
    return request.param


@pytest.fixture
def graph():
    """The name of a kind whose library is here."""
    for name in ("hnsw", "faiss"):
        if candidates_library_is_here(name):
            return name
    pytest.skip("neither hnswlib nor faiss is installed")


def candidates_library_is_here(name):
    cls, _ = candidates_class(name)
    try:
        cls(8, cls.Settings(), device="cpu", threads=1)
    except BackendMissing:
        return False
    return True


@pytest.fixture
def gallery(tmp_path):
    return shown(tmp_path, VECTORS[:ROWS])


def keep(gallery, kind, **more):
    return save_index(gallery, kind, settings=thorough(kind), threads=1, **more)


def names(gallery):
    return sorted(path.name for path in (gallery.folder / saved.FOLDER).iterdir())


def held(gallery, kind):
    found = saved.describe(gallery.folder, kind)
    return gallery.folder / saved.FOLDER / found.file, found


def test_a_saved_index_is_loaded_as_it_was(kind, gallery, caplog):
    assert keep(gallery, kind).kind == kind
    path, found = held(gallery, kind)
    assert names(gallery) == sorted([f"{kind}.json", path.name])
    assert (found.rows, found.dim, found.segment) == (ROWS, VECTORS.shape[1], 0)
    assert found.settings["overfetch"] == 1000.0
    index = CurrentIndex(gallery, kind, threads=1)
    assert index.kind == kind
    assert f"{ROWS} of {ROWS} rows" in repr(index)
    assert is_right(index, gallery, QUERIES)
    assert not caplog.records


def test_recall_of_what_was_saved_and_extended_is_that_of_a_fresh_build(kind, tmp_path):
    vectors, queries = clustered_vectors(2000, 3), clustered_vectors(60, 4)
    grown, fresh = tmp_path / "grown", tmp_path / "fresh"
    for folder, steps in ((grown, (1000, 1500, 2000)), (fresh, (2000,))):
        folder.mkdir()
        for rows in steps:
            gallery = shown(folder, vectors[:rows])
            save_index(gallery, kind, threads=1, now=True)
    known, _ = ExactIndex(vectors).search(queries, 20)
    for folder in (grown, fresh):
        index = CurrentIndex(shown(folder, vectors), kind, threads=1)
        assert "2000 of 2000 rows" in repr(index)
        assert recall(index.search(queries, 20)[0], known) >= 0.97


def test_few_new_rows_are_not_worth_a_save(graph, gallery, monkeypatch):
    monkeypatch.setattr(current, "_LEFT_ROWS", 50)
    keep(gallery, graph)
    for rows, covered in ((340, 300), (352, 300), (354, 354), (400, 354)):
        gallery = shown(gallery.folder, VECTORS[:rows])
        keep(gallery, graph)
        assert held(gallery, graph)[1].rows == covered
        assert is_right(CurrentIndex(gallery, graph), gallery, QUERIES)
    keep(gallery, graph, now=True)
    assert held(gallery, graph)[1].rows == 400
    assert len(names(gallery)) == 2


def test_a_reader_follows_rows_deletes_saves_and_compaction(graph, gallery):
    index = CurrentIndex(gallery, graph)
    assert (index.kind, is_right(index, gallery, QUERIES)) == ("exact", True)
    keep(gallery, graph)
    index.follow(gallery)
    assert (index.kind, is_right(index, gallery, QUERIES)) == (graph, True)

    grown = shown(gallery.folder, VECTORS[:500], *range(0, 500, 3))
    index.follow(grown)
    assert f"{ROWS} of 500 rows" in repr(index)
    assert is_right(index, grown, QUERIES)
    keep(grown, graph, now=True)
    index.follow(grown)
    assert "500 of 500 rows" in repr(index)
    assert is_right(index, grown, QUERIES)

    compacted = shown(gallery.folder, VECTORS[:500][grown.live])
    compacted.segment = 1
    index.follow(compacted)
    assert (index.kind, is_right(index, compacted, QUERIES)) == ("exact", True)
    keep(compacted, graph)
    index.follow(compacted)
    assert (index.kind, is_right(index, compacted, QUERIES)) == (graph, True)
    assert len(names(compacted)) == 2


def test_a_reader_follows_a_gallery_that_went_back(graph, gallery):
    keep(gallery, graph)
    index = CurrentIndex(gallery, graph)
    for other in (
        shown(gallery.folder, VECTORS[:200]),
        shown(gallery.folder, unit_vectors(400, 5)),
    ):
        index.follow(other)
        assert (index.kind, is_right(index, other, QUERIES)) == ("exact", True)
        index.follow(gallery)
        assert (index.kind, is_right(index, gallery, QUERIES)) == (graph, True)


def test_nothing_is_read_while_nothing_changes(graph, gallery, monkeypatch):
    keep(gallery, graph)
    index = CurrentIndex(gallery, graph)
    monkeypatch.setattr(saved, "describe", None)  # fails where it is called
    index.follow(gallery)
    assert is_right(index, gallery, QUERIES)


def test_what_does_not_match_is_left_alone_by_a_reader_and_built_anew_by_the_writer(
    graph, gallery, caplog
):
    keep(gallery, graph)
    others = {
        "other rows": shown(gallery.folder, unit_vectors(ROWS, 9)),
        "fewer rows": shown(gallery.folder, VECTORS[: ROWS - 1]),
        "wider rows": shown(gallery.folder, unit_vectors(ROWS, 9, dim=32)),
    }
    renumbered = shown(gallery.folder, VECTORS[:ROWS])
    renumbered.segment = 3
    others["renumbered"] = renumbered
    for why, other in others.items():
        caplog.clear()
        index = CurrentIndex(other, graph)
        assert index.kind == "exact", why
        assert f"no saved {graph} index matches" in caplog.text
    keep(renumbered, graph)
    assert held(gallery, graph)[1].segment == 3
    index = CurrentIndex(renumbered, graph)
    assert (index.kind, is_right(index, renumbered, QUERIES)) == (graph, True)


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "missing"])
def test_a_damaged_index_is_never_searched_and_is_built_again(kind, gallery, damage, caplog):
    keep(gallery, kind)
    path, _ = held(gallery, kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        size = {"flipped": len(content), "short": len(content) - 7, "empty": 0}[damage]
        path.write_bytes(content[:size])
    index = CurrentIndex(gallery, kind)
    assert (index.kind, is_right(index, gallery, QUERIES)) == ("exact", True)
    assert str(path) in caplog.text
    caplog.clear()
    keep(gallery, kind)
    assert "built anew" in caplog.text
    index.follow(gallery)
    assert (index.kind, is_right(index, gallery, QUERIES)) == (kind, True)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 2}', '{"kind": "exact"}', "\x00\xff"]
)
def test_a_damaged_description_is_no_index(graph, gallery, text):
    keep(gallery, graph)
    description = gallery.folder / saved.FOLDER / f"{graph}.json"
    whole = json.loads(description.read_text())
    description.write_text(text)
    assert CurrentIndex(gallery, graph).kind == "exact"
    description.write_text(json.dumps({**whole, "format": 2}))
    assert CurrentIndex(gallery, graph).kind == "exact"
    keep(gallery, graph)
    assert CurrentIndex(gallery, graph).kind == graph
    assert len(names(gallery)) == 2


def test_an_index_that_is_replaced_while_it_is_read_is_taken_the_next_time(
    graph, gallery, monkeypatch
):
    keep(gallery, graph)
    whole, loads = saved.load, []

    def replaced_meanwhile(shown_, found, **options):
        if not loads:
            loads.append(found)
            keep(shown(gallery.folder, VECTORS[:400]), graph, now=True)
        return whole(shown_, found, **options)

    monkeypatch.setattr(saved, "load", replaced_meanwhile)
    grown = shown(gallery.folder, VECTORS[:400])
    index = CurrentIndex(grown, graph)
    assert (index.kind, is_right(index, grown, QUERIES)) == ("exact", True)
    index.follow(grown)
    assert "400 of 400 rows" in repr(index)


@pytest.mark.parametrize("step", range(6))
def test_a_save_that_breaks_off_leaves_what_stood(graph, gallery, monkeypatch, step):
    """Each system call of a save fails once; the next save sweeps up."""
    keep(gallery, graph)
    before = names(gallery)
    grown = shown(gallery.folder, VECTORS[:500])
    calls = []

    def failing(call):
        def wrapped(*arguments, **options):
            calls.append(call)
            if len(calls) == step + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(os.fsync))
        patched.setattr(os, "replace", failing(os.replace))
        with pytest.raises(StorageFull):
            keep(grown, graph, now=True)
    complete = step == 5  # the folder's last fsync: the new index stands already
    assert (names(grown) == before) != complete
    assert is_right(CurrentIndex(grown, graph), grown, QUERIES)
    keep(grown, graph, now=True)
    assert held(grown, graph)[1].rows == 500
    assert len(names(grown)) == 2


def test_a_short_write_of_the_library_is_noticed(gallery, monkeypatch):
    pytest.importorskip("hnswlib")
    from cir_rt.gallery.hnsw import HnswCandidates

    keep(gallery, "hnsw")
    whole = HnswCandidates.save

    class Cut:
        def __init__(self, index):
            self.index = index

        def __getattr__(self, name):
            return getattr(self.index, name)

        def save_index(self, path):
            self.index.save_index(path)
            os.truncate(path, 100)

    def cut(self, path):
        self._index = Cut(self._index)
        whole(self, path)

    monkeypatch.setattr(HnswCandidates, "save", cut)
    grown = shown(gallery.folder, VECTORS[:500])
    with pytest.raises(GalleryError, match="100 of"):
        keep(grown, "hnsw", now=True)
    assert is_right(CurrentIndex(grown, "hnsw"), grown, QUERIES)


def test_other_kinds_are_removed(graph, gallery):
    keep(gallery, graph)
    (gallery.folder / saved.FOLDER / "left.partial").write_bytes(b"x")
    assert save_index(gallery, "exact").kind == "exact"
    assert names(gallery) == []
    assert CurrentIndex(gallery).kind == "exact"


def test_auto_keeps_the_kind_that_is_saved(graph, gallery, caplog):
    assert save_index(gallery, "auto").kind == "exact"
    assert CurrentIndex(gallery).kind == "exact"
    keep(gallery, graph)
    kind, reason = save_index(gallery, "auto", threads=1)
    assert (kind, "saved already" in reason) == (graph, True)
    assert CurrentIndex(gallery).kind == graph
    assert not caplog.records


def test_auto_chooses_by_the_rows_that_live(graph, gallery, monkeypatch):
    asked = []

    def chosen(rows, device, libraries, precision):
        asked.append((rows, device, precision))
        return current.Choice(graph, "because")

    monkeypatch.setattr(current, "choose", chosen)
    gallery.live[10:] = False
    assert save_index(gallery, device="cuda:1", threads=1) == (graph, "because")
    assert asked == [(10, "cuda:1", "fp32")]
    assert CurrentIndex(gallery).kind == graph


def test_auto_leaves_an_index_whose_library_is_missing(graph, gallery, monkeypatch):
    keep(gallery, graph)

    def missing(*_, **__):
        raise BackendMissing("not here")

    monkeypatch.setattr(saved, "load", missing)
    index = CurrentIndex(gallery)
    assert (index.kind, is_right(index, gallery, QUERIES)) == ("exact", True)
    with pytest.raises(BackendMissing):
        CurrentIndex(gallery, graph)


def test_other_settings_are_built_anew(graph, gallery):
    keep(gallery, graph)
    first, _ = held(gallery, graph)
    save_index(gallery, graph, threads=1)
    assert held(gallery, graph)[0] == first  # none asked for: what is saved stays
    cls, _ = candidates_class(graph)
    save_index(gallery, graph, settings=cls.Settings(ef_construction=20), threads=1)
    assert held(gallery, graph)[1].settings["ef_construction"] == 20


def test_an_empty_gallery_has_nothing_to_save(graph, tmp_path):
    gallery = shown(tmp_path, VECTORS[:0])
    keep(gallery, graph)
    index = CurrentIndex(gallery, graph)
    assert (index.kind, len(index)) == ("exact", 0)
    everything_dead = shown(tmp_path, VECTORS[:7], *range(7))
    keep(everything_dead, graph, now=True)
    assert is_right(CurrentIndex(everything_dead, graph), everything_dead, QUERIES)


def test_an_unknown_kind_is_refused(gallery):
    for call in (CurrentIndex, save_index):
        with pytest.raises(UsageError, match="Did you mean 'hnsw'"):
            call(gallery, "hnws")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_gallery_and_its_index_live_together(graph, tmp_path, precision):
    """A reader follows a writer that adds, deletes, saves now and then, and compacts."""
    folder, dim = tmp_path / "shop.gallery", small_gallery.DIM
    queries = unit_vectors(5, 6, dim)
    options = {"fingerprint": small_gallery.MODEL, "dim": dim, "precision": precision}
    covered = set()
    with Gallery.open_writer(folder, **options) as gallery, Gallery.open(folder) as reader:
        index = CurrentIndex(reader, graph)
        for day in range(12):
            first = 20 * day
            gallery.add(small_gallery.batch(*range(first, first + 20)))
            gallery.delete([f"shoes/{n}" for n in range(first, first + 20, 3)])
            if day % 4 == 1:
                save_index(gallery, graph, settings=thorough(graph), threads=1, now=True)
            if day == 7:
                gallery.compact()
            reader.refresh()
            index.follow(reader)
            assert is_right(index, reader, queries)
            covered.add(repr(index))
        assert index.kind == graph
    assert len(covered) == 12  # each day another number of rows, or another index
