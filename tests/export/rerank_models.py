"""Re-rankers that nobody trained, beside the towers of another checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from grounded_models import stirred

from cir_rt.export.checkpoint import TOKENIZER, Checkpoint, TowerSpec, open_checkpoint
from cir_rt.export.models.storage import load_model, save_model
from cir_rt.export.models.systems import build_model


def untrained_reranker(
    towers: Checkpoint, folder: Path, *, early_layers: int = 1, seed: int = 0
) -> Checkpoint:
    """Write a re-ranker of two layers, 32 wide, over the image tower of a checkpoint."""
    torch.manual_seed(seed)
    config = towers.config
    image = load_model(towers).image
    text = TowerSpec(
        kind="grounded-text",
        settings={
            "vocabulary": config.text.settings["vocabulary"],
            "context": config.context,
            "enc_id": 1,
            "width": 32,
            "heads": 4,
            "layers": 2,
            "inner": 48,
            "image_width": image.width,
            "dim": config.dim,
        },
    )
    composer = {"early_layers": early_layers} if early_layers else {}
    model = build_model(replace(config, system="rerank", text=text, composer=composer))
    stirred(model.text, seed)
    stirred(model.rerank, seed + 1)
    model.image.load_state_dict(image.state_dict())
    save_model(model, towers.folder / TOKENIZER, folder)
    return open_checkpoint(folder)
