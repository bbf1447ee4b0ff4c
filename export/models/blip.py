"""Image tower and stage I text encoder from Hugging Face BLIP folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipVisionConfig,
    BlipVisionModel,
)

from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import ModelConfig, TowerSpec
from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.huggingface import open_folder, plain_values, read_preprocess
from cir_rt.export.models.shapes import PruneConfig
from cir_rt.export.models.towers import unit

# A part of a weight's name there -> the same part here; keys and values are one Linear here.
_RENAMED = (
    ("embeddings.word_embeddings.", "embedding.words."),
    ("embeddings.position_embeddings.", "embedding.positions."),
    ("embeddings.LayerNorm.", "embedding.norm."),
    ("encoder.layer.", "layers."),
    (".attention.self.", ".reading.own."),
    (".attention.output.dense.", ".reading.own.out."),
    (".attention.output.LayerNorm.", ".reading.norm_own."),
    (".crossattention.self.", ".reading.cross."),
    (".crossattention.output.dense.", ".reading.cross.out."),
    (".crossattention.output.LayerNorm.", ".reading.norm_cross."),
    (".key.", ".keys_values."),
    (".value.", ".keys_values."),
    (".intermediate.dense.", ".mlp.up."),
    (".output.dense.", ".mlp.down."),
    (".output.LayerNorm.", ".norm_mlp."),
)


@dataclass(frozen=True, kw_only=True)
class BlipImageConfig:
    """transformers' configuration of BLIP's image tower, as its config.json holds it."""

    dim: int = 256
    values: Mapping[str, Any] = field(default_factory=dict)


class BlipImageTower(nn.Module):
    """Pictures (n, 3, size, size) float32 -> unit vectors (n, dim)."""

    def __init__(self, config: BlipImageConfig) -> None:
        super().__init__()
        self.blip = BlipVisionModel(BlipVisionConfig(**config.values))
        self.width: int = self.blip.config.hidden_size
        self.project = nn.Linear(self.width, config.dim)  # W_v

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the projected class token, normalised."""
        return self.read(pixels).vectors

    def read(self, pixels: Tensor) -> Encoded:
        """Return the vectors, and the class token with the patches behind it."""
        tokens = self.blip(pixel_values=pixels).last_hidden_state
        return Encoded(vectors=unit(self.project(tokens[:, 0])), tokens=tokens)


def read_blip(
    folder: Path, tokenizer: Path, *, dropout: float = 0.1
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the folder's model as ours: configuration and the weights of image tower and `Prune`.

    Writes its tokenizer.json to `tokenizer`. The text encoder's dropout is BLIP's own, since
    converted folders say 0. Stage II starts from the same text encoder: `Reranker.from_single`.
    Pictures are preprocessed as the re-ranker's authors do.
    Raises CheckpointError where the folder does not load or is no BlipForImageTextRetrieval.
    """
    blip, pieces = open_folder(BlipForImageTextRetrieval, folder, tokenizer)
    config: BlipConfig = blip.config
    dim, pad = config.image_text_hidden_size, pieces.pad_token_id
    text = _text(config.text_config, dim, pad, _enc(pieces, config.text_config), dropout)
    model_config = ModelConfig(
        system="rerank-prune",
        dim=dim,
        image=TowerSpec(
            kind="blip-image", settings={"dim": dim, "values": plain_values(config.vision_config)}
        ),
        text=TowerSpec(kind="grounded-text", settings=asdict(text)),
        context=text.context,
        pad_id=pad,
        preprocess=read_preprocess(folder, config.vision_config.image_size, "targetpad"),
    )
    return model_config, our_weights(blip.state_dict())


def our_weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return BlipForImageTextRetrieval's weights by our names, `image.` and `text.` first.

    Its matching head goes: the re-ranker's own is another.
    """
    found: dict[str, list[Tensor]] = {}
    for key, tensor in theirs.items():
        part, rest = key.split(".", 1)
        if part == "vision_model":
            found[f"image.blip.{key.removeprefix('vision_model.')}"] = [tensor]
        elif part == "text_encoder":
            found.setdefault(f"text.encoder.{_renamed(rest)}", []).append(tensor)
        elif part in ("vision_proj", "text_proj"):
            found[f"{'image' if part == 'vision_proj' else 'text'}.project.{rest}"] = [tensor]
    return {key: torch.cat(parts) for key, parts in found.items()}  # keys stand before values


def _renamed(key: str) -> str:
    for theirs, ours in _RENAMED:
        key = key.replace(theirs, ours)
    return key


def _text(config: BlipTextConfig, dim: int, pad: int, enc: int, dropout: float) -> PruneConfig:
    if config.hidden_act != "gelu":
        raise CheckpointError(f"hidden_act is '{config.hidden_act}'. Expected BERT's 'gelu'.")
    return PruneConfig(
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        pad_id=pad,
        enc_id=enc,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        layers=config.num_hidden_layers,
        inner=config.intermediate_size,
        image_width=config.encoder_hidden_size,
        dropout=dropout,
        eps=config.layer_norm_eps,
        dim=dim,
    )


def _enc(pieces: Any, config: BlipTextConfig) -> int:
    """Return [ENC]'s id: BLIP adds [DEC] and [ENC] behind BERT's pieces, not always by name."""
    return pieces.get_vocab().get("[ENC]", config.vocab_size - 1)
