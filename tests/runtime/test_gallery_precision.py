"""What a gallery's numbers are on disk and as they are read: vectors and candidate tokens."""

from __future__ import annotations

import numpy as np
import pytest
from small_gallery import DIM, MODEL, item, vector

from cir_rt.errors import GalleryError, GalleryMismatch, UnknownId, UsageError
from cir_rt.gallery import Gallery
from cir_rt.gallery.facts import TokenFormat
from cir_rt.gallery.rowformat import PRECISIONS, RowFormat

TOKENS = TokenFormat(fingerprint="feedface" * 8, count=3, width=5)
ERRORS = {"fp32": 0.0, "fp16": 2**-11, "int8": 0.5 / 127}  # of the largest number of a run


def opened(folder, **changes):
    fields = {"fingerprint": MODEL, "dim": DIM, "tokens": TOKENS, **changes}
    return Gallery.open_writer(folder, **fields)


def token_array(seed):
    return np.random.default_rng(seed).standard_normal((3, 5)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "shoes.gallery"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(1,), (7,), (111,), (5, 19)])
def test_numbers_round_trip(precision, shape):
    row_format = RowFormat(precision=precision, shape=shape)
    rng = np.random.default_rng(0)
    numbers = (rng.standard_normal((9, *shape)) * 10.0 ** rng.integers(-3, 3)).astype("f4")
    numbers[4] = 0
    stored = row_format.encode(numbers)
    assert stored.nbytes == 9 * row_format.row_bytes
    found = row_format.decode(stored)
    assert (found.dtype, found.shape) == (np.float32, numbers.shape)
    largest = np.abs(numbers).max(-1, keepdims=True)
    assert (np.abs(found - numbers) <= largest * ERRORS[precision] * (1 + 1e-5) + 1e-7).all()
    np.testing.assert_array_equal(row_format.decode(stored[3]), found[3])
    np.testing.assert_array_equal(row_format.encode(found), stored)


