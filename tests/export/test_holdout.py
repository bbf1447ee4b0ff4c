"""Check the products that are kept from the towers, and the gate that is set on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cir_rt.errors import ConfigError
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.evaluate import evaluate
from cir_rt.export.models.encoder import TorchEncoder
from cir_rt.export.models.storage import load_model
from cir_rt.export.train.batches import Links
from cir_rt.export.train.examples import read_examples
from cir_rt.export.train.holdout import hold_out, set_gate

PRODUCTS = 20
LINKS = Links(  # product p is the pictures 3p, 3p + 1, 3p + 2, asked for in a chain
    reference=np.asarray([3 * p + i for p in range(PRODUCTS) for i in (0, 1)]),
    targets=tuple(np.asarray([3 * p + i + 1]) for p in range(PRODUCTS) for i in (0, 1)),
    pictures=3 * PRODUCTS,
)


def test_whole_products_are_held_out() -> None:
    held = hold_out(LINKS, 0.3, np.random.default_rng(0))
    assert held.sum() == 12  # of 40 queries
    per_product = held.reshape(PRODUCTS, 2).sum(1)
    assert set(per_product.tolist()) == {0, 2}


def test_the_seed_chooses() -> None:
    first, again, other = (hold_out(LINKS, 0.3, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_is_held_out_unless_said() -> None:
    assert not hold_out(LINKS, 0.0, np.random.default_rng(0)).any()


def test_a_product_larger_than_the_share_is_passed_over() -> None:
    big = Links(
        reference=np.asarray([0] * 9 + [4]),
        targets=tuple(np.asarray([t]) for t in [1, 2, 3] * 3 + [5]),
        pictures=6,
    )
    for seed in range(5):
        held = hold_out(big, 0.5, np.random.default_rng(seed))
        assert np.flatnonzero(held).tolist() == [9]
    with pytest.raises(ConfigError, match="keeps no product"):
        hold_out(big, 0.05, np.random.default_rng(0))


@pytest.mark.parametrize("push", [-1.5, 1.5])
def test_a_gate_that_leans_too_far_is_set_right(
    drawn: Dataset, checkpoint: Checkpoint, push: float
) -> None:
    split = drawn.split("val")
    model = load_model(checkpoint)
    encoder = TorchEncoder(model, checkpoint.tokenizer())
    examples = read_examples(drawn, split, checkpoint.config.preprocess, checkpoint.tokenizer())
    set_gate(model, examples)
    right = float(model.compose.gate.bias[0].detach())
    best = evaluate(encoder, drawn, split).mean
    with torch.no_grad():
        model.compose.gate.bias[0] += push
    leaning = evaluate(encoder, drawn, split).mean
    shift = set_gate(model, examples)
    assert shift == pytest.approx(-push, abs=0.051)
    assert float(model.compose.gate.bias[0].detach()) == pytest.approx(right, abs=0.051)
    assert evaluate(encoder, drawn, split).mean == pytest.approx(best, abs=1.0)
    assert leaning < best
