"""The few sizes in which engines are run, so that each meets the same shapes again and again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

_LENGTHS = (4, 8, 12, 16, 20, 32, 48, 64, 96, 128, 192, 256)  # of a caption, in tokens


def first_bucket(count: int, buckets: Sequence[int]) -> int:
    """Return the size of the next run where `count` rows, at least 1, are left.

    Runs are chosen so that the fewest rows are padding, then for the fewest runs: 49 rows go as
    one run of 50, 60 as two of 32.
    """
    largest = max(buckets)
    return largest if count >= 2 * largest else _runs(count, tuple(buckets))[0]


@cache
def _runs(count: int, buckets: tuple[int, ...]) -> tuple[int, ...]:
    """Return the runs for so many rows, the largest first."""
    best: list[tuple[int, ...]] = [()]
    for rows in range(1, count + 1):
        choices = ((b, *best[max(0, rows - b)]) for b in buckets)
        best.append(min(choices, key=lambda runs: (sum(runs), len(runs))))
    return tuple(sorted(best[count], reverse=True))


def bucket_lengths(context: int) -> list[int]:
    """Return the lengths that captions are padded to; `context` is the most."""
    return [*(n for n in _LENGTHS if n < context), context]


def bucket_length(length: int, context: int) -> int:
    """Return how long a caption of so many tokens is padded to; `context` is the most."""
    return min((n for n in bucket_lengths(context) if length <= n), default=context)
