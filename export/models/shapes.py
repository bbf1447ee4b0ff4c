"""The shapes of the text encoders that look at a picture, as a config.json holds them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GroundedTextConfig:
    """The encoder's shape; it starts from BLIP's: BERT-base, with [DEC] and [ENC] added."""

    vocabulary: int = 30524
    context: int = 512
    pad_id: int = 0
    enc_id: int = 30523  # [ENC], which takes the place of every text's first token
    width: int = 768
    heads: int = 12
    layers: int = 12
    inner: int = 3072  # of the feed-forward
    image_width: int = 768  # of a picture's tokens
    dropout: float = 0.1
    eps: float = 1e-12  # of every LayerNorm

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if not 0 <= self.enc_id < self.vocabulary or self.enc_id == self.pad_id:
            raise ValueError(
                f"enc_id {self.enc_id}: expected a piece below vocabulary {self.vocabulary}, "
                f"other than pad_id {self.pad_id}"
            )


@dataclass(frozen=True, kw_only=True)
class PruneConfig(GroundedTextConfig):
    """The text encoder's shape, and the gallery vectors' width."""

    dim: int = 256


@dataclass(frozen=True, kw_only=True)
class RerankerConfig:
    """What a re-ranker has beside the text encoder's shape."""

    early_layers: int = 0  # after which the early head scores; 0: there is none

    def __post_init__(self) -> None:
        if self.early_layers < 0:
            raise ValueError(f"early_layers must be 0 or more, got {self.early_layers}")
