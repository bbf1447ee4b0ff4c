"""Training recipes as values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from cir_rt.config import from_dict
from cir_rt.errors import ConfigError, UsageError
from cir_rt.export.checkpoint import TowerSpec
from cir_rt.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class Progressive:
    """Stage 3 of the progressive system: composed queries, with a title loss beside them.

    Loss terms: retrieval + `weighting` * KL(self-supervised weights || gate) + `titles` * NCE
    between pictures and their descriptive phrases.
    """

    image: TowerSpec = field(
        default_factory=lambda: TowerSpec(
            kind="conv", settings={"stem": 32, "widths": [64, 128, 224], "dropout": 0.1}
        )
    )
    text: TowerSpec = field(default_factory=lambda: TowerSpec(kind="transformer"))
    preprocess: Preprocess = field(default_factory=Preprocess)
    dim: int = 256
    vocabulary: int = 2000  # word pieces learnt from the captions and labels
    context: int = 48

    epochs: int = 60
    pictures: int = 256  # a batch's pictures; its queries are those that stay within them
    queries: int = 512  # at most so many of a batch's queries
    neighbours: int = 0  # 0: an epoch draws every query once; else it walks so many pictures on
    learning_rate: float = 1.5e-3
    tower_learning_rate: float = 1e-5  # for towers that start from a checkpoint
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the run

    titles: float = 1.0
    weighting: float = 1.0
    weighting_temperature: float = 0.1
    held_out: float = 0.0  # share of the products that are kept to set the gate with, at the end
    augment: Mapping[str, Any] = field(default_factory=dict)  # settings of augment.Augment


RECIPES = {"progressive": Progressive}


def read_recipe(name: str, config: Path | None = None) -> Progressive:
    """Return a recipe by name, with settings from a TOML file.

    Raises UsageError for an unknown name, ConfigError for a file or setting that does not fit.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe '{name}'. Known: {', '.join(RECIPES)}.")
    if config is None:
        return RECIPES[name]()
    try:
        values = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{config}: not readable as TOML ({error}).") from error
    return from_dict(RECIPES[name], values, config.name)
