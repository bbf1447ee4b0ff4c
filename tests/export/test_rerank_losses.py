"""Hold the re-ranker's losses against plain loops, and its negatives against their words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cir_rt.export.train import losses, negatives
from cir_rt.export.train.losses import query_to_target
from cir_rt.export.train.rerank_losses import hard_negatives


def looped(logits: np.ndarray, positives: list[int], right: np.ndarray) -> list[float]:
    """One row at a time; right answers other than the chosen one are skipped."""
    found = []
    for row, chosen, also in zip(logits, positives, right, strict=True):
        pool = [x for j, x in enumerate(row) if j == chosen or not also[j]]
        found.append(math.log(sum(math.exp(x - row[chosen]) for x in pool)))
    return found


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 7), (7, 19), (19, 7)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_query_to_target_is_a_loop(n: int, m: int, density: float) -> None:
    rng = np.random.default_rng(n + m)
    logits, weights = rng.standard_normal((n, m)) * 5, rng.random(n) + 0.1
    positives = rng.integers(m, size=n)
    right = rng.random((n, m)) < density
    given = [torch.from_numpy(x) for x in (logits, positives, right)]
    wanted = looped(logits, positives.tolist(), right)
    assert float(query_to_target(*given)) == pytest.approx(np.mean(wanted), rel=1e-9)
    weighted = query_to_target(*given, torch.from_numpy(weights))
    assert float(weighted) == pytest.approx(np.average(wanted, weights=weights), rel=1e-9)


def test_both_directions_together_are_contrastive() -> None:
    logits = torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, right = torch.arange(7), torch.eye(7, dtype=torch.bool)
    both = (query_to_target(logits, rows, right) + query_to_target(logits.T, rows, right)) / 2
    assert float(both) == pytest.approx(float(losses.contrastive(logits, rows, right)))


def test_targets_are_not_told_their_queries() -> None:
    """Two queries of one answer do not push each other, and columns that nobody asks for may."""
    logits = torch.zeros(2, 3, requires_grad=True)
    query_to_target(logits, torch.tensor([0, 0]), torch.eye(3, dtype=torch.bool)[[0, 1]]).backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-1 / 3, 1 / 6, 1 / 6])
    assert logits.grad[1].tolist() == pytest.approx([-1 / 4, 0, 1 / 4])


@pytest.mark.parametrize(("n", "count"), [(1, 1), (7, 19)])
def test_hard_negatives_are_a_loop(n: int, count: int) -> None:
    rng = np.random.default_rng(count)
    scores, left_out = rng.standard_normal((n, 1 + count)) * 3, rng.random((n, count)) < 0.4
    wanted = []
    for row, out in zip(scores, left_out, strict=True):
        pool = [row[0], *(x for x, skip in zip(row[1:], out, strict=True) if not skip)]
        wanted.append(math.log(sum(math.exp(x) for x in pool)) - row[0])
    got = hard_negatives(torch.from_numpy(scores), torch.from_numpy(left_out))
    assert float(got) == pytest.approx(np.mean(wanted), rel=1e-9)
    none = hard_negatives(torch.from_numpy(scores), torch.ones(n, count, dtype=torch.bool))
    assert float(none) == 0


def test_negatives_are_wrong_and_ranked_high() -> None:
    rng = np.random.default_rng(0)
    ranking = np.stack([rng.permutation(111)[:19] for _ in range(7)])
    right = [best[rng.permutation(19)[:k]] for k, best in enumerate(ranking)]
    drawn = [negatives.draw(ranking, right, 13, rng) for _ in range(50)]
    for k, (best, answers) in enumerate(zip(ranking, right, strict=True)):
        wrong = set(best) - set(answers)
        seen = set()
        for rows, left_out in drawn:
            kept = rows[k][~left_out[k]]
            assert len(set(kept)) == len(kept) == min(13, len(wrong))
            assert set(rows[k]) <= set(best)
            seen |= set(kept)
        assert seen == wrong  # all of them come up


def test_negatives_may_all_be_right() -> None:
    rows, left_out = negatives.draw(
        np.array([[3, 5]]), [np.array([5, 3, 8])], 4, np.random.default_rng(0)
    )
    assert rows.tolist() == [[3] * 4]
    assert left_out.all()
