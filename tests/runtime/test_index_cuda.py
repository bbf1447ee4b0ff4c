"""The scan on a GPU behind the index protocol, held against the exact index bit for bit.

The kernels are the real ones, compiled for the host and run there.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import small_gallery
from host_gpu import HostGpu, compile_kernels, compiler
from small_index import SIZES, clustered_vectors, grid_vectors, shown, unit_vectors

from cir_rt.errors import BackendMissing, DeviceError, UsageError
from cir_rt.gallery import Gallery, cuda, gpu_memory
from cir_rt.gallery.cuda import OVERFETCH, CudaIndex
from cir_rt.gallery.current import CurrentIndex, save_index
from cir_rt.gallery.exact import ExactIndex
from cir_rt.gallery.gpu_memory import GpuMemory
from cir_rt.kernels.cuda import Device
from cir_rt.kernels.scan import MAX_K

MOST = MAX_K - OVERFETCH


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if compiler() is None:
        pytest.skip("neither g++ nor clang++ is here: the host harness needs one")
    return compile_kernels(tmp_path_factory.mktemp("host"))


@pytest.fixture
def gpu(library, monkeypatch):
    """A GPU on the host; `build` finds its kernels compiled."""
    host = HostGpu()
    host.install(monkeypatch)
    image = SimpleNamespace(read_bytes=lambda: str(library).encode())
    monkeypatch.setattr(cuda, "build", lambda archs: SimpleNamespace(path=image))
    return host


@pytest.fixture
def copied(monkeypatch):
    """The bytes of each copy to the GPU, as they are made."""
    sizes, put = [], GpuMemory.put

    def counted(memory, array, values, first=0):
        sizes.append(values.nbytes)
        return put(memory, array, values, first)

    monkeypatch.setattr(GpuMemory, "put", counted)
    return sizes


def full(most):
    """What `Device.allocate` does on a GPU that has no more free in one piece."""
    allocate = Device.allocate

    def refused(device, size_bytes):
        if size_bytes > most:
            raise DeviceError(f"no {size_bytes} bytes are free.")
        return allocate(device, size_bytes)

    return refused


def masks(rows, seed=3):
    draw = np.random.default_rng(seed).random(rows)
    return None, draw < 0.5, draw < 0.05, draw < 0.005, np.zeros(rows, bool)


def is_exact(index, vectors, queries, k, mask=None, exclude=None):
    """Hold an answer against the exact index, row for row and bit for bit."""
    found = index.search(queries, k, mask, exclude=exclude)
    known = ExactIndex(vectors).search(queries, k, mask, exclude=exclude)
    for a, b in zip(found, known, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    return True


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("make", [unit_vectors, grid_vectors, clustered_vectors])
def test_answers_are_those_of_the_exact_index(gpu, make, rows):
    vectors, queries = make(rows, 1), make(3, 2)
    index = CudaIndex(vectors)
    assert (index.kind, len(index)) == ("exact", rows)
    for k in (1, 10, max(1, min(rows, MOST))):
        for mask in masks(rows):
            assert is_exact(index, vectors, queries, k, mask)


def test_equal_vectors_score_equal_and_lower_rows_win(gpu):
    vectors = unit_vectors(9, 5, dim=61)[np.random.default_rng(6).integers(0, 9, 989)]
    index, queries = CudaIndex(vectors), unit_vectors(2, 7, dim=61)
    for k in (1, 13, 120, 500):
        assert is_exact(index, vectors, queries, k)


def test_a_batch_of_any_size_is_its_single_queries(gpu):
    vectors, queries = clustered_vectors(989, 8), clustered_vectors(37, 9)
    index = CudaIndex(vectors)
    assert is_exact(index, vectors, queries, 11)
    assert is_exact(index, vectors, queries[36:], 11)
    assert index.search(queries[:0], 2)[0].shape == (0, 2)


def test_excluded_rows(gpu):
    vectors = grid_vectors(111, 10)
    index, queries = CudaIndex(vectors), vectors[[4, 5, 110, 7]]
    exclude = [4, None, 110, 1 << 40]
    assert is_exact(index, vectors, queries, 20, np.arange(111) != 5, exclude)
    assert is_exact(index, vectors, queries[:2], 111, None, [4, None])
    assert is_exact(index, vectors, queries[:2], 111, None, [4, 5])


def test_queries_of_any_length_and_layout(gpu):
    vectors, queries = unit_vectors(111, 11), unit_vectors(4, 12)
    index = CudaIndex(vectors)
    queries *= np.array([[1e-15], [1e6], [0], [1e15]], np.float32)
    assert is_exact(index, vectors, queries, 30)
    assert is_exact(index, vectors, np.asfortranarray(queries), 30)
    assert is_exact(CudaIndex(np.asfortranarray(vectors)), vectors, queries, 30)


def test_the_overfetch_is_what_makes_it_exact(gpu, monkeypatch):
    vectors, queries = unit_vectors(1, 36) + unit_vectors(989, 37) / 10, unit_vectors(16, 38)
    index = CudaIndex(vectors)
    assert is_exact(index, vectors, queries, 256)
    monkeypatch.setattr(cuda, "OVERFETCH", 0)
    found, _ = index.search(queries, 256)
    assert (found != ExactIndex(vectors).search(queries, 256)[0]).any()


def test_in_a_crowd_of_near_copies_scores_are_within_the_bound(gpu):
    """Where more rows than the over-fetch lie within FP16's rounding, others of them may come."""
    rng = np.random.default_rng(13)
    vectors = unit_vectors(1, 14) + 2e-5 * rng.standard_normal((900, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = unit_vectors(1, 15)
    found, scores = CudaIndex(vectors).search(query, 20)
    known, best = ExactIndex(vectors).search(query, 20)
    assert set(found[0]) != set(known[0])  # the crowd is dense enough to show it
    assert (best - scores).max() <= 2.0**-9
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_array_equal(scores[0], (vectors[found[0]] * query).sum(axis=1))


def test_only_new_rows_are_copied_and_room_doubles(gpu, copied, monkeypatch):
    monkeypatch.setattr(cuda, "_LEAST_ROWS", 64)
    vectors, queries = unit_vectors(989, 16), unit_vectors(3, 17)
    index, held, capacities = CudaIndex(vectors[:0]), 0, set()
    for rows in (0, 1, 64, 65, 65, 111, 500, 989):
        copied.clear()
        index.extend(vectors[:rows])
        assert sum(copied) == 64 * (rows - held) + 4  # FP16, 24 numbers filled up to 32; the count
        held = rows
        capacities.add(index._numbers.shape[0])
        for mask in (None, np.random.default_rng(rows).random(rows) < 0.5):
            assert is_exact(index, vectors[:rows], queries, 10, mask)
    assert sorted(capacities) == [0, 64, 128, 500, 1000]


def test_rows_beyond_one_copy(gpu, monkeypatch):
    vectors = unit_vectors(989, 18)
    monkeypatch.setattr(gpu_memory, "STAGED_BYTES", 6000)
    monkeypatch.setattr(cuda, "_BLOCK_NUMBERS", 32 * 300)
    monkeypatch.setattr(cuda, "MAX_K", 100)
    assert is_exact(CudaIndex(vectors), vectors, unit_vectors(5, 19), 20, masks(989)[1])


def test_a_mask_is_copied_when_another_comes(gpu, copied):
    vectors, queries = unit_vectors(989, 20), unit_vectors(1, 21)
    index, (_, half, few, *_) = CudaIndex(vectors), masks(989)
    half.flags.writeable = False
    bits = 4 * -(-989 // 32)
    for mask, expected in ((half, 1), (half, 0), (None, 0), (half, 0), (few, 1), (few, 1)):
        copied.clear()
        assert is_exact(index, vectors, queries, 10, mask)
        assert copied.count(bits) == expected
    few[:] = ~few  # may be written to, and is
    assert is_exact(index, vectors, queries, 10, few)


def test_more_than_the_scan_names_is_refused(gpu):
    vectors, queries = unit_vectors(1100, 22), unit_vectors(1, 23)
    index = CudaIndex(vectors)
    assert is_exact(index, vectors, queries, MOST)
    with pytest.raises(UsageError, match=rf"k = {MOST + 1} of 1,100 rows.*index='hnsw'"):
        index.search(queries, MOST + 1)
    assert is_exact(index, vectors, queries, 2000, np.arange(1100) < MAX_K)
    with pytest.raises(UsageError, match=r"1,025 rows"):
        index.search(queries, 2000, np.arange(1100) < MAX_K + 1)


@pytest.mark.parametrize("queries", [np.zeros((1, 3), "f4"), np.full((1, 24), np.nan, "f4")])
def test_wrong_calls_are_refused(gpu, queries):
    with pytest.raises(UsageError, match="Expected"):
        CudaIndex(unit_vectors(7, 24)).search(queries, 1)


def test_memory_that_does_not_suffice(gpu, monkeypatch):
    """The error says what to type, and what was there before is searched on."""
    vectors, queries, allocate = unit_vectors(2000, 26), unit_vectors(1, 27), Device.allocate
    index = CudaIndex(vectors[:100])
    monkeypatch.setattr(Device, "allocate", full(100_000))
    with pytest.raises(DeviceError, match=r"free\. Free memory on the GPU, or.*index='hnsw'"):
        index.extend(vectors)
    with pytest.raises(DeviceError, match="index='hnsw'"):
        index.search(queries, 5)  # the scan's own
    held = set(gpu.live)
    with pytest.raises(DeviceError, match="Free memory"):
        CudaIndex(vectors)
    assert set(gpu.live) == held
    monkeypatch.setattr(Device, "allocate", allocate)
    assert is_exact(index, vectors[:100], queries, 5)


def test_without_nvcc_or_that_gpu(gpu, monkeypatch):
    def missing(archs):
        raise BackendMissing("nvcc is not found. Install it.")

    monkeypatch.setattr(cuda, "build", missing)
    with pytest.raises(BackendMissing, match=r"nvcc.*Or search on the CPU:  index='hnsw'"):
        CudaIndex(unit_vectors(7, 28))
    with pytest.raises(BackendMissing, match="cuda:1"):
        CudaIndex(unit_vectors(7, 28), "cuda:1")


def test_close_frees_all_memory(gpu, monkeypatch):
    buffers, allocate = [], Device.allocate

    def counted(device, size_bytes):
        buffer = allocate(device, size_bytes)
        buffers.append(weakref.ref(buffer))
        return buffer

    monkeypatch.setattr(Device, "allocate", counted)
    index = CudaIndex(unit_vectors(111, 29))
    index.search(unit_vectors(1, 30), 5)
    index.close()
    index.close()
    assert len(buffers) > 7
    assert not [b for b in buffers if b() is not None and b()._allocation is not None]


def test_a_gallery_on_a_gpu_is_followed(gpu, tmp_path, copied):
    """The store itself grows, loses pictures and is compacted, under `auto` and `exact`."""
    queries = unit_vectors(3, 31, dim=small_gallery.DIM)
    row = 2 * 32  # bytes: FP16, 8 numbers filled up to 32
    with small_gallery.writer(tmp_path / "g") as written:
        gallery = Gallery.open(tmp_path / "g")
        indexes = [CurrentIndex(gallery, kind, device="cuda:0") for kind in ("auto", "exact")]
        changes = (
            (lambda: written.add(small_gallery.batch(*range(9))), 9 * row + 4),
            (lambda: written.add(small_gallery.batch(*range(7, 20))), 11 * row + 4),
            (lambda: written.delete(["shoes/3", "shoes/11"]), 4),
            (written.compact, 18 * row + 4),
            (lambda: None, 0),
        )
        for change, expected in changes:
            change()
            gallery.refresh()
            for index in indexes:
                copied.clear()
                index.follow(gallery)
                assert sum(copied) == expected
                assert (index.kind, len(index)) == ("exact", len(gallery.vectors))
                assert "on cuda:0, Host GPU" in repr(index)
                assert is_exact(index, gallery.vectors, queries, 5, gallery.live)
        for index in indexes:
            index.close()
        gallery.close()


def test_where_a_change_does_not_fit_the_next_look_tries_again(gpu, tmp_path, monkeypatch):
    vectors, allocate = unit_vectors(2000, 34), Device.allocate
    index = CurrentIndex(shown(tmp_path, vectors[:100]), device="cuda")
    for gallery in (shown(tmp_path, vectors), replace(shown(tmp_path, vectors), segment=1)):
        monkeypatch.setattr(Device, "allocate", full(100_000))
        for _ in range(2):
            with pytest.raises(DeviceError, match="Free memory"):
                index.follow(gallery)
        monkeypatch.setattr(Device, "allocate", allocate)
        index.follow(gallery)
        assert is_exact(index, vectors, unit_vectors(1, 35), 5)


def test_a_saved_index_answers_where_it_is_asked_for_by_name(gpu, tmp_path):
    pytest.importorskip("hnswlib")
    gallery = shown(tmp_path, unit_vectors(111, 32))
    save_index(gallery, "hnsw", threads=1, now=True)
    for kind, told in (("auto", "CudaIndex"), ("exact", "CudaIndex"), ("hnsw", "hnsw, 111 of 111")):
        index = CurrentIndex(gallery, kind, device="cuda:0")
        assert told in repr(index)
        index.close()


def test_a_cpu_imports_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "cir_rt.gallery.cuda")
    CurrentIndex(shown(tmp_path, unit_vectors(7, 33))).close()
    assert "cir_rt.gallery.cuda" not in sys.modules
