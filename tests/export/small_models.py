"""A recipe small enough for tests, and checkpoints that nobody trained."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from cir_rt.export.checkpoint import Checkpoint, ModelConfig, TowerSpec, open_checkpoint
from cir_rt.export.models.storage import save_model
from cir_rt.export.models.systems import build_model
from cir_rt.export.train.recipes import Progressive, Recipe
from cir_rt.export.train.vocabulary import learn
from cir_rt.preprocess import Preprocess

RECIPE = Progressive(
    image=TowerSpec(kind="conv", settings={"stem": 16, "widths": [16, 32]}),
    text=TowerSpec(
        kind="transformer", settings={"width": 32, "heads": 2, "layers": 1, "dropout": 0.0}
    ),
    preprocess=Preprocess(size=32),
    dim=32,
    vocabulary=400,
    context=16,
    epochs=12,
    pictures=60,
    queries=64,
    learning_rate=4e-3,
    augment={"zoom": 0.05, "stretch": 0.0, "shift": 0.03, "tilt": 0.0, "light": 0.05},
)


def small(kind: type[Recipe], **settings: Any) -> Any:
    """Return another recipe with the sizes of `RECIPE`."""
    shared = {f.name: getattr(RECIPE, f.name) for f in fields(Recipe)}
    return kind(**{**shared, **settings})


SAYINGS = ("the same but in red", "is longer and more formal", "has dots instead of stripes") * 3


def untrained(folder: Path, recipe: Progressive = RECIPE, *, seed: int = 0) -> Checkpoint:
    """Write a checkpoint with fresh weights, but batch norms that are not the identity."""
    torch.manual_seed(seed)
    vocabulary = learn(SAYINGS, recipe.vocabulary, folder / "tokenizer.json")
    words = {"vocabulary": vocabulary, "context": recipe.context, "dim": recipe.dim}
    config = ModelConfig(
        dim=recipe.dim,
        image=replace(recipe.image, settings={**recipe.image.settings, "dim": recipe.dim}),
        text=replace(recipe.text, settings={**recipe.text.settings, **words}),
        context=recipe.context,
        preprocess=recipe.preprocess,
    )
    model = build_model(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    save_model(model, folder / "tokenizer.json", folder)
    return open_checkpoint(folder)
