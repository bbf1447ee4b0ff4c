"""The systems as PyTorch models: towers, and what turns a reference and words into a query."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from cir_rt.config import from_dict
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import ModelConfig
from cir_rt.export.models.kinds import build_tower
from cir_rt.export.models.limn import Limn, LimnConfig
from cir_rt.export.models.progressive import WeightedComposition
from cir_rt.export.models.prune import TEMPERATURE, Prune
from cir_rt.export.models.reranker import Reranker
from cir_rt.export.models.shapes import RerankerConfig


class CirModel(nn.Module):
    """Image tower and text tower, with the contrastive loss's own scale."""

    image: Any  # a Tower
    text: Any

    started = 14.0  # where the scale starts

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image = build_tower(config.image)
        self.text = build_tower(config.text)
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.started)))
        self.pretrained: frozenset[str] = frozenset()  # towers that began with trained weights

    @property
    def scale(self) -> Tensor:
        """The logits' scale, at most 100 as in CLIP."""
        return self.log_scale.exp().clamp(max=100.0)

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """Return the gallery's unit vectors (n, dim) of pixels (n, 3, size, size)."""
        return self.image.read(pixels).vectors


class ComposedModel(CirModel):
    """Towers and a composer: a query is composed from two stored vectors.

    The composer offers `pictures` and `words` of what towers read, and turns both into queries.
    """

    compose: Any

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """Return what a gallery holds and compose reads of a reference, (n, dim), unit length."""
        return self.compose.pictures(self.image.read(pixels))

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Return what compose reads of token ids (n, length)."""
        return self.compose.words(self.text.read(ids))


class ProgressiveModel(ComposedModel):
    """Adaptive weighting of image and text."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.compose = WeightedComposition(config.dim, config.temperature)


class LimnModel(ComposedModel):
    """Latent matching factors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.compose = Limn(
            from_dict(LimnConfig, config.composer, "composer"),
            image_width=self.image.width,
            image_dim=config.image.settings["dim"],
            text_width=self.text.width,
            text_dim=config.text.settings["dim"],
        )


class PruneModel(CirModel):
    """Stage I of re-ranking: words read beside the reference's tokens make the query."""

    text: Prune
    started = 1 / TEMPERATURE


class RerankModel(PruneModel):
    """Stage II, with the image tower and the stage I that it reads through."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.start_again()

    def start_again(self) -> None:
        """Let stage II begin as stage I's text encoder, its heads fresh."""
        settings: RerankerConfig = from_dict(RerankerConfig, self.config.composer, "composer")
        self.rerank = Reranker.from_single(self.text.encoder, settings.early_layers)


SYSTEMS: dict[str, type[CirModel]] = {
    "progressive": ProgressiveModel,
    "limn": LimnModel,
    "rerank-prune": PruneModel,
    "rerank": RerankModel,
}


def build_model(config: ModelConfig) -> Any:
    """Build a system with fresh weights.

    Raises CheckpointError for an unknown system or tower, ConfigError for settings that do not fit.
    """
    if config.system not in SYSTEMS:
        raise CheckpointError(f"no system '{config.system}'. Known: {', '.join(SYSTEMS)}.")
    return SYSTEMS[config.system](config)
