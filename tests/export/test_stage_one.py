"""Check stage I: what a caption reads in a reference, and what padding and batches leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import run_exported
from grounded_models import captions, config, lengths, stirred, tokens

from cir_rt.export.models.prune import Prune


@pytest.fixture(scope="module")
def prune() -> Any:
    return stirred(Prune(config()))


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() < 1e-5


@torch.inference_mode()
def test_queries_are_z_projected(prune: Prune) -> None:
    ids, seen = captions(7, 11), tokens(7, 5)
    z = prune.read(seen, ids)
    assert z.shape == (7, 11, 32)
    wanted = z[:, 0] @ prune.project.weight.T + prune.project.bias
    assert_close(prune(seen, ids), wanted / wanted.norm(dim=-1, keepdim=True))


@torch.inference_mode()
def test_a_batch_is_its_rows_and_padding_nothing(prune: Prune) -> None:
    ids, seen = captions(7, 11), tokens(7, 5)
    together, z = prune(seen, ids), prune.read(seen, ids)
    for k, length in enumerate(lengths(ids)):
        alone = ids[k : k + 1, :length]
        assert_close(together[k], prune(seen[k : k + 1], alone)[0])
        assert_close(z[k, :length], prune.read(seen[k : k + 1], alone)[0])
    assert torch.equal(prune.mask(ids), ids != 0)


@torch.inference_mode()
def test_the_first_token_is_replaced_whatever_it_is(prune: Prune) -> None:
    ids, seen = captions(3, 7), tokens(3, 5)
    other = ids.clone()
    other[:, 0] = torch.tensor([0, 5, 9])
    assert torch.equal(prune(seen, other), prune(seen, ids))
    assert prune.mask(other)[:, 0].all()
    empty = torch.zeros(1, 4, dtype=torch.int64)
    assert_close(prune(seen[:1], empty), prune(seen[:1], empty[:, :1]))


@torch.inference_mode()
def test_picture_and_the_order_of_words_count_not_the_order_of_places(prune: Prune) -> None:
    ids, seen = captions(1, 7), tokens(1, 5)
    q = prune(seen, ids)
    assert (q - prune(seen.roll(1, 2), ids)).abs().max() > 1e-3
    assert (q - prune(seen, torch.cat([ids[:, :1], ids[:, 1:].flip(1)], 1))).abs().max() > 1e-3
    assert_close(q, prune(seen.flip(1), ids))


def test_everything_learns(prune: Prune) -> None:
    prune.zero_grad()
    (prune(tokens(3, 5), captions(3, 7)) @ torch.randn(20, 1)).sum().backward()
    flat = [name for name, p in prune.named_parameters() if p.grad is None or not p.grad.any()]
    assert not flat
    prune.zero_grad()


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="width 32 is not a multiple of heads 5"):
        config(heads=5)
    for enc in (0, 111):
        with pytest.raises(ValueError, match=f"enc_id {enc}: expected a piece below"):
            config(enc_id=enc)


def test_the_graph_is_the_module_at_any_size(tmp_path: Path) -> None:
    prune: Any = stirred(Prune(config(layers=1)))
    free = {0: "batch", 1: "places"}, {0: "batch", 1: "length"}
    run = run_exported(prune, (tokens(2, 5), captions(2, 7)), free, tmp_path)
    for n, places, length in ((1, 5, 1), (3, 9, 7), (7, 5, 19)):
        given = tokens(n, places), captions(n, length)
        with torch.inference_mode():
            wanted = prune(*given).numpy()
        assert np.abs(run(*given) - wanted).max() < 1e-5
