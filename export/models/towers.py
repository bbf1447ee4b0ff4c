"""Small image and text towers that are trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ConvTowerConfig:
    """A residual convolutional net; a stage halves the side, `blocks` residual blocks each."""

    stem: int = 32
    widths: tuple[int, ...] = (48, 96, 192)
    blocks: int = 1
    dim: int = 256
    dropout: float = 0.0


class ConvTower(nn.Module):
    """Pictures (n, 3, size, size) float32 -> unit vectors (n, dim)."""

    def __init__(self, config: ConvTowerConfig) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, config.stem, stride=2)
        stages: list[nn.Module] = []
        channels = config.stem
        for width in config.widths:
            stages.append(_Residual(channels, width, stride=2))
            stages += [_Residual(width, width, stride=1) for _ in range(config.blocks - 1)]
            channels = width
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(2 * channels, config.dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pool by mean and by maximum, project, normalise."""
        features = self.stages(self.stem(pixels))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return unit(self.project(self.dropout(pooled)))


class _ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _ConvNorm(inputs, outputs, stride)
        self.conv = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(self.first(x))) + self.skip(x))


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """A pre-norm Transformer over word pieces, pooled by mean over the words."""

    vocabulary: int = 2000
    context: int = 48
    pad_id: int = 0
    width: int = 192
    heads: int = 4
    layers: int = 2
    dim: int = 256
    dropout: float = 0.1


class TextTower(nn.Module):
    """Token ids (n, length) int64, padded with `pad_id` -> unit vectors (n, dim)."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.pad_id = config.pad_id
        self.vocabulary = config.vocabulary
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        nn.init.normal_(self.words.weight, std=0.05)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Read the words in both directions, pool those that are not padding."""
        keep = ids != self.pad_id  # (n, length)
        bias = torch.zeros(keep.shape, dtype=torch.float32, device=ids.device)
        bias = bias.masked_fill(~keep, -1e4)[:, None, None, :]
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.positions(places)
        for layer in self.layers:
            x = layer(x, bias)
        mask = keep[:, :, None].to(x.dtype)
        pooled = (self.norm(x) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return unit(self.project(pooled))


class _Layer(nn.Module):
    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (n, heads, length, width / heads)
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5 + bias
        context = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width)
        x = x + self.dropout(self.out(context))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm_mlp(x)))))


def unit(x: Tensor) -> Tensor:
    """L2-normalise the last axis in FP32."""
    return F.normalize(x.float(), dim=-1, eps=1e-6)
