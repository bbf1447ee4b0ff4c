"""A re-ranker's weights as its graphs multiply by them.

What can be multiplied beforehand is: the scores' scale into the queries, the values' bias (the
attention's weights make 1) and the output's Linear into the Linear that merges two streams. The
keys' bias goes: it adds the same number to all scores of a row, which softmax takes off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cir_rt.config import from_dict
from cir_rt.errors import CheckpointError
from cir_rt.export.checkpoint import Checkpoint
from cir_rt.export.models.shapes import GroundedTextConfig, PruneConfig, RerankerConfig


@dataclass(frozen=True, kw_only=True)
class Linear:
    """rows @ weight + bias."""

    weight: np.ndarray  # (in, out) float32
    bias: np.ndarray  # (out,)


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A LayerNorm's weights, (width,) each."""

    scale: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, kw_only=True)
class SelfAttention:
    """What a stream's rows read each other with; queries come scaled."""

    query: Linear
    keys_values: Linear
    out: Linear
    norm: Norm


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """What all streams see of a picture with, each through heads of its own, as one sum.

    seen = sum over heads of (weights @ tokens) @ values[head] @ out[head's rows] + out's bias.
    """

    queries: Sequence[Linear]  # of each stream, scaled
    keys: np.ndarray  # (streams * heads, width / heads, image width)
    values: np.ndarray  # (streams * heads, image width, width / heads)
    out: Linear  # (streams * width, width)
    norms: Sequence[Norm]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of one stream or of two."""

    own: Sequence[SelfAttention]
    cross: CrossAttention
    up: Linear
    down: Linear
    norm: Norm


@dataclass(frozen=True, kw_only=True)
class Head:
    """The first rows of both streams to a score."""

    up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True)
class RerankWeights:
    """Stage I's encoder and stage II, by the names that the checkpoint gives them."""

    shape: GroundedTextConfig
    early_layers: int
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, model: Any) -> RerankWeights:
        """Take those of a `RerankModel`, which shares their memory."""
        return cls(
            shape=model.rerank.config,
            early_layers=model.rerank.early_layers,
            arrays={k: v.detach().cpu().numpy() for k, v in model.state_dict().items()},
        )

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> RerankWeights:
        """Read those of a checkpoint's folder. Raises CheckpointError for another system's."""
        config = checkpoint.config
        if config.system != "rerank":
            raise CheckpointError(
                f"{checkpoint.folder}: a checkpoint of {config.system}, expected rerank. "
                "Train one:  cir-rt train rerank --init STAGE_ONE --data DATA --out CKPT"
            )
        try:
            arrays = load_file(checkpoint.weights)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{checkpoint.weights}: not readable ({error}).") from error
        return cls(
            shape=from_dict(PruneConfig, config.text.settings, config.text.kind),
            early_layers=from_dict(RerankerConfig, config.composer, "composer").early_layers,
            arrays=arrays,
        )

    @cached_property
    def reading(self) -> list[Layer]:
        """The layers of stage I's encoder, which have one stream."""
        names = [f"text.encoder.layers.{k}" for k in range(self.shape.layers)]
        return [self._layer(name, ["reading"]) for name in names]

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers of stage II, which have two streams."""
        names = [f"rerank.layers.{k}" for k in range(self.shape.layers)]
        return [self._layer(name, ["stream0", "stream1"]) for name in names]

    @property
    def head(self) -> Head:
        """What scores behind the last layer."""
        return self._head("rerank.head")

    @property
    def early_head(self) -> Head:
        """What scores behind the early layers."""
        return self._head("rerank.early_head")

    def array(self, name: str) -> np.ndarray:
        """Return a weight in float32. Raises CheckpointError where it is missing."""
        if name not in self.arrays:
            raise CheckpointError(f"the re-ranker's weights lack {name}, which config.json wants.")
        return self.arrays[name].astype(np.float32, copy=False)

    def norm(self, name: str) -> Norm:
        """Return a LayerNorm."""
        return Norm(scale=self.array(f"{name}.weight"), bias=self.array(f"{name}.bias"))

    def _linear(self, name: str, scale: float = 1.0) -> Linear:
        weight, bias = self.array(f"{name}.weight"), self.array(f"{name}.bias")
        return Linear(weight=weight.T * np.float32(scale), bias=bias * np.float32(scale))

    def _head(self, name: str) -> Head:
        down = self._linear(f"{name}.2")
        first = Linear(weight=down.weight[:, :1], bias=down.bias[:1])
        return Head(up=self._linear(f"{name}.0"), down=first)

    def _layer(self, name: str, streams: Sequence[str]) -> Layer:
        return Layer(
            own=[self._own(f"{name}.{stream}") for stream in streams],
            cross=self._cross(name, [f"{name}.{stream}" for stream in streams]),
            up=self._linear(f"{name}.mlp.up"),
            down=self._linear(f"{name}.mlp.down"),
            norm=self.norm(f"{name}.norm_mlp"),
        )

    @property
    def _scale(self) -> float:
        return float((self.shape.width // self.shape.heads) ** -0.5)

    def _own(self, name: str) -> SelfAttention:
        both, width = self._linear(f"{name}.own.keys_values"), self.shape.width
        out = self._linear(f"{name}.own.out")
        return SelfAttention(
            query=self._linear(f"{name}.own.query", self._scale),
            keys_values=Linear(weight=both.weight, bias=np.zeros_like(both.bias)),
            out=Linear(weight=out.weight, bias=out.bias + both.bias[width:] @ out.weight),
            norm=self.norm(f"{name}.norm_own"),
        )

    def _cross(self, layer: str, streams: Sequence[str]) -> CrossAttention:
        heads, width = self.shape.heads, self.shape.width
        split = (heads, width // heads, self.shape.image_width)
        keys, values, outs = [], [], []
        bias = np.zeros(width)
        for merging, stream in zip(self._merging(layer, len(streams)), streams, strict=True):
            both = self._linear(f"{stream}.cross.keys_values")
            keys.append(both.weight.T[:width].reshape(split))
            values.append(both.weight.T[width:].reshape(split).transpose(0, 2, 1))
            out = self._linear(f"{stream}.cross.out")
            outs.append(out.weight @ merging)
            bias += (out.bias + both.bias[width:] @ out.weight) @ merging
        if f"{layer}.merge.bias" in self.arrays:
            bias += self.array(f"{layer}.merge.bias")
        return CrossAttention(
            queries=[self._linear(f"{stream}.cross.query", self._scale) for stream in streams],
            keys=np.concatenate(keys),
            values=np.concatenate(values),
            out=Linear(weight=np.concatenate(outs), bias=bias.astype(np.float32)),
            norms=[self.norm(f"{stream}.norm_cross") for stream in streams],
        )

    def _merging(self, layer: str, streams: int) -> Sequence[np.ndarray]:
        """Return what each stream's share of the sum is multiplied by, (width, width)."""
        if f"{layer}.merge.weight" in self.arrays:
            return np.split(self._linear(f"{layer}.merge").weight, streams)
        return [np.eye(self.shape.width, dtype=np.float32) / streams] * streams
