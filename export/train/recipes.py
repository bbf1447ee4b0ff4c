"""Training recipes as values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from cir_rt.config import from_dict
from cir_rt.errors import ConfigError, UsageError
from cir_rt.export.checkpoint import TowerSpec
from cir_rt.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every recipe sets: towers, batches, optimizer."""

    system: ClassVar[str]

    image: TowerSpec = field(
        default_factory=lambda: TowerSpec(
            kind="conv", settings={"stem": 32, "widths": [64, 128, 224], "dropout": 0.1}
        )
    )
    text: TowerSpec = field(default_factory=lambda: TowerSpec(kind="transformer"))
    preprocess: Preprocess = field(default_factory=Preprocess)
    dim: int = 256  # of the towers' vectors
    vocabulary: int = 2000  # word pieces learnt from the captions and labels
    context: int = 48
    frozen: bool = False  # whether the image tower, which then needs an --init, stays as it is
    read_once: bool = False  # a frozen tower's answers are kept in memory, without augmentation

    epochs: int = 60
    pictures: int = 256  # a batch's pictures; its queries are those that stay within them
    queries: int = 512  # at most so many of a batch's queries
    neighbours: int = 0  # 0: an epoch draws every query once; else it walks so many pictures on
    accumulate: int = 1  # batches whose gradients make one step
    learning_rate: float = 1.5e-3
    tower_learning_rate: float = 1e-5  # for towers that start from a checkpoint
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of a stage
    average: float = 0.0  # decay of the weights' moving average, which is what is kept; 0: none
    titles: float = 1.0  # weight of pictures against their descriptive phrases
    augment: Mapping[str, Any] = field(default_factory=dict)  # settings of augment.Augment

    validate: int = 0  # epochs between validations, the best of which is kept; 0: none
    patience: int = 0  # validations without a better one that end a stage; 0: all epochs


@dataclass(frozen=True, kw_only=True)
class Progressive(Recipe):
    """The progressive system: image-text pairs, the domain's products, composed queries.

    The stages' lengths are shares of the run; what the first two leave is stage 3, if anything.
    """

    system = "progressive"

    image_text: float = 0.0  # share of stage 1: pictures with their phrases
    domain: float = 0.0  # share of stage 2: the same, with pairs of one product's pictures
    products: float = 1.0  # weight of those pairs
    weight: float | None = None  # of the picture, fixed for every query; None: adaptive
    weighting: float = 1.0  # of KL(self-supervised weights || gate)
    weighting_temperature: float = 0.1
    held_out: float = 0.0  # share of the products that are kept to set the gate with, at the end

    def __post_init__(self) -> None:
        if min(self.image_text, self.domain) < 0 or self.image_text + self.domain > 1:
            raise ValueError("image_text and domain are shares of the run, at most 1 together")
        if self.weight is not None and not 0 < self.weight < 1:
            raise ValueError(f"weight = {self.weight} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Limn(Recipe):
    """LIMN: latent factors of picture and words, composed and matched by attention."""

    system = "limn"

    composer: Mapping[str, Any] = field(default_factory=dict)  # settings of limn.LimnConfig
    factor_loss: float = 0.5
    orthogonality: float = 0.1


@dataclass(frozen=True, kw_only=True)
class LimnPlus(Limn):
    """LIMN, then rounds in which it learns from captions that were written for unlabelled pairs."""

    self_training: Mapping[str, Any] = field(default_factory=dict)  # of self_training.SelfTraining
    captioner: Mapping[str, Any] = field(default_factory=dict)  # of captioner.CaptionerConfig
    captioning: Mapping[str, Any] = field(default_factory=dict)  # of captioning.Captioning


@dataclass(frozen=True, kw_only=True)
class Prune(Recipe):
    """Stage I of re-ranking: the text encoder learns to read a caption beside its reference."""

    system = "rerank-prune"

    text: TowerSpec = field(
        default_factory=lambda: TowerSpec(
            kind="grounded-text", settings={"width": 192, "heads": 4, "layers": 3, "inner": 768}
        )
    )
    frozen: bool = True
    titles: float = 0.0
    learning_rate: float = 5e-4


@dataclass(frozen=True, kw_only=True)
class Rerank(Recipe):
    """Stage II: candidates are read together with reference and caption."""

    system = "rerank"

    frozen: bool = True
    frozen_text: bool = True  # whether stage I's text encoder stays as it is, as published
    titles: float = 0.0
    learning_rate: float = 5e-4
    queries: int = 16  # of a batch
    negatives: str = "batch"  # the other queries' targets, or "hard": from a pruner's `top`
    top: int = 50  # the pruner's candidates that hard negatives are drawn from
    hard: int = 15  # of them, a query
    pruner: str = ""  # the checkpoint whose candidates those are; stage I itself unless said
    early_layers: int = 0  # behind which an early head scores too; 0: there is none
    early: float = 0.5  # weight of the early head's loss

    def __post_init__(self) -> None:
        if self.negatives not in ("batch", "hard"):
            raise ValueError(f"negatives = '{self.negatives}' is neither 'batch' nor 'hard'")
        if self.early_layers < 0 or self.early <= 0:
            raise ValueError("early_layers is 0 or more, and the weight `early` is above 0")


RECIPES: Mapping[str, type[Recipe]] = {
    "progressive": Progressive,
    "limn": Limn,
    "limn-plus": LimnPlus,
    "rerank-prune": Prune,
    "rerank": Rerank,
}


def read_recipe(name: str, config: Path | None = None) -> Recipe:
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
