"""Towers from Hugging Face CLIP folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from cir_rt.export.checkpoint import ModelConfig, TowerSpec
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.huggingface import open_folder, plain_values, read_preprocess
from cir_rt.export.models.towers import unit


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """transformers' configuration of one CLIP tower, as its config.json holds it."""

    dim: int = 512
    vocabulary: int = 0
    context: int = 77
    pad_id: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)


class ClipImageTower(nn.Module):
    """Pictures (n, 3, size, size) float32 -> unit vectors (n, dim)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        values = {**config.values, "projection_dim": config.dim}
        self.clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**values))
        self.width: int = self.clip.config.hidden_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the projected class token, normalised."""
        return self.read(pixels).vectors

    def read(self, pixels: Tensor) -> Encoded:
        """Return the vectors, and the class token with the patches behind it."""
        seen = self.clip(pixel_values=pixels)
        return Encoded(vectors=unit(seen.image_embeds), tokens=seen.last_hidden_state)


class ClipTextTower(nn.Module):
    """Token ids (n, length) int64 -> unit vectors (n, dim)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.vocabulary = config.vocabulary
        values = {**config.values, "projection_dim": config.dim}
        self.clip = CLIPTextModelWithProjection(CLIPTextConfig(**values))
        self.width: int = self.clip.config.hidden_size
        self.pad_id = config.pad_id

    def forward(self, ids: Tensor) -> Tensor:
        """Return the projected end token, normalised; attention is causal, padding follows it."""
        return self.read(ids).vectors

    def read(self, ids: Tensor) -> Encoded:
        """Return the vectors, and every token from the start mark to the end mark."""
        said = self.clip(input_ids=ids)
        return Encoded(
            vectors=unit(said.text_embeds), tokens=said.last_hidden_state, mask=ids != self.pad_id
        )


def read_clip(folder: Path, tokenizer: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the folder's model as ours: configuration and tower weights.

    Writes its tokenizer.json to `tokenizer`. Raises CheckpointError where the folder does not
    load.
    """
    clip, pieces = open_folder(CLIPModel, folder, tokenizer)
    config: CLIPConfig = clip.config
    model_config = ModelConfig(
        dim=config.projection_dim,
        image=_spec("clip-image", config.vision_config, config.projection_dim),
        text=_spec("clip-text", config.text_config, config.projection_dim, pad_id=_pad(pieces)),
        context=config.text_config.max_position_embeddings,
        pad_id=_pad(pieces),
        preprocess=read_preprocess(folder, config.vision_config.image_size),
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


def _spec(kind: str, config: CLIPVisionConfig | CLIPTextConfig, dim: int, **more: int) -> TowerSpec:
    values = plain_values(config)
    values.pop("projection_dim", None)
    settings: dict[str, Any] = {"dim": dim, "values": values, **more}
    if isinstance(config, CLIPTextConfig):
        settings |= {"vocabulary": config.vocab_size, "context": config.max_position_embeddings}
    return TowerSpec(kind=kind, settings=settings)