def test_int8_by_hand():
    row_format = RowFormat(precision="int8", shape=(3,))
    stored = row_format.encode(np.array([[127, -63.6, 0.4]], np.float32))
    assert stored.tobytes() == np.float32(1).tobytes() + bytes([127, 192, 0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_vectors_index_like_an_array(folder, precision):
    with opened(folder, precision=precision) as gallery:
        gallery.add([item(f"{n}", n) for n in range(19)])
    with Gallery.open(folder) as gallery:
        vectors = gallery.vectors
        assert (vectors.shape, len(vectors), vectors.precision) == ((19, DIM), 19, precision)
        whole = np.asarray(vectors)
        assert np.abs(whole - [vector(n) for n in range(19)]).max() <= ERRORS[precision]
        mask = np.arange(19) % 3 == 0
        for rows in (3, -1, slice(2, 9), slice(None), slice(0, 0), np.array([7, 7, 0]), mask):
            np.testing.assert_array_equal(vectors[rows], whole[rows])
            assert vectors[rows].dtype == np.float32
        np.testing.assert_array_equal(vectors[np.array([-1, 2])], whole[[-1, 2]])
        for outside in (19, np.array([19]), np.array([-20])):
            with pytest.raises(IndexError):
                vectors[outside]
        assert np.shares_memory(vectors[2:5], vectors[3:4]) == (precision == "fp32")
        assert (folder / "vectors" / f"000000.{PRECISIONS[precision]}").is_file()


def test_precision_is_chosen_once(folder):
    with pytest.raises(UsageError, match="fp32, fp16, int8"):
        opened(folder, precision="int4")
    assert not folder.exists()
    opened(folder, precision="int8").close()
    with opened(folder) as gallery:
        assert gallery.precision == "int8"
    with pytest.raises(GalleryMismatch, match="vectors in int8, not in fp32"):
        opened(folder, precision="fp32")


def test_what_fp16_cannot_hold_is_refused(folder):
    with opened(folder, precision="fp16") as gallery:
        with pytest.raises(GalleryError, match=r"1e\+06 do not fit fp16"):
            gallery.add([item("big", vector=np.full(DIM, 1e6, np.float32))])
        assert (gallery.generation, len(gallery)) == (0, 0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tokens_come_with_the_picture_or_later(folder, precision):
    tokens = TokenFormat(fingerprint="a", count=3, width=5, precision=precision)
    with opened(folder, tokens=tokens) as gallery:
        gallery.add([item(f"{n}", n, tokens=token_array(n) if n % 2 else None) for n in range(6)])
        with Gallery.open(folder) as reader:
            assert gallery.ids_without_tokens() == ["0", "2", "4"]
            gallery.add_tokens({"4": token_array(4), "0": token_array(0)})
            with pytest.raises(GalleryError, match="row 4 has no candidate tokens"):
                reader.tokens([4])  # still at its own generation
            reader.refresh()
            found = reader.tokens([4, 1, 0])
            assert reader.ids_without_tokens() == ["2"]
        expected = np.stack([token_array(n) for n in (4, 1, 0)])
        assert np.abs(found - expected).max() <= ERRORS[precision] * np.abs(expected).max()
        located = gallery.located_tokens([4, 1, 0], fingerprint="a")
        np.testing.assert_array_equal(tokens.rows.decode(located.read(0, 3)), found)
        np.testing.assert_array_equal(tokens.rows.decode(located.read(1, 2)), found[1:2])
        with pytest.raises(GalleryMismatch, match="the re-ranker at hand is b"):
            gallery.located_tokens([4], fingerprint="b")
        assert gallery.tokens([]).shape == (0, 3, 5)
        generation = gallery.generation
        gallery.add_tokens({"4": token_array(4)})
        assert gallery.generation == generation
        with pytest.raises(GalleryError, match="has other tokens already"):
            gallery.add_tokens({"4": token_array(5)})
        gallery.add([item("4", 40)])  # another picture: its tokens are not the old one's
        assert gallery.ids_without_tokens() == ["2", "4"]
        assert gallery.verify() == []


def test_tokens_that_do_not_belong_are_refused(folder):
    with Gallery.open_writer(folder, fingerprint=MODEL, dim=DIM) as gallery:
        with pytest.raises(GalleryError, match="the gallery keeps none"):
            gallery.add([item("0", tokens=token_array(0))])
        gallery.add([item("0")])
        with pytest.raises(GalleryError, match="keeps no candidate tokens"):
            gallery.tokens([0])
    with pytest.raises(GalleryMismatch, match="keeps no candidate tokens"):
        Gallery.open(folder, token_fingerprint="a")
    with opened(folder) as gallery:
        for bad in (np.zeros((3, 5)), np.zeros((5, 3), "f4"), np.full((3, 5), np.nan, "f4")):
            with pytest.raises(GalleryError, match="tokens"):
                gallery.add_tokens({"0": bad})
        with pytest.raises(UnknownId):
            gallery.add_tokens({"7": token_array(0)})
        assert gallery.ids_without_tokens() == ["0"]
    Gallery.open(folder, token_fingerprint=TOKENS.fingerprint).close()
    with pytest.raises(GalleryMismatch, match=r"of model feedfacefeed; the re-ranker .* other"):
        Gallery.open(folder, token_fingerprint="other")
    wider = TokenFormat(fingerprint=TOKENS.fingerprint, count=3, width=6)
    with pytest.raises(GalleryMismatch, match="width=5"):
        opened(folder, tokens=wider)
    with pytest.raises(UsageError):
        TokenFormat(fingerprint="a", count=0, width=6)


def test_an_identical_add_does_nothing(folder):
    batch = [item(f"{n}", n, tokens=token_array(n), metadata={"n": n}) for n in range(3)]
    with opened(folder) as gallery:
        gallery.add(batch)
        before = gallery.generation, gallery.size_bytes
        gallery.add(batch)
        gallery.add(batch[:1])
        assert (gallery.generation, gallery.size_bytes) == before
        gallery.add([*batch, item("3", 3)])
        assert (gallery.generation, len(gallery.live)) == (before[0] + 1, 4)
        for changes in ({"metadata": {}}, {"source_hash": "0"}, {"vector": vector(9)}):
            gallery.add([item("0", 0, **{"metadata": {"n": 0}, **changes})])
        assert len(gallery.live) == 7
