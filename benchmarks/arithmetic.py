"""How many multiplications a graph asks for, and how many a device does in a second."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = ("MatMul", "MatMulInteger", "Gemm")
SIDE = 8192  # of the square matrices that a GPU is timed with
RUNS = 20
LARGE = 4096  # bytes of a weight that no shape depends on


def multiplications(path: Path, sizes: Mapping[str, int]) -> int:
    """Return the multiply-accumulates of a graph's matrix products; `sizes` are its free axes.

    Raises ValueError where the shape of a product does not follow from them.
    """
    model = _standard(onnx.load(path))
    for value in model.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = sizes[axis.dim_param]
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if all(axis.HasField("dim_value") for axis in dims):
            shapes[value.name] = tuple(axis.dim_value for axis in dims)
    total = 0
    for node in inferred.node:
        if node.op_type in PRODUCTS:
            names = [node.input[0], node.output[0]]
            if unknown := [name for name in names if name not in shapes]:
                raise ValueError(f"{path.name}: {node.name} has {unknown} of unknown shape")
            rows, out = (shapes[name] for name in names)
            total += math.prod(out) * rows[-1]
    return total


def of_query(folder: Path, sizes: Mapping[str, int], candidates: int, kept: int | None) -> int:
    """Return a query's multiply-accumulates through a re-ranker's graphs.

    All candidates go the full depth; or, where `kept` says how many do, the rest stop behind the
    early layers. `sizes` are `places` and `length`. A graph's work grows with its candidates alone.
    """
    parts = {"rerank": candidates}
    if kept is not None:
        parts = {"rerank_early": candidates, "rerank_late": kept}
    once = multiplications(folder / "rerank_query.onnx", sizes)
    one = {**sizes, "candidates": 1}
    return once + sum(n * multiplications(folder / f"{r}.onnx", one) for r, n in parts.items())


def pace(
    work: Mapping[str, int], times: Mapping[str, list[float]], most: float | None
) -> dict[str, Any]:
    """Return each side's GMAC a query, GMAC/s at its median and their share of `most` a second."""
    per_s = {name: 1000 * work[name] / statistics.median(ms) for name, ms in times.items()}
    return {
        "gmac": {name: round(work[name] / 1e9, 2) for name in times},
        "gmac_per_s": {name: round(value / 1e9, 1) for name, value in per_s.items()},
        "peak_gmac_per_s": most and round(most / 1e9, 1),
        "share_of_peak": most and {name: round(value / most, 4) for name, value in per_s.items()},
    }


def of_module(run: Callable[[], object]) -> int:
    """Return the multiply-accumulates of what PyTorch computes in a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def _standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in ONNX's own operators, whose shapes it can infer, without large weights."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > LARGE:
            tensor.ClearField("raw_data")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type == "MatMulIntegerToFloat":
            (out,) = node.output
            product = helper.make_node("MatMulInteger", node.input[:2], [f"{out}.int32"])
            model.graph.node.extend(
                [product, helper.make_node("Cast", product.output, [out], to=1)]
            )
        else:
            model.graph.node.append(node)
    return model


def peak(device: str, given: float | None = None) -> float | None:
    """Return the most multiply-accumulates a second: `given` in TMAC/s, or as a GPU is measured.

    That is the best of some products of large FP16 matrices. None of a CPU.
    """
    if given or device == "cpu":
        return given and 1e12 * given
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.float16) for _ in range(2))

    def once() -> float:
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    return SIDE**3 / min(once() for _ in range(RUNS))
