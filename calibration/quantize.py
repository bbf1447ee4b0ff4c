"""From an FP32 graph to an INT8 graph, by a recipe and real inputs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from cir_rt.calibration.recipe import Int8Recipe
from cir_rt.errors import ConfigError

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# Between two quantized convolutions these stay in INT8 too, else each edge pays a conversion.
_FOLLOWERS = ("Relu", "Add", "MaxPool", "Clip")
SMALLEST = 16  # a product with fewer rows or columns loses more than it gains


class _Feeds(CalibrationDataReader):
    def __init__(self, feeds: Sequence[dict[str, np.ndarray]]) -> None:
        self._rest = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


def quantize(
    graph: Path, out: Path, recipe: Int8Recipe, feeds: Sequence[dict[str, np.ndarray]]
) -> int:
    """Write the quantized graph; return how many operators were quantized.

    `feeds` are the engine's own inputs from real pictures or captions, a batch each. Raises
    ConfigError without them: ranges guessed from noise are worth nothing.
    """
    if not feeds:
        raise ConfigError("no calibration inputs. Give real pictures and captions, 500 or more.")
    model = onnx.load(graph)
    nodes = _quantizable(model, recipe.operators)
    if not nodes:
        return 0
    activation = QuantType.QInt8 if recipe.signed_activations else QuantType.QUInt8
    with tempfile.TemporaryDirectory() as folder, _quiet():
        raw = Path(folder) / "quantized.onnx"
        quantize_static(
            graph,
            raw,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=activation,
            weight_type=QuantType.QInt8,
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            calibrate_method=_METHODS[recipe.method],
            op_types_to_quantize=[*recipe.operators, *_FOLLOWERS],
            nodes_to_quantize=[*nodes, *_followers(model, nodes, recipe.operators)],
            # The second keeps each Relu: symmetric ranges do not clip at zero in its stead.
            extra_options={
                "CalibTensorRangeSymmetric": recipe.signed_activations,
                "ActivationSymmetric": recipe.signed_activations,
            },
        )
        onnx.save(onnx.load(raw), out)
    return len(nodes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the library's advice, which it gives to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _quantizable(model: onnx.ModelProto, operators: Sequence[str]) -> list[str]:
    """Name the operators with constant weights of a useful size."""
    sizes = {w.name: tuple(w.dims) for w in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if node.op_type not in operators or len(node.input) < 2 or node.input[1] not in sizes:
            continue
        if node.op_type == "Conv" or min(sizes[node.input[1]][-2:]) >= SMALLEST:
            names.append(node.name)
    return names


def _followers(model: onnx.ModelProto, nodes: Sequence[str], operators: Sequence[str]) -> list[str]:
    if "Conv" not in operators:
        return []
    producers: dict[str, Any] = {o: node for node in model.graph.node for o in node.output}
    chosen = set(nodes)
    for node in model.graph.node:  # topological order: a follower may follow a follower
        sources = [producers[i] for i in node.input if i in producers]
        if node.op_type in _FOLLOWERS and sources and all(s.name in chosen for s in sources):
            chosen.add(node.name)
    return [name for name in chosen if name not in set(nodes)]
