"""Hold the batches of an epoch to what the loss takes for granted."""

from __future__ import annotations

import numpy as np
import pytest

from cir_rt.export.train.batches import Links, draw, walk

Epoch = list[tuple[np.ndarray, np.ndarray]]


def made(pictures: int, queries: int, seed: int) -> Links:
    rng = np.random.default_rng(seed)
    return Links(
        reference=rng.integers(pictures, size=queries),
        targets=tuple(
            rng.choice(pictures, rng.integers(1, min(4, pictures + 1)), replace=False)
            for _ in range(queries)
        ),
        pictures=pictures,
    )


def epoch(
    links: Links,
    *,
    pictures: int = 19,
    queries: int = 1000,
    neighbours: int = 1000,
    seed: int = 0,
) -> Epoch:
    rng = np.random.default_rng(seed)
    return list(walk(links, pictures=pictures, queries=queries, neighbours=neighbours, rng=rng))


@pytest.mark.parametrize(("pictures", "queries"), [(1, 1), (7, 19), (111, 60), (111, 989)])
@pytest.mark.parametrize("limit", [7, 19, 500])
def test_a_batch_is_whole(pictures: int, queries: int, limit: int) -> None:
    links = made(pictures, queries, seed=pictures)
    asked: list[int] = []
    shown: list[int] = []
    for rows, members in epoch(links, pictures=limit):
        assert 1 <= len(rows) <= limit
        assert len(members) >= 1
        inside = set(rows.tolist())
        assert len(inside) == len(rows)
        for query in members:
            assert links.reference[query] in inside
            assert inside & set(links.targets[query].tolist())
        asked += members.tolist()
        shown += rows.tolist()
    assert len(asked) == len(set(asked))
    assert len(shown) == len(set(shown))
    assert set(shown) <= set(range(pictures))


def test_nothing_is_lost_where_one_batch_holds_all() -> None:
    links = made(111, 300, seed=3)
    ((rows, members),) = epoch(links, pictures=111)
    assert sorted(rows) == list(range(111))
    assert sorted(members) == list(range(300))


def test_neighbours_share_a_batch() -> None:
    """Thirty products of three photos: far more stays together than chance would leave."""
    reference = np.repeat(np.arange(30) * 3, 2)
    targets = tuple(np.array([r + 1 + k % 2]) for k, r in enumerate(reference))
    links = Links(reference=reference, targets=targets, pictures=90)
    kept = sum(len(members) for _, members in epoch(links, pictures=30))
    assert kept >= 56  # at most one product is cut at each of two borders


def test_a_big_component_is_cut() -> None:
    """A chain through every picture: each batch takes a stretch of it."""
    links = Links(
        reference=np.arange(110), targets=tuple(np.array([k + 1]) for k in range(110)), pictures=111
    )
    found = epoch(links, pictures=19)
    assert len(found) == 6
    assert all(len(rows) <= 19 for rows, _ in found)
    assert sum(len(members) for _, members in found) >= 98


def test_queries_over_the_limit_are_drawn() -> None:
    links = made(7, 200, seed=1)
    ((_, members),) = epoch(links, pictures=7, queries=19)
    assert len(set(members.tolist())) == 19
    ((_, others),) = epoch(links, pictures=7, queries=19, seed=1)
    assert set(members.tolist()) != set(others.tolist())


def test_the_seed_fixes_the_epoch() -> None:
    links = made(111, 300, seed=2)
    first, again, other = (epoch(links, seed=seed) for seed in (4, 4, 5))
    for (rows, members), (rows2, members2) in zip(first, again, strict=True):
        assert np.array_equal(rows, rows2)
        assert np.array_equal(members, members2)
    assert not np.array_equal(first[0][0], other[0][0])


def test_one_generator_gives_another_epoch_each_time() -> None:
    links, rng = made(111, 300, seed=2), np.random.default_rng(0)
    first, second = (
        next(walk(links, pictures=19, queries=64, neighbours=99, rng=rng))[0] for _ in range(2)
    )
    assert set(first.tolist()) != set(second.tolist())


@pytest.mark.parametrize(("pictures", "queries"), [(2, 7), (7, 19), (111, 989)])
@pytest.mark.parametrize(("limit", "most"), [(2, 512), (19, 512), (500, 7)])
def test_an_epoch_draws_every_query_once(
    pictures: int, queries: int, limit: int, most: int
) -> None:
    links = made(pictures, queries, seed=pictures)
    asked: list[int] = []
    for rows, members in draw(links, pictures=limit, queries=most, rng=np.random.default_rng(0)):
        inside = set(rows.tolist())
        assert len(inside) == len(rows) <= limit
        assert 1 <= len(members) <= most
        for query in members:
            assert links.reference[query] in inside
            assert inside & set(links.targets[query].tolist())
        asked += members.tolist()
    assert sorted(asked) == list(range(queries))


def test_draws_follow_the_seed() -> None:
    links = made(111, 300, seed=1)
    first, second, other = (
        [m.tolist() for _, m in draw(links, pictures=19, queries=99, rng=np.random.default_rng(s))]
        for s in (0, 0, 1)
    )
    assert first == second != other
