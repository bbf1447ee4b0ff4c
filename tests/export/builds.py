"""Options of the builds that tests run, and races whose winner is known."""

from __future__ import annotations

from typing import Any

import pytest

from cir_rt.calibration.gate import Duel
from cir_rt.export.build import BuildOptions

LOOSE = 100.0  # points: these tests ask for INT8 on a handful of pictures


def options(precision: str, **settings: Any) -> BuildOptions:
    """Options of a build on one thread; cosine and agreement are free unless a test names them."""
    free = {"min_cosine": -1.0, "min_agreement": 0.0}
    return BuildOptions(precision=precision, threads=1, **{**free, **settings})


def stub_race(monkeypatch: pytest.MonkeyPatch, ratio: float, spread: float = 0.0) -> None:
    """Let every new engine take `ratio` times as long as the old one."""

    def race(before: object, after: object, **settings: object) -> Duel:
        return Duel(before_ms=1.0, after_ms=ratio, spread=spread)

    monkeypatch.setattr("cir_rt.export.build.race.duel", race)
