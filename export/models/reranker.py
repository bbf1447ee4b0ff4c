"""Stage II of candidate re-ranking: reference, caption and candidate are read together.

Source: Liu, Sun, Teney, Gould, "Candidate Set Re-ranking for Composed Image Retrieval with Dual
Multi-modal Encoder" (TMLR 2024; arXiv 2305.16304), and the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cir_rt.errors import ConfigError
from cir_rt.export.models.attention import FeedForward, hidden
from cir_rt.export.models.grounded import GroundedTextEncoder, Reading, TextEmbedding
from cir_rt.export.models.shapes import GroundedTextConfig


class Reranker(nn.Module):
    """Two streams of rows over a candidate's tokens; their first rows together give the score.

    Stream 0 starts from stage I's z_t as it is, without embeddings or a norm before the first
    layer, stream 1 from the caption's embeddings. The lower half of the layers (the smaller one of
    an odd number) merges what the streams see by average, the upper half by a Linear.

    Where `early_layers` says so, a head of its own reads the first rows so early too: a score that
    costs a part of the whole, for dropping candidates that have no chance (ours).
    """

    def __init__(self, config: GroundedTextConfig, early_layers: int = 0) -> None:
        """Raises ConfigError for an early head that is none: behind the last layer or later."""
        super().__init__()
        if early_layers >= config.layers:
            raise ConfigError(
                f"early_layers = {early_layers} of {config.layers} layers. "
                "Expected fewer, or 0 for no early head."
            )
        self.config, self.early_layers = config, early_layers
        self.embedding = TextEmbedding(config)
        self.layers = nn.ModuleList(
            TwoStreamLayer(config, learnt=k >= config.layers // 2) for k in range(config.layers)
        )
        self.head = _head(config.width)
        if early_layers:
            self.early_head = _head(config.width)

    @classmethod
    def from_single(cls, encoder: GroundedTextEncoder, early_layers: int = 0) -> Reranker:
        """Copy an encoder's embeddings, feed-forwards and, into both streams, its attention.

        Every layer begins by averaging, so that two streams that start alike compute what the
        encoder does. (The authors' merging Linears start at random.) Heads are fresh.
        """
        reranker = cls(encoder.config, early_layers)
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
        return self.depths(z, ids, candidates)[-1]

    def pairs(self, z: Tensor, ids: Tensor, candidates: Tensor) -> Tensor:
        """Score every query with candidates of its own (b, k, places, image_width): (b, k)."""
        return self.depths(z, ids, candidates)[-1]

    def early_scores(self, z: Tensor, ids: Tensor, candidates: Tensor) -> Tensor:
        """Score with the early head, through its layers alone: (b, k), higher is better.

        `candidates` are shared as in `forward`, or every query's own as in `pairs`. Raises
        ConfigError where there is no early head.
        """
        if not self.early_layers:
            raise ConfigError("no early head. Train one: early_layers = 1 in the recipe rerank.")
        return self.depths(z, ids, candidates, layers=self.early_layers)[0]

    def depths(
        self, z: Tensor, ids: Tensor, candidates: Tensor, *, layers: int | None = None
    ) -> list[Tensor]:
        """Return scores (b, k) of each head on the way through the layers, the whole's last.

        Stops behind so many `layers`, where they are given.
        """
        b, k = z.shape[0], candidates.shape[-3]
        if candidates.ndim == 3:  # shared: queries of one candidate stand together
            z, ids = (x.expand(k, *x.shape).flatten(0, 1) for x in (z, ids))
            return [s.view(k, b).T for s in self._scores(z, ids, candidates, layers)]
        z, ids = (x[:, None].expand(-1, k, *x.shape[1:]).flatten(0, 1) for x in (z, ids))
        return [s.view(b, k) for s in self._scores(z, ids, candidates.flatten(0, 1), layers)]

    def _scores(
        self, z: Tensor, ids: Tensor, tokens: Tensor, layers: int | None
    ) -> Iterator[Tensor]:
        """Score n queries, the first n / m of them with the first of m candidates: (n,)."""
        streams = (z, self.embedding(ids))
        bias = hidden(self.embedding.keep(ids), z.dtype)
        for depth, layer in enumerate(self.layers[:layers], 1):
            streams = layer(streams, tokens, bias)
            if depth == self.early_layers:
                yield _judge(self.early_head, streams)
        if layers is None:
            yield _judge(self.head, streams)


def _head(width: int) -> nn.Sequential:
    """Both streams' first rows to two outputs, as the authors' head: only the first is read."""
    return nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2))


def _judge(head: nn.Sequential, streams: tuple[Tensor, Tensor]) -> Tensor:
    first, second = streams
    return head(torch.cat([first[:, 0], second[:, 0]], dim=-1))[:, 0]


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
