"""A writer killed at any instant while it saves an index: readers are answered rightly after."""

from __future__ import annotations

import multiprocessing
import random
import time

import pytest
from small_index import DIM, is_right, needs_library, shown, thorough, unit_vectors

from cir_rt.gallery import saved
from cir_rt.gallery.current import CurrentIndex, save_index

KILLS = 8
VECTORS = unit_vectors(600, 1, DIM)
QUERIES = unit_vectors(3, 2, DIM)

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["hnswlib", "faiss", "test_index_kills"])


def save_for_ever(pipe, folder, kind, seed):
    """Let the gallery grow, be compacted and be searched with other kinds; tell of each save."""
    rng = random.Random(seed)
    while True:
        gallery = shown(folder, VECTORS[: rng.randrange(1, 600)])
        gallery.segment = rng.randrange(2)
        chosen = rng.choice([kind, kind, kind, "exact"])
        settings = None if chosen == "exact" else thorough(chosen)
        save_index(gallery, chosen, settings=settings, threads=1, now=True)
        pipe.send(len(gallery.vectors))


@pytest.mark.parametrize("kind", ["hnsw", "faiss"])
def test_a_killed_save(tmp_path, kind):
    needs_library(kind)
    rng, taken = random.Random(0), 0
    for seed in range(KILLS):
        told, pipe = _processes.Pipe(duplex=False)
        process = _processes.Process(target=save_for_ever, args=(pipe, tmp_path, kind, seed))
        process.start()
        pipe.close()
        assert told.recv()
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join()
        found = saved.describe(tmp_path, kind)
        gallery = shown(tmp_path, VECTORS[: found.rows if found else 300])
        gallery.segment = found.segment if found else 0
        index = CurrentIndex(gallery, kind, threads=1)
        assert index.kind == (kind if found else "exact")  # what is described stands whole
        assert is_right(index, gallery, QUERIES)
        taken += index.kind == kind
    assert taken
    save_index(gallery, kind, threads=1, now=True)
    names = {path.suffix for path in (tmp_path / saved.FOLDER).iterdir()}
    assert names == {".json", ".index"}
    assert len(list((tmp_path / saved.FOLDER).iterdir())) == 2
