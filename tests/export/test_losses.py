"""Hold the losses against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cir_rt.export.train import losses


def looped(logits: np.ndarray, positives: list[int], right: np.ndarray) -> float:
    """Both directions, a row at a time; right answers other than the chosen one are skipped."""
    n, m = logits.shape
    forward = backward = 0.0
    for i in range(n):
        chosen = positives[i]
        pool = [logits[i, j] for j in range(m) if j == chosen or not right[i, j]]
        forward += math.log(sum(math.exp(x - logits[i, chosen]) for x in pool))
        askers = [j for j in range(n) if j == i or not right[j, chosen]]
        backward += math.log(sum(math.exp(logits[j, chosen] - logits[i, chosen]) for j in askers))
    return (forward + backward) / (2 * n)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 7), (7, 19), (19, 7)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_contrastive_is_a_double_loop(n: int, m: int, density: float) -> None:
    rng = np.random.default_rng(n + m)
    logits = rng.standard_normal((n, m)) * 5
    positives = rng.integers(m, size=n)
    right = rng.random((n, m)) < density
    right[np.arange(n), positives] = True
    got = losses.contrastive(
        torch.from_numpy(logits), torch.from_numpy(positives), torch.from_numpy(right)
    )
    assert float(got) == pytest.approx(looped(logits, positives.tolist(), right), rel=1e-9)


def test_other_right_answers_are_neither_pulled_nor_pushed() -> None:
    logits = torch.zeros(1, 4, requires_grad=True)
    right = torch.tensor([[True, True, False, False]])
    losses.contrastive(logits, torch.tensor([0]), right).backward()
    assert logits.grad is not None
    chosen, other, *wrong = logits.grad[0].tolist()
    assert chosen < 0
    assert other == 0
    assert min(wrong) > 0


def test_queries_of_one_answer_do_not_push_each_other() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    right = torch.tensor([[True, False], [True, False]])
    losses.contrastive(logits, torch.tensor([0, 0]), right).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[0], logits.grad[1])
    assert logits.grad[0, 0] < 0


def test_contrastive_leaves_its_arguments_alone() -> None:
    right = torch.tensor([[True, True], [True, True]])
    logits = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    losses.contrastive(logits, torch.tensor([0, 1]), right)
    assert right.all()
    assert torch.equal(logits, before)


def units(n: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=-1)


def test_weight_targets_are_a_softmax_of_cosines() -> None:
    v, u, y = units(7, 0), units(7, 1), units(7, 2)
    got = losses.weight_targets(v, u, y, 0.1).numpy()
    picture = np.exp((v * y).sum(-1).numpy() / 0.1)
    words = np.exp((u * y).sum(-1).numpy() / 0.1)
    assert got == pytest.approx(np.stack([picture, words], 1) / (picture + words)[:, None])
    assert losses.weight_targets(y, u, y, 0.1)[:, 0].min() > 0.5


def test_weighting_is_a_divergence() -> None:
    targets = torch.tensor([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    rows = [0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4), 0.0, math.log(4)]
    assert float(losses.weighting(targets, weights)) == pytest.approx(sum(rows) / 3)
    assert float(losses.weighting(weights, weights)) == pytest.approx(0, abs=1e-12)
    gone = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert math.isfinite(float(losses.weighting(torch.tensor([[1.0, 0.0]]).double(), gone)))


def test_no_gradient_flows_into_the_weights_targets() -> None:
    v, u, y = (units(7, seed).requires_grad_() for seed in range(3))
    wanted = losses.weight_targets(v, u, y, 0.1)
    assert not wanted.requires_grad
    logits = torch.zeros(7, 2, dtype=torch.float64, requires_grad=True)
    losses.weighting(wanted, logits.softmax(-1)).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0
    assert v.grad is u.grad is y.grad is None
