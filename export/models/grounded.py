"""A text encoder that looks at a picture: BERT with cross-attention in every layer.

Layers are post-norm, y = norm(x + f(x)): self-attention between the words, cross-attention over the
picture's tokens, feed-forward. Source: Li, Li, Xiong, Hoi, "BLIP" (ICML 2022; arXiv 2201.12086),
which calls it the image-grounded text encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cir_rt.export.models.attention import Attention, FeedForward, hidden
from cir_rt.export.models.shapes import GroundedTextConfig


class GroundedTextEncoder(nn.Module):
    """Words of a text as the picture beside it shows them."""

    def __init__(self, config: GroundedTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TextEmbedding(config)
        self.layers = nn.ModuleList(GroundedLayer(config) for _ in range(config.layers))

    def forward(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Read ids (n, length) beside tokens (n, places, image_width): (n, length, width).

        The first row stands for all; rows of padding hold nothing of use.
        """
        x = self.embedding(ids)
        bias = hidden(self.embedding.keep(ids), x.dtype)
        for layer in self.layers:
            x = layer(x, tokens, bias)
        return x


class TextEmbedding(nn.Module):
    """Token ids (n, length) -> rows (n, length, width), the first of them [ENC]'s.

    NOTE: whatever stands first is lost. The tokenizer must put a mark there, as BERT's puts [CLS].
    """

    def __init__(self, config: GroundedTextConfig) -> None:
        super().__init__()
        self.enc_id, self.pad_id = config.enc_id, config.pad_id
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        nn.init.normal_(self.words.weight, std=0.02)  # as BERT's
        nn.init.normal_(self.positions.weight, std=0.02)
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Add words and positions, normalise."""
        rows = self.words(self._marked(ids)) + self.positions.weight[: ids.shape[1]]
        return self.dropout(self.norm(rows))

    def keep(self, ids: Tensor) -> Tensor:
        """Return which tokens are no padding, (n, length) bool; the first never is."""
        return self._marked(ids) != self.pad_id

    def _marked(self, ids: Tensor) -> Tensor:
        return torch.cat([torch.full_like(ids[:, :1], self.enc_id), ids[:, 1:]], dim=1)


class GroundedLayer(nn.Module):
    """One layer: read words and picture, then map each row by itself."""

    def __init__(self, config: GroundedTextConfig) -> None:
        super().__init__()
        self.reading = Reading(config)
        self.mlp = FeedForward(config.width, config.inner)
        self.norm_mlp = nn.LayerNorm(config.width, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        x = self.reading.attend(x, bias)
        x = self.reading.add(x, self.dropout(self.reading.look(x, tokens)))
        return self.norm_mlp(x + self.dropout(self.mlp(x)))


class Reading(nn.Module):
    """What a layer does before its feed-forward: self-attention, then cross-attention."""

    def __init__(self, config: GroundedTextConfig) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.own = Attention(width, heads, dropout=dropout)
        self.norm_own = nn.LayerNorm(width, eps=config.eps)
        self.cross = Attention(width, heads, memory_width=config.image_width, dropout=dropout)
        self.norm_cross = nn.LayerNorm(width, eps=config.eps)
        self.dropout = nn.Dropout(dropout)

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """Let the words of a text (n, length, width) read each other."""
        read = self.own(x, self.own.remember(x), bias)
        return self.norm_own(x + self.dropout(read))

    def look(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return what rows x (n, length, width) see in pictures' tokens (m, places, image_width).

        n is a multiple of m: the first n / m texts look at the first picture, the next at the
        second. A picture is projected once, however many look at it.
        """
        texts = x.reshape(tokens.shape[0], -1, x.shape[2])
        return self.cross(texts, self.cross.remember(tokens)).reshape(x.shape)

    def add(self, x: Tensor, seen: Tensor) -> Tensor:
        """Add what was seen to the words."""
        return self.norm_cross(x + seen)
