"""Shape a garment: its cloth parts, seams and buttons, in body units.

A body unit is about twice a shoulder's width; x runs right from the middle, y down from the
shoulders (or the waist). Points are float arrays, shape (n, 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Be one piece of cloth: its outline, the turn of its weave, and how bright it lies."""

    outline: np.ndarray
    turn: float = 0.0
    tone: float = 1.0
    woven: bool = True


@dataclass(frozen=True, kw_only=True)
class Seam:
    """Be one line upon the cloth; `width` in body units, `strength` from 0 to 1."""

    points: np.ndarray
    width: float = 0.012
    strength: float = 0.5
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Silhouette:
    """Hold all of a garment's shapes, back to front.

    `waist` is the height from which folds fall, `fall` how strong they are; `top` and `bottom`
    bound the drawing; `hook` is where a hanger holds it, `span` the half width it holds.
    """

    parts: list[Part] = field(default_factory=list)
    seams: list[Seam] = field(default_factory=list)
    buttons: list[Point] = field(default_factory=list)
    waist: float = 0.8
    fall: float = 0.5
    top: float = -0.1
    bottom: float = 1.3
    reach: float = 1.3
    span: float = 0.4
    clipped: bool = False


def bend(start: Point, pull: Point, end: Point, steps: int = 9) -> np.ndarray:
    """Trace a quadratic Bezier curve from `start` to `end`; shape (steps, 2)."""
    t = np.linspace(0.0, 1.0, steps)[:, None]
    a, b, c = np.array(start), np.array(pull), np.array(end)
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c


def trace(*pieces: np.ndarray | Sequence[Point]) -> np.ndarray:
    """Join curves and points into one line; shape (n, 2)."""
    return np.concatenate([np.asarray(piece, dtype=float).reshape(-1, 2) for piece in pieces])


def mirror(points: np.ndarray) -> np.ndarray:
    """Reflect a line on the middle and turn its direction, so that it continues its original."""
    return points[::-1] * np.array([-1.0, 1.0])
