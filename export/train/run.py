"""From a dataset folder to a checkpoint folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cir_rt.errors import CheckpointError, UsageError
from cir_rt.export.checkpoint import (
    CALIBRATION,
    TOKENIZER,
    ModelConfig,
    TowerSpec,
    is_clip_folder,
    open_checkpoint,
)
from cir_rt.export.data.dataset import Dataset
from cir_rt.export.models.build import CirModel, check_device, load_model, save_model
from cir_rt.export.samples import check_samples_folder, write_samples
from cir_rt.export.train.examples import read_examples, texts_of
from cir_rt.export.train.holdout import hold_out, set_gate
from cir_rt.export.train.recipes import Progressive
from cir_rt.export.train.trainer import Step, Trainer
from cir_rt.export.train.vocabulary import learn
from cir_rt.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training run leaves."""

    folder: Path
    epochs: int
    parameters: dict[str, int]  # image, text, compose


def train(
    dataset: Dataset,
    out: Path,
    recipe: Progressive,
    *,
    init: Path | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[Step], None] | None = None,
) -> Trained:
    """Train on the dataset's train split and write the checkpoint folder `out`.

    `init` is a checkpoint whose model goes on, or a Hugging Face CLIP folder whose towers do.
    Raises DataError where pictures are missing.
    """
    if threads:
        torch.set_num_threads(threads)
    if minutes and epochs:
        raise UsageError("minutes and epochs both say when to stop. Give one of them.")
    check_device(device)
    out.mkdir(parents=True, exist_ok=True)
    check_samples_folder(out / CALIBRATION)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory(prefix="cir-rt-train-") as scratch:
        words = Path(scratch) / TOKENIZER  # what stands in `out` stays until training is over
        split = dataset.split("train")
        if init:
            model = _started(init, words)
        else:
            size = learn(texts_of(dataset, split), recipe.vocabulary, words)
            model = CirModel(_fresh_config(recipe, size))
        config = model.config
        tokenizer = Tokenizer(words, context=config.context, pad_id=config.pad_id)
        examples = read_examples(dataset, split, config.preprocess, tokenizer)
        held = hold_out(examples.links, recipe.held_out, np.random.default_rng(seed))
        trainer = Trainer(
            model,
            examples.only(~held),
            recipe,
            device=device,
            seed=seed,
            pretrained=init is not None,
        )
        begun = trainer.run(epochs=epochs, minutes=minutes, progress=progress)
        if held.any():
            set_gate(model, examples.only(held))
        save_model(model, words, out)
    side = round(1.25 * config.preprocess.size)
    write_samples(dataset, split, out / CALIBRATION, side=side, seed=seed)
    parts = {"image": model.image, "text": model.text, "compose": model.compose}
    counts = {k: sum(p.numel() for p in m.parameters()) for k, m in parts.items()}
    return Trained(folder=out, epochs=begun, parameters=counts)


def _started(init: Path, tokenizer: Path) -> CirModel:
    """Return the model of a checkpoint, or a fresh composition over a CLIP folder's towers."""
    if not is_clip_folder(init):
        checkpoint = open_checkpoint(init)
        shutil.copyfile(init / TOKENIZER, tokenizer)
        return load_model(checkpoint)
    from cir_rt.export.models.clip import read_clip

    config, weights = read_clip(init, tokenizer)
    model = CirModel(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    lost = [k for k in missing if k.startswith(("image.", "text.")) and "position_ids" not in k]
    if lost or unexpected:
        raise CheckpointError(f"{init}: weights do not fit; missing {lost}, extra {unexpected}.")
    return model


def _fresh_config(recipe: Progressive, vocabulary: int) -> ModelConfig:
    shared = {"dim": recipe.dim}
    words = {"vocabulary": vocabulary, "context": recipe.context, **shared}
    image = replace(recipe.image, settings={**recipe.image.settings, **shared})
    text = TowerSpec(kind=recipe.text.kind, settings={**recipe.text.settings, **words})
    return ModelConfig(
        dim=recipe.dim,
        image=image,
        text=text,
        context=recipe.context,
        preprocess=recipe.preprocess,
    )
