"""Fewer tokens a picture: neighbours on the grid become their average.

The first token stands for the whole picture (a class token) and is kept; the rest lie on a square
grid, row by row. 577 -> 145 averages squares of 2 x 2, 577 -> 65 squares of 3 x 3. Where the sides
do not divide, windows overlap as adaptive average pooling has them: window i of s over a side g is
from floor(i g / s) to ceil((i + 1) g / s), so that 26 -> 10 averages 2 x 2 that share their edges.
Averages of neighbours as tokens of a coarser picture: Cai, Yang, Gao, Lee, "Matryoshka Multimodal
Models" (ICLR 2025; arXiv 2405.17430).
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cir_rt.errors import ConfigError

TOKENS = "tokens"  # the output of an image engine that is merged


def merging(places: int, fewer: int) -> np.ndarray:
    """Return what (places, width) is multiplied by from the left, (fewer, places) float32.

    Raises ConfigError where either is not 1 more than a square, or `fewer` are not fewer.
    """
    side, kept = (math.isqrt(n - 1) for n in (places, fewer))
    if side**2 + 1 != places or kept**2 + 1 != fewer or not 0 < kept < side:
        fit = ", ".join(str(n**2 + 1) for n in range(1, side)) or "none, there are too few"
        raise ConfigError(
            f"{places} tokens cannot become {fewer}: one is the whole picture's, the rest lie on a "
            f"square grid. Expected one of: {fit}."
        )
    windows = np.zeros((kept, side))
    for i in range(kept):
        start, stop = i * side // kept, -(-(i + 1) * side // kept)
        windows[i, start:stop] = 1 / (stop - start)
    matrix = np.zeros((fewer, places), np.float32)
    matrix[0, 0] = 1
    matrix[1:, 1:] = np.kron(windows, windows)
    return matrix


def merge_tokens(model: onnx.ModelProto, fewer: int) -> onnx.ModelProto:
    """Return an image engine's graph whose `tokens` (batch, places, width) are merged.

    Raises ConfigError where `merging` does, and for a graph without such an output.
    """
    merged = onnx.ModelProto()
    merged.CopyFrom(model)
    graph = merged.graph
    output = next((o for o in graph.output if o.name == TOKENS), None)
    if output is None:
        raise ConfigError(f"{graph.name} has no output '{TOKENS}': no image engine of a re-ranker.")
    _, places, _ = output.type.tensor_type.shape.dim
    matrix = merging(places.dim_value, fewer)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["all_tokens" if name == TOKENS else name for name in names]
    graph.initializer.append(numpy_helper.from_array(matrix, "merging"))
    graph.node.append(helper.make_node("MatMul", ["merging", "all_tokens"], [TOKENS], name=TOKENS))
    places.dim_value = fewer
    return merged
