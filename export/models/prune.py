"""Stage I of candidate re-ranking: a query from the caption's words as the reference shows them.

z_t = encoder(caption; cross-attention on the reference's tokens), q = l2norm(W_t z_t[0]). The
gallery holds c = l2norm(W_v CLS), the image tower's own vectors, which stay as they are. Logits are
q.c / temperature. Source: Liu, Sun, Teney, Gould, "Candidate Set Re-ranking for Composed Image
Retrieval with Dual Multi-modal Encoder" (TMLR 2024; arXiv 2305.16304).
"""

from __future__ import annotations

from torch import Tensor, nn

from cir_rt.export.models.grounded import GroundedTextEncoder
from cir_rt.export.models.shapes import PruneConfig
from cir_rt.export.models.towers import unit

TEMPERATURE = 0.07  # where the logits' learnable temperature starts


class Prune(nn.Module):
    """Stands where other systems have a text tower; it needs the reference's tokens too."""

    def __init__(self, config: PruneConfig) -> None:
        super().__init__()
        self.vocabulary = config.vocabulary
        self.width = config.width
        self.encoder = GroundedTextEncoder(config)
        self.project = nn.Linear(config.width, config.dim)  # W_t

    def forward(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """Return queries (n, dim), unit length."""
        return self.query(self.read(tokens, ids))

    def read(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """Return z_t (n, length, width), which the re-ranker reads on.

        `tokens` (n, places, image_width) are the references', `ids` (n, length) the captions'.
        """
        return self.encoder(ids, tokens)

    def query(self, z: Tensor) -> Tensor:
        """Project z_t's first rows: (n, dim), unit length."""
        return unit(self.project(z[:, 0]))

    def mask(self, ids: Tensor) -> Tensor:
        """Return which tokens are no padding, (n, length) bool."""
        return self.encoder.embedding.keep(ids)
