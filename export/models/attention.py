"""Multi-head attention in plain operations, which export to ONNX with free sizes.

A `Transformer`'s layers are pre-norm: y = x + f(norm(x)). They train from scratch without a warm-up
of their own, and a stack ends in one more norm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Memory = tuple[Tensor, Tensor]  # keys and values, (n, heads, length, width / heads) each


class Attention(nn.Module):
    """What rows read from a memory, which is projected once and may be read many times."""

    def __init__(
        self, width: int, heads: int, *, memory_width: int | None = None, dropout: float = 0.0
    ) -> None:
        """`memory_width` is of what is read, `width` unless said; `dropout` is of the weights."""
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(memory_width or width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def remember(self, memory: Tensor) -> Memory:
        """Project what is read, (n, length, memory width)."""
        keys, values = self.keys_values(memory).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, memory: Memory, bias: Tensor | None = None) -> Tensor:
        """Read with rows x (n, rows, width); `bias` is added to (n, heads, rows, length) scores."""
        n, rows, width = x.shape
        keys, values = memory
        scores = self._split(self.query(x)) @ keys.transpose(-1, -2) / (width // self.heads) ** 0.5
        if bias is not None:
            scores = scores + bias
        context = self.dropout(scores.softmax(-1)) @ values  # (n, heads, rows, width / heads)
        return self.out(context.transpose(1, 2).reshape(n, rows, width))

    def _split(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        return x.view(n, length, self.heads, width // self.heads).transpose(1, 2)


def hidden(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias that hides the rows whose `keep` (n, length) is False: (n, 1, 1, length)."""
    bias = torch.zeros(keep.shape, dtype=dtype, device=keep.device)
    return bias.masked_fill(~keep, -1e4)[:, None, None, :]


class FeedForward(nn.Module):
    """Up to the inner width, four times the width unless said, GELU, and back."""

    def __init__(self, width: int, inner: int | None = None) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner or 4 * width)
        self.down = nn.Linear(inner or 4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map each row (…, width) by itself."""
        return self.down(F.gelu(self.up(x)))


class Transformer(nn.Module):
    """An encoder of which the first rows are read; the last layer computes no others."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, first: int, keep: Tensor | None = None) -> Tensor:
        """Return the first rows of (n, length, width), (n, first, width).

        `keep` (n, length) is False on rows that nobody may read.
        """
        bias = None if keep is None else hidden(keep, x.dtype)
        last = len(self.layers) - 1
        for k, layer in enumerate(self.layers):
            x = layer(x, x.narrow(1, 0, first) if k == last else x, bias)
        return self.norm(x)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Return `rows`, which are among x, after reading all of x."""
        memory = self.attention.remember(self.norm_attention(x))
        read = self.attention(self.norm_attention(rows), memory, bias)
        rows = rows + self.dropout(read)
        return rows + self.dropout(self.mlp(self.norm_mlp(rows)))
