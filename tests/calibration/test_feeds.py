"""Check how calibration inputs are handed to the engines."""

from __future__ import annotations

import numpy as np
import pytest

from cir_rt.calibration.samples import BATCH, Samples, check_real
from cir_rt.errors import DataError

PAD = 0


def made(pictures: int, captions: int, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 99, (captions, 19))
    for k, row in enumerate(ids):
        row[1 + (7 * k) % 19 :] = PAD
    pixels = rng.standard_normal((pictures, 3, 5, 5), np.float32)
    return Samples(pixels=pixels, ids=ids, pad_id=PAD)


@pytest.mark.parametrize("n", [1, 7, BATCH, BATCH + 1, 111])
def test_pictures_come_in_order(n: int) -> None:
    samples = made(n, 1)
    feeds = samples.feeds("image")
    assert all(set(feed) == {"pixels"} for feed in feeds)
    assert [len(feed["pixels"]) for feed in feeds[:-1]] == [BATCH] * (len(feeds) - 1)
    assert np.array_equal(np.concatenate([feed["pixels"] for feed in feeds]), samples.pixels)


@pytest.mark.parametrize("n", [1, 7, BATCH, BATCH + 1, 111])
def test_captions_come_whole_and_hardly_padded(n: int) -> None:
    samples = made(1, n)
    feeds = samples.feeds("text")
    whole = []
    lengths = []
    for feed in feeds:
        assert set(feed) == {"ids"}
        assert feed["ids"].dtype == np.int64
        assert feed["ids"].flags.c_contiguous
        assert (feed["ids"][:, -1] != PAD).any()
        lengths.append(feed["ids"].shape[1])
        whole += [np.pad(row, (0, 19 - len(row))).tolist() for row in feed["ids"]]
    assert sorted(whole) == sorted(samples.ids.tolist())
    assert lengths == sorted(lengths)


def test_no_inputs_are_no_feeds() -> None:
    samples = made(0, 0)
    assert samples.feeds("image") == samples.feeds("text") == []


def test_a_pad_inside_a_caption_cuts_nothing() -> None:
    ids = np.array([[5, PAD, 6, PAD], [7, 8, PAD, PAD]])
    (feed,) = Samples(pixels=np.zeros((0, 3, 1, 1), np.float32), ids=ids, pad_id=PAD).feeds("text")
    assert sorted(feed["ids"].tolist()) == [[5, PAD, 6], [7, 8, PAD]]


def test_the_digest_is_of_all_inputs() -> None:
    assert made(7, 7).digest() == made(7, 7).digest()
    assert len({made(7, 7, seed).digest() for seed in range(3)} | {made(7, 8).digest()}) == 4
    changed = made(7, 7)
    changed.ids[6, 0] += 1
    assert changed.digest() != made(7, 7).digest()


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Return blobs, as smooth as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((n, 3, 4, 4), np.float32)
    return np.repeat(np.repeat(coarse, 8, 2), 8, 3)


@pytest.mark.parametrize("n", [1, 7, 19])
def test_noise_is_refused(n: int) -> None:
    ids = np.ones((1, 3), np.int64)
    check_real(Samples(pixels=pictures(n), ids=ids, pad_id=PAD), "here")
    noise = np.random.default_rng(0).standard_normal((n, 3, 32, 32), np.float32)
    with pytest.raises(DataError, match=r"here: the pictures are noise .*Give real ones"):
        check_real(Samples(pixels=noise, ids=ids, pad_id=PAD), "here")


def test_a_few_noisy_pictures_pass_and_one_picture_does_not() -> None:
    ids = np.ones((1, 3), np.int64)
    mixed = pictures(19)
    mixed[:7] = np.random.default_rng(0).standard_normal((7, 3, 32, 32), np.float32)
    check_real(Samples(pixels=mixed, ids=ids, pad_id=PAD), "here")
    check_real(Samples(pixels=np.zeros((0, 3, 8, 8), np.float32), ids=ids, pad_id=PAD), "here")
    with pytest.raises(DataError, match="all 19 pictures are the same"):
        check_real(Samples(pixels=pictures(1).repeat(19, 0), ids=ids, pad_id=PAD), "here")
