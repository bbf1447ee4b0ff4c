"""The cascade: which candidates deserve the full depth, by what the early layers say of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def survivors(early: np.ndarray, margin: float, least: int) -> np.ndarray:
    """Return which of some early scores (n,) go the full depth: (n,) bool.

    Those within `margin` of the best, and the `least` best in any case; of equal ones the earlier.
    """
    kept = early >= early.max(initial=-np.inf) - margin
    kept[np.argsort(-early, kind="stable")[:least]] = True
    return kept


class Survivors:
    """The candidates that may still go the full depth, with what is carried on of them.

    Whoever falls out never comes back, since the best score only rises: so what is held in memory
    shrinks to those who will go on.
    """

    def __init__(self, *, margin: float, least: int) -> None:
        """Begin without candidates."""
        self._margin, self._least = margin, least
        self.places = np.zeros(0, np.int64)  # among all candidates
        self._early = np.zeros(0, np.float32)
        self._held: dict[str, np.ndarray] = {}

    def add(self, start: int, early: np.ndarray, held: Mapping[str, np.ndarray]) -> None:
        """Take candidates from place `start` on: early scores (n,), and arrays with n rows."""
        scores = np.concatenate([self._early, early])
        kept = survivors(scores, self._margin, self._least)
        mine, theirs = kept[: len(self.places)], kept[len(self.places) :]
        self._early = scores[kept]
        self.places = np.append(self.places[mine], start + np.flatnonzero(theirs))
        self._held = {
            name: np.concatenate([self._held[name][mine], rows[theirs]])
            if name in self._held
            else rows[theirs]
            for name, rows in held.items()
        }

    def __len__(self) -> int:
        return len(self.places)

    def rank(self) -> None:
        """Put the best early score first, so that a deadline cuts off the least promising."""
        order = np.argsort(-self._early, kind="stable")
        self._early, self.places = self._early[order], self.places[order]
        self._held = {name: rows[order] for name, rows in self._held.items()}

    def held(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return what is carried on of survivors start to stop."""
        return {name: rows[start:stop] for name, rows in self._held.items()}
