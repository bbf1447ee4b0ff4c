"""The model that a run begins with: fresh, a checkpoint, or another system's towers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cir_rt.config import from_dict
from cir_rt.errors import CheckpointError, UsageError
from cir_rt.export.checkpoint import (
    TOKENIZER,
    ModelConfig,
    TowerSpec,
    hugging_face_kind,
    open_checkpoint,
)
from cir_rt.export.data.dataset import Dataset, Split
from cir_rt.export.models.kinds import build_tower
from cir_rt.export.models.limn import LimnConfig
from cir_rt.export.models.storage import load_model
from cir_rt.export.models.systems import CirModel, RerankModel, build_model
from cir_rt.export.train.examples import texts_of
from cir_rt.export.train.recipes import Limn, Recipe, Rerank
from cir_rt.export.train.vocabulary import learn, mark

EARLY_HEAD = "rerank.early_head"


def start(
    dataset: Dataset, split: Split, recipe: Recipe, tokenizer: Path, init: Path | None
) -> CirModel:
    """Return the model, and write its tokenizer.json to `tokenizer`.

    Without `init` the words are learnt from the split and all weights are fresh. A checkpoint of
    the recipe's own system goes on whole; of another, as of a Hugging Face folder, what both have.
    Raises UsageError where the recipe needs an `init`, CheckpointError where that does not load.
    """
    if init is None:
        if recipe.frozen:
            raise UsageError(
                f"{recipe.system} keeps the image tower as it is. Name a checkpoint that has one "
                "with --init, or set frozen = false in the recipe."
            )
        size = learn(texts_of(dataset, split), recipe.vocabulary, tokenizer)
        model = build_model(_system(_fresh(recipe, size), recipe, tokenizer))
    else:
        config, weights = _read(init, tokenizer)
        same = config.system == recipe.system
        own = config if same else _system(config, recipe, tokenizer)
        model = build_model(_with_early_head(own, recipe))
        _load(model, weights, init)
    model.image.requires_grad_(not recipe.frozen)
    if isinstance(recipe, Rerank):
        model.text.requires_grad_(not recipe.frozen_text)
    return model


def _read(init: Path, tokenizer: Path) -> tuple[ModelConfig, Mapping[str, Tensor]]:
    """Return a checkpoint's or a Hugging Face folder's configuration and weights."""
    kind = hugging_face_kind(init)
    if kind == "clip":
        from cir_rt.export.models.clip import read_clip

        return read_clip(init, tokenizer)
    if kind == "blip":
        from cir_rt.export.models.blip import read_blip

        return read_blip(init, tokenizer)
    checkpoint = open_checkpoint(init)
    shutil.copyfile(init / TOKENIZER, tokenizer)
    return checkpoint.config, load_model(checkpoint).state_dict()


def _load(model: CirModel, weights: Mapping[str, Tensor], init: Path) -> None:
    """Take over the parts of which the model has every weight: towers, composer, re-ranker."""
    own = model.state_dict()
    parts = {_part(name) for name in weights}
    shared = [
        part
        for part in parts
        if {k: v.shape for k, v in own.items() if _within(k, part)}
        == {k: v.shape for k, v in weights.items() if _within(k, part)}
    ]
    if "image" not in shared:
        raise CheckpointError(f"{init}: its image tower is another than the recipe's.")
    taken = {k: v for k, v in weights.items() if _part(k) in shared}
    model.load_state_dict(taken, strict=False)
    model.pretrained = frozenset(shared) & {"image", "text"}
    if isinstance(model, RerankModel):
        if "text" not in shared:
            raise UsageError(
                f"{init}: a re-ranker starts from stage I. Name a checkpoint of the recipe "
                "rerank-prune, or a Hugging Face BLIP folder, with --init."
            )
        if "rerank" not in shared:
            model.start_again()


def _part(name: str) -> str:
    """Return what a weight is taken over with: a re-ranker may gain an early head."""
    return EARLY_HEAD if name.startswith(f"{EARLY_HEAD}.") else name.split(".")[0]


def _within(name: str, part: str) -> bool:
    return _part(name) == part and "position_ids" not in name


def _with_early_head(config: ModelConfig, recipe: Recipe) -> ModelConfig:
    if not isinstance(recipe, Rerank) or not recipe.early_layers:
        return config
    return replace(config, composer={"early_layers": recipe.early_layers})


def _system(config: ModelConfig, recipe: Recipe, tokenizer: Path) -> ModelConfig:
    """Return the configuration of the recipe's system over the same image tower."""
    dim = config.image.settings["dim"]
    changed = replace(config, system=recipe.system, dim=dim, composer={})
    if isinstance(recipe, Limn):
        dim = from_dict(LimnConfig, recipe.composer, "composer").dim
        return replace(changed, dim=dim, composer=recipe.composer)
    if recipe.system.startswith("rerank") and config.text.kind != "grounded-text":
        return replace(changed, text=_grounded(config, recipe, tokenizer))
    return changed


def _grounded(config: ModelConfig, recipe: Recipe, tokenizer: Path) -> TowerSpec:
    enc = mark(tokenizer)
    settings = {
        "vocabulary": enc + 1,
        "context": config.context,
        "pad_id": config.pad_id,
        "enc_id": enc,
        "image_width": build_tower(config.image).width,
        "dim": config.image.settings["dim"],
        "eps": 1e-5,
    }
    return TowerSpec(kind="grounded-text", settings={**settings, **recipe.text.settings})


def _fresh(recipe: Recipe, vocabulary: int) -> ModelConfig:
    shared = {"dim": recipe.dim}
    words = {"vocabulary": vocabulary, "context": recipe.context, **shared}
    return ModelConfig(
        dim=recipe.dim,
        image=replace(recipe.image, settings={**recipe.image.settings, **shared}),
        text=TowerSpec(kind=recipe.text.kind, settings={**recipe.text.settings, **words}),
        context=recipe.context,
        preprocess=recipe.preprocess,
    )
