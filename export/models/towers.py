"""Small image and text towers that are trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_rt.export.models.encoded import Encoded
from cir_rt.export.models.outline import Outline
from cir_rt.export.models.palette import Palette


@dataclass(frozen=True, kw_only=True)
class ConvTowerConfig:
    """A residual convolutional net; a stage halves the side, `blocks` residual blocks each.

    `palettes` places are looked at for their colour alone (`palette.Palette`), 0 for none. The last
    `outline` of the vector's `dim` numbers are the picture's shape, not learnt (`outline.Outline`),
    0 while the rest learns; then `outline_share` of two pictures' inner product is theirs. When it
    has learnt, a `mirrored` tower looks at each picture's mirror image too, and what it pools of
    both is averaged: twice the work, and tokens of the picture alone.
    """

    stem: int = 32
    widths: tuple[int, ...] = (48, 96, 192)
    blocks: int = 1
    palettes: int = 0
    palette_width: int = 96
    outline: int = 0
    outline_share: float = 0.15
    mirrored: bool = False
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
        self.blocks = config.blocks
        pooled = 2 * channels
        self.width = channels
        self.palette: Palette | None = None
        if config.palettes:
            self.palette = Palette(config.widths, heads=config.palettes, width=config.palette_width)
            pooled += config.palettes * config.palette_width
            self.width += config.palette_width
        self.outline = Outline(config.outline) if config.outline else None
        self.outline_share = config.outline_share
        self.mirrored = config.mirrored
        self.width = max(self.width, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(pooled, config.dim - config.outline)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pool by mean and by maximum, and the colours; project, normalise."""
        features, colours, _ = self._seen(self._views(pixels))
        return self._vectors(pixels, features, colours)

    def read(self, pixels: Tensor) -> Encoded:
        """Return the vectors; as tokens them again, then the last stage's places row by row.

        Every token is normalised, since attention reads it as it is, and the narrower of both kinds
        is padded with zeros.
        """
        features, colours, codes = self._seen(self._views(pixels))
        vectors = self._vectors(pixels, features, colours)
        places = features[: len(pixels)]
        if codes is not None:
            rows, columns = features.shape[-2:]
            codes = F.adaptive_avg_pool2d(codes[: len(pixels)], (rows, columns))
            places = torch.cat([places, codes], dim=1)
        tokens = [self._token(vectors[:, None]), self._token(places.flatten(2).mT.float())]
        return Encoded(vectors=vectors, tokens=torch.cat(tokens, dim=1))

    def _token(self, x: Tensor) -> Tensor:
        return F.pad(F.layer_norm(x, x.shape[-1:]), (0, self.width - x.shape[-1]))

    def _views(self, pixels: Tensor) -> Tensor:
        """Return the pictures, with their mirror images behind them where those are looked at."""
        if self.training or not self.mirrored:
            return pixels
        return torch.cat([pixels, pixels.flip(-1)])

    def _seen(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the last stage's features, the pooled colours, and those of every place."""
        features = self.stem(pixels)
        stages = []
        for k, block in enumerate(self.stages, 1):
            features = block(features)
            if k % self.blocks == 0:
                stages.append(features)
        if self.palette is None:
            return features, None, None
        return features, *self.palette(pixels, stages)

    def _vectors(self, pixels: Tensor, features: Tensor, colours: Tensor | None) -> Tensor:
        parts = [features.mean((2, 3)), features.amax((2, 3))]
        if colours is not None:
            parts.append(colours)
        pooled = torch.cat(parts, dim=1)
        if self.mirrored and not self.training:
            pooled = pooled.unflatten(0, (2, len(pixels))).mean(0)
        vectors = unit(self.project(self.dropout(pooled)))
        if self.outline is None:
            return vectors
        if self.training:  # it would lean on the outline, and learn less beside it
            return F.pad(vectors, (0, self.outline.width))
        learnt, shape = (1 - self.outline_share) ** 0.5, self.outline_share**0.5
        return torch.cat([learnt * vectors, shape * self.outline(pixels)], dim=1)


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
        self.width = config.width

    def forward(self, ids: Tensor) -> Tensor:
        """Read the words in both directions, pool those that are not padding."""
        return self.read(ids).vectors

    def read(self, ids: Tensor) -> Encoded:
        """Return the vectors, and the words as the last layer leaves them."""
        keep = ids != self.pad_id  # (n, length)
        bias = torch.zeros(keep.shape, dtype=torch.float32, device=ids.device)
        bias = bias.masked_fill(~keep, -1e4)[:, None, None, :]
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.positions(places)
        for layer in self.layers:
            x = layer(x, bias)
        mask = keep[:, :, None].to(x.dtype)
        words = self.norm(x)
        pooled = (words * mask).sum(1) / mask.sum(1).clamp(min=1)
        return Encoded(vectors=unit(self.project(pooled)), tokens=words, mask=keep)


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
