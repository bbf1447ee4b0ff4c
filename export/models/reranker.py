"""Stage II of candidate re-ranking: reference, caption and candidate are read together.

Source: Liu, Sun, Teney, Gould, "Candidate Set Re-ranking for Composed Image Retrieval with Dual
Multi-modal Encoder" (TMLR 2024; arXiv 2305.16304), and the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cir_rt.export.models.attention import FeedForward, hidden
from cir_rt.export.models.grounded import (
    GroundedTextConfig,
    GroundedTextEncoder,
    Reading,
    TextEmbedding,
)


class Reranker(nn.Module):
    """Two streams of rows over a candidate's tokens; their first rows together give the score.

    Stream 0 starts from stage I's z_t as it is, without embeddings or a norm before the first
    layer, stream 1 from the caption's embeddings. The lower half of the layers (the smaller one of
    an odd number) merges what the streams see by average, the upper half by a Linear.
    """

    def __init__(self, config: GroundedTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TextEmbedding(config)
        self.layers = nn.ModuleList(
            TwoStreamLayer(config, learnt=k >= config.layers // 2) for k in range(config.layers)
        )
        # Two outputs, as the authors' head has: only the first is read.
        self.head = nn.Sequential(
            nn.Linear(2 * config.width, config.width), nn.ReLU(), nn.Linear(config.width, 2)
        )

    @classmethod
    def from_single(cls, encoder: GroundedTextEncoder) -> Reranker:
        """Copy an encoder's embeddings, feed-forwards and, into both streams, its attention.

        Every layer begins by averaging, so that two streams that start alike compute what the
        encoder does. (The authors' merging Linears start at random.) The head is fresh.
        """
        reranker = cls(encoder.config)
        state = {}
        for key, tensor in encoder.state_dict().items():
            for stream in (".stream0.", ".stream1."):
                state[key.replace(".reading.", stream)] = tensor
        _, unexpected = reranker.load_state_dict(state, strict=False)
        assert not unexpected
        return reranker

    def forward(self, z: Tensor, ids: Tensor, candidates: Tensor) -> Tensor:
        """Score every query with every candidate: (b, k), higher is better.

        `z` (b, length, width) is what stage I reads of ids (b, length); `candidates` are
        (k, places, image_width). A candidate's keys and values are projected once.
        """
        b, k = z.shape[0], candidates.shape[0]
        z, ids = (x.expand(k, *x.shape).flatten(0, 1) for x in (z, ids))
        return self._scores(z, ids, candidates).view(k, b).T

    def pairs(self, z: Tensor, ids: Tensor, candidates: Tensor) -> Tensor:
        """Score every query with candidates of its own (b, k, places, image_width): (b, k)."""
        b, k = candidates.shape[:2]
        z, ids = (x[:, None].expand(-1, k, *x.shape[1:]).flatten(0, 1) for x in (z, ids))
        return self._scores(z, ids, candidates.flatten(0, 1)).view(b, k)

    def _scores(self, z: Tensor, ids: Tensor, tokens: Tensor) -> Tensor:
        """Score n queries, the first n / m of them with the first of m candidates: (n,)."""
        streams = (z, self.embedding(ids))
        bias = hidden(self.embedding.keep(ids), z.dtype)
        for layer in self.layers:
            streams = layer(streams, tokens, bias)
        first, second = streams
        return self.head(torch.cat([first[:, 0], second[:, 0]], dim=-1))[:, 0]


class TwoStreamLayer(nn.Module):
    """A layer with attention for each stream and one feed-forward, norm included, for both.

    m = (h_0 + h_1) / 2, or W [h_0; h_1] + b where it is learnt, of what the streams see; then
    X_s = norm_s(m + X_s).
    """

    def __init__(self, config: GroundedTextConfig, *, learnt: bool) -> None:
        super().__init__()
        width = config.width
        self.stream0, self.stream1 = Reading(config), Reading(config)
        self.merge = nn.Linear(2 * width, width) if learnt else None
        if self.merge is not None:  # start as the average
            half = torch.eye(width) / 2
            self.merge.weight.data.copy_(torch.cat([half, half], dim=1))
            nn.init.zeros_(self.merge.bias)
        self.mlp = FeedForward(width, config.inner)
        self.norm_mlp = nn.LayerNorm(width, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, streams: tuple[Tensor, Tensor], tokens: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the two streams, (n, length, width) each, after looking at (m, …) tokens."""
        x0, x1 = streams
        x0, x1 = self.stream0.attend(x0, bias), self.stream1.attend(x1, bias)
        seen = self._merged(self.stream0.look(x0, tokens), self.stream1.look(x1, tokens))
        seen = self.dropout(seen)
        return self._mapped(self.stream0.add(x0, seen)), self._mapped(self.stream1.add(x1, seen))

    def _merged(self, h0: Tensor, h1: Tensor) -> Tensor:
        if self.merge is None:
            return (h0 + h1) / 2
        return self.merge(torch.cat([h0, h1], dim=-1))

    def _mapped(self, x: Tensor) -> Tensor:
        return self.norm_mlp(x + self.dropout(self.mlp(x)))
