"""The sizes that the free dimensions of graphs may take, and those that plans are tuned for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cir_rt.calibration.samples import BATCH
from cir_rt.engines.plan import Profile, Range

Sizes = Mapping[str, tuple[Range, ...]]  # by the dimension's name, rising

# The first of these that a graph has gets a profile for each of its ranges.
_TUNED = ("candidates", "batch", "length")

# One for the single query, one for indexing.
BATCHES = (
    Range(minimum=1, optimum=1, maximum=1),
    Range(minimum=1, optimum=8, maximum=BATCH),
)


def rising(tuned: Sequence[int]) -> tuple[Range, ...]:
    """Return a range up to each of these sizes, tuned for it: from 1 to the last, none left out."""
    starts = [1, *(size + 1 for size in tuned)]
    return tuple(
        Range(minimum=start, optimum=size, maximum=size)
        for start, size in zip(starts, tuned, strict=False)
    )


def profiles(dimensions: set[str], sizes: Sizes) -> tuple[Profile, ...]:
    """Return the profiles of a graph with these free dimensions.

    Every profile holds all sizes of the dimensions that are not tuned, at their middle best.
    """
    tuned = next(name for name in _TUNED if name in dimensions)
    rest = {name: _whole(sizes[name]) for name in sorted(dimensions - {tuned})}
    return tuple({tuned: size, **rest} for size in sizes[tuned])


def _whole(ranges: Sequence[Range]) -> Range:
    return Range(
        minimum=ranges[0].minimum,
        optimum=ranges[len(ranges) // 2].optimum,
        maximum=ranges[-1].maximum,
    )
