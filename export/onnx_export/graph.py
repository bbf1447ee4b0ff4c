"""One module of a model as an ONNX graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from cir_rt.errors import CheckpointError
from cir_rt.export.models.systems import CirModel, ComposedModel
from cir_rt.export.onnx_export.weights import share_weights

OPSET = 18


@dataclass(frozen=True, kw_only=True)
class Face:
    """What a role's graph takes and gives, by name."""

    inputs: Mapping[str, Mapping[int, str]]  # axes whose size is free, and their names
    output: str

    @property
    def input(self) -> str:
        """The name of the only input."""
        (name,) = self.inputs
        return name


FACES = {
    "image": Face(inputs={"pixels": {0: "batch"}}, output="vector"),
    "text": Face(inputs={"ids": {0: "batch", 1: "length"}}, output="vector"),
    "compose": Face(inputs={"v": {0: "batch"}, "u": {0: "batch"}}, output="vector"),
    "rerank_image": Face(inputs={"pixels": {0: "batch"}}, output="tokens"),
}


class ComposedPictures(nn.Module):
    """What a gallery holds of pictures where the composer makes it, (n, dim)."""

    def __init__(self, model: ComposedModel) -> None:
        super().__init__()
        self.image, self.compose = model.image, model.compose

    def forward(self, pixels: Tensor) -> Tensor:
        """Return vectors of pixels (n, 3, size, size)."""
        vectors: Tensor = self.compose.pictures(self.image.read(pixels))
        return vectors


class ComposedWords(nn.Module):
    """What the composer reads of captions, (n, numbers)."""

    def __init__(self, model: ComposedModel) -> None:
        super().__init__()
        self.text, self.compose = model.text, model.compose

    def forward(self, ids: Tensor) -> Tensor:
        """Return it of ids (n, length)."""
        words: Tensor = self.compose.words(self.text.read(ids))
        return words


class ComposedQueries(nn.Module):
    """Queries (n, dim) of both."""

    def __init__(self, model: ComposedModel) -> None:
        super().__init__()
        self.compose = model.compose

    def forward(self, v: Tensor, u: Tensor) -> Tensor:
        """Compose v (n, dim) with u."""
        queries: Tensor = self.compose(v, u)[0]
        return queries


class PictureTokens(nn.Module):
    """The tokens that a model's image tower reads out of pictures, (n, places, width)."""

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image: Any = image

    def forward(self, pixels: Tensor) -> Tensor:
        """Return tokens (n, places, width) of pixels (n, 3, size, size)."""
        tokens: Tensor = self.image.read(pixels).tokens
        return tokens


def write_graph(
    role: str,
    module: nn.Module,
    example: Sequence[Tensor],
    path: Path,
    weights: Path,
    *,
    prefix: str = "",
) -> None:
    """Write a role's module to `path`, over the weight file that lies beside it.

    There the module's weights bear their own names behind `prefix`.
    """
    face = FACES[role]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(example),
            dynamo=True,
            input_names=list(face.inputs),
            output_names=[face.output],
            dynamic_shapes=tuple(dict(free) for free in face.inputs.values()),
            opset_version=OPSET,
            optimize=False,  # full optimization folds weights into new ones that nothing shares
            verbose=False,
        )
    if program is None:
        raise CheckpointError(f"{role}: PyTorch's exporter returned no graph.")
    optimizer.fold_constants(program.model, input_size_limit=16, output_size_limit=16)
    optimizer.remove_unused_nodes(program.model)
    model = onnx_ir.to_proto(program.model)
    share_weights(model, prefix, weights)
    for node in model.graph.node:  # the exporter's notes on where each node came from
        del node.metadata_props[:]
    path.write_bytes(model.SerializeToString())


def random_pixels(model: CirModel, n: int, seed: int) -> Tensor:
    """Return normal noise of the size of the model's pictures, (n, 3, size, size)."""
    size = model.config.preprocess.size
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_ids(model: CirModel, n: int, length: int, seed: int) -> Tensor:
    """Return n texts of random pieces, as long as the context at most: (n, length) int64."""
    vocabulary = int(model.text.vocabulary)
    shape = (n, min(length, model.config.context))
    return torch.randint(1, vocabulary, shape, generator=torch.Generator().manual_seed(seed))
