"""Towers from Hugging Face CLIP folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import ModelConfig, TowerSpec
from cir_rt.export.models.towers import unit
from cir_rt.preprocess import Preprocess

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, where the folder names none
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """transformers' configuration of one CLIP tower, as its config.json holds it."""

    dim: int = 512
    vocabulary: int = 0
    context: int = 77
    values: Mapping[str, Any] = field(default_factory=dict)


class ClipImageTower(nn.Module):
    """Pictures (n, 3, size, size) float32 -> unit vectors (n, dim)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        values = {**config.values, "projection_dim": config.dim}
        self.clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**values))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the projected class token, normalised."""
        return unit(self.clip(pixel_values=pixels).image_embeds)


class ClipTextTower(nn.Module):
    """Token ids (n, length) int64 -> unit vectors (n, dim)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.vocabulary = config.vocabulary
        values = {**config.values, "projection_dim": config.dim}
        self.clip = CLIPTextModelWithProjection(CLIPTextConfig(**values))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the projected end token, normalised; attention is causal, padding follows it."""
        return unit(self.clip(input_ids=ids).text_embeds)


def read_clip(folder: Path, tokenizer: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the folder's model as ours: configuration and tower weights.

    Writes its tokenizer.json to `tokenizer`. Raises CheckpointError where the folder does not
    load.
    """
    try:
        clip = CLIPModel.from_pretrained(folder, local_files_only=True)
        pieces = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: transformers cannot load it ({error}).") from error
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    pieces.backend_tokenizer.save(str(tokenizer))
    config: CLIPConfig = clip.config
    model_config = ModelConfig(
        dim=config.projection_dim,
        image=_spec("clip-image", config.vision_config, config.projection_dim),
        text=_spec("clip-text", config.text_config, config.projection_dim),
        context=config.text_config.max_position_embeddings,
        pad_id=_pad(pieces),
        preprocess=_preprocess(folder, config.vision_config.image_size),
    )
    weights = {}
    for key, tensor in clip.state_dict().items():
        if key.startswith(("vision_model.", "visual_projection.")):
            weights[f"image.clip.{key}"] = tensor
        elif key.startswith(("text_model.", "text_projection.")):
            weights[f"text.clip.{key}"] = tensor
    return model_config, weights


def _pad(pieces: Any) -> int:
    """Return a padding other than the end mark: CLIP pads with it, and lengths could not be told.

    What follows the end mark is not read, so that any other id will do.
    """
    ids = (pieces.pad_token_id, 0, 1)
    return next(i for i in ids if i is not None and i != pieces.eos_token_id)


def _spec(kind: str, config: CLIPVisionConfig | CLIPTextConfig, dim: int) -> TowerSpec:
    known = type(config)().to_dict()
    own = config.to_diff_dict() if hasattr(config, "to_diff_dict") else config.to_dict()
    values = {k: v for k, v in own.items() if k in known and _is_plain(v)}
    values.pop("projection_dim", None)
    settings: dict[str, Any] = {"dim": dim, "values": values}
    if isinstance(config, CLIPTextConfig):
        settings |= {"vocabulary": config.vocab_size, "context": config.max_position_embeddings}
    return TowerSpec(kind=kind, settings=settings)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) and not isinstance(value, torch.dtype)


def _preprocess(folder: Path, size: int) -> Preprocess:
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    mean, std = values.get("image_mean", MEAN), values.get("image_std", STD)
    return Preprocess(size=size, fit="crop", mean=tuple(mean), std=tuple(std))
