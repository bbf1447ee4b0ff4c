"""Check the training arrays against the runtime's own way of reading."""

from __future__ import annotations

import numpy as np
import pytest

from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.data.dataset import Dataset, Query
from cir_rt.export.train.batches import Links
from cir_rt.export.train.examples import Examples, load_pixels, read_examples, texts_of, variants
from cir_rt.preprocess import Preprocess


def query(*captions: str) -> Query:
    return Query(reference="a", captions=captions, targets=("b",), group="all")


def test_variants_are_each_caption_and_every_order() -> None:
    assert variants(query("x")) == ("x",)
    assert variants(query("x", "y")) == ("x", "y", "x and y", "y and x")


@pytest.fixture(scope="module")
def examples(drawn: Dataset, checkpoint: Checkpoint) -> Examples:
    return read_examples(
        drawn, drawn.split("val"), checkpoint.config.preprocess, checkpoint.tokenizer()
    )


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_training_sees_what_the_runtime_sees(drawn: Dataset, fit: str) -> None:
    preprocess = Preprocess(size=31, fit=fit, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    paths = drawn.paths(drawn.split("val").pictures[:19])
    pixels = load_pixels(paths, preprocess)
    assert (pixels.shape, pixels.dtype) == ((19, 31, 31, 3), np.uint8)
    assert np.array_equal(pixels, np.stack([preprocess.pixels(path) for path in paths]))
    assert np.array_equal(preprocess.normalise(pixels), preprocess(paths))


def test_pixels_report_their_progress(drawn: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    paths = drawn.paths(drawn.split("val").pictures[:3])
    load_pixels(paths, Preprocess(size=8), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_rows_lead_back_to_the_dataset(
    drawn: Dataset, checkpoint: Checkpoint, examples: Examples
) -> None:
    split, tokenizer = drawn.split("val"), checkpoint.tokenizer()
    pictures = list(split.pictures)  # every drawn picture carries labels
    assert examples.links.pictures == len(examples.pixels) == len(pictures)
    assert len(examples.ids) == len(set(texts_of(drawn, split)))
    for k, asked in enumerate(split.queries):
        assert pictures[examples.links.reference[k]] == asked.reference
        assert [pictures[t] for t in examples.links.targets[k]] == list(asked.targets)
        rows = examples.captions[k]
        expected = tokenizer(variants(asked), truncate=True)
        assert np.array_equal(examples.ids[rows][:, : expected.shape[1]], expected)
    for k in (0, len(pictures) - 1):
        expected = tokenizer(drawn.labels[pictures[k]], truncate=True)
        assert np.array_equal(examples.ids[examples.phrases[k]][:, : expected.shape[1]], expected)


def test_tokens_are_cut_to_the_longest(checkpoint: Checkpoint, examples: Examples) -> None:
    lengths = (examples.ids != 0).sum(1)
    rows = np.argsort(lengths, kind="stable")[:7]
    got = examples.tokens(rows, 0)
    assert got.shape == (7, lengths[rows].max())
    assert got.shape[1] < examples.ids.shape[1]
    assert np.array_equal(got, examples.ids[rows, : got.shape[1]])
    assert examples.tokens(np.arange(len(lengths)), 0).shape == examples.ids.shape


def test_a_pad_inside_a_caption_cuts_nothing() -> None:
    """A tokenizer may pad with a piece that captions hold as well, as CLIP's own did."""
    ids = np.array([[5, 9, 1, 9], [9, 5, 2, 4], [5, 9, 9, 9]])
    links = Links(reference=np.zeros(0, np.int64), targets=(), pictures=0)
    nothing = np.zeros((0, 1, 1, 3), np.uint8)
    products = np.zeros(0, np.int64)
    made = Examples(
        names=(), pixels=nothing, ids=ids, links=links, captions=(), phrases=(), products=products
    )
    assert np.array_equal(made.tokens(np.array([0, 2]), 9), ids[[0, 2], :3])
    assert np.array_equal(made.tokens(np.array([1]), 9), ids[[1]])
