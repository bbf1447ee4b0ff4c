"""From an FP32 graph to a quantized graph, by a recipe and real inputs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from cir_rt.calibration.float8 import to_float8
from cir_rt.calibration.half import to_half
from cir_rt.calibration.recipe import Recipe
from cir_rt.calibration.smooth import smooth
from cir_rt.errors import ConfigError

Feeds = Sequence[dict[str, np.ndarray]]

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# Between two quantized convolutions these stay in INT8 too, else each edge pays a conversion.
_FOLLOWERS = ("Relu", "Add", "MaxPool", "Clip")
# A product's output goes on in floating point. Quantizing it too costs accuracy, and time: on a
# ViT-B/32 with one AVX512-VNNI core 34.5 ms instead of 33.1, FP32 being 97.5.
_FLOAT_OUTPUTS = ("MatMul", "Gemm")
SMALLEST = 16  # a product with fewer rows or columns loses more than it gains


@dataclass
class Quantizer:
    """One FP32 graph and its real inputs; every recipe of one method shares the ranges.

    `feeds` are the engine's own inputs from real pictures or captions, a batch each. Raises
    ConfigError without them: ranges guessed from noise are worth nothing.
    """

    graph: Path
    feeds: Feeds
    _ranges: dict[tuple[Any, ...], TensorsData] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.feeds:
            raise ConfigError(
                "no calibration inputs. Give real pictures and captions, 500 or more."
            )

    def write(self, recipe: Recipe, out: Path) -> int:
        """Write the quantized graph; return how many operators were quantized.

        Nothing is written where that is none, unless for `fp16`, which casts all the rest too.
        """
        model = onnx.load(self.graph)
        nodes = quantizable(model, recipe)
        if not nodes and recipe.format != "fp16":
            return 0
        with tempfile.TemporaryDirectory() as folder, _quiet():
            source = self.graph
            if recipe.smooth is not None:
                source = Path(folder) / "smooth.onnx"
                onnx.save(smooth(model, self.feeds, recipe.smooth), source)
            if recipe.format != "fp16":
                model = self._with_scales(source, nodes, recipe)
            elif recipe.smooth is not None:
                model = onnx.load(source)
            if recipe.format == "fp8":
                model = to_float8(model, onnx.load(source))
            if recipe.half or recipe.format == "fp16":
                model = to_half(model, recipe.keep if recipe.format == "fp16" else ())
            onnx.save(model, out)
        return len(nodes)

    def _with_scales(self, source: Path, nodes: list[str], recipe: Recipe) -> onnx.ModelProto:
        """Return the graph with QuantizeLinear and DequantizeLinear around the nodes."""
        model = load_model_with_shape_infer(source)
        followers = _followers(model, nodes, recipe.operators)
        quantizer = QDQQuantizer(
            model,
            recipe.per_channel,
            recipe.reduce_range,
            QuantType.QInt8,
            QuantType.QInt8 if recipe.symmetric else QuantType.QUInt8,
            self._tensors(source, recipe),
            [*nodes, *followers],
            [],
            _touched(recipe),
            # The symmetry of activations keeps each Relu: such ranges do not clip in its stead.
            {
                "ActivationSymmetric": recipe.symmetric,
                "QuantizeBias": recipe.bias,
                "OpTypesToExcludeOutputQuantization": list(_FLOAT_OUTPUTS),
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # it appends what it adds
        return quantizer.model.model

    def _tensors(self, source: Path, recipe: Recipe) -> TensorsData:
        """Return every tensor's range, measured once for all recipes that agree on how."""
        key = (recipe.method, recipe.symmetric, recipe.operators, recipe.smooth)
        if key not in self._ranges:
            with tempfile.TemporaryDirectory() as folder:
                calibrator = create_calibrator(
                    source,
                    _touched(recipe),
                    str(Path(folder) / "augmented.onnx"),
                    _METHODS[recipe.method],
                    extra_options={"symmetric": recipe.symmetric},
                )
                for feed in self.feeds:  # one by one: histograms hold every activation of a call
                    calibrator.collect_data(_Feeds([feed]))
                self._ranges[key] = calibrator.compute_data()
        return self._ranges[key]


def quantize(graph: Path, out: Path, recipe: Recipe, feeds: Feeds) -> int:
    """Write one quantized graph; return how many operators were quantized (see Quantizer)."""
    return Quantizer(graph, feeds).write(recipe, out)


def quantizable(model: onnx.ModelProto, recipe: Recipe) -> list[str]:
    """Name the operators with constant weights of a useful size that the recipe does not keep."""
    sizes = {w.name: tuple(w.dims) for w in model.graph.initializer}
    names = []
    for node in model.graph.node:
        weighs = node.op_type in recipe.operators and len(node.input) > 1 and node.input[1] in sizes
        if not weighs or node.name in recipe.keep:
            continue
        if node.op_type == "Conv" or min(sizes[node.input[1]][-2:]) >= SMALLEST:
            names.append(node.name)
    return names


class _Feeds(CalibrationDataReader):
    def __init__(self, feeds: Feeds) -> None:
        self._rest = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the library's advice, which it gives to the root logger and to stdout."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        root.setLevel(level)


def _touched(recipe: Recipe) -> list[str]:
    """Return the operators whose tensors need ranges."""
    return [*recipe.operators, *(_FOLLOWERS if "Conv" in recipe.operators else ())]


def _followers(model: onnx.ModelProto, nodes: Sequence[str], operators: Sequence[str]) -> list[str]:
    if "Conv" not in operators:
        return []
    producers: dict[str, Any] = {o: node for node in model.graph.node for o in node.output}
    chosen = {n.name for n in model.graph.node if n.name in set(nodes) and n.op_type == "Conv"}
    found = []
    for node in model.graph.node:  # topological order: a follower may follow a follower
        sources = [producers[i] for i in node.input if i in producers]
        if node.op_type in _FOLLOWERS and sources and all(s.name in chosen for s in sources):
            chosen.add(node.name)
            found.append(node.name)
    return found
