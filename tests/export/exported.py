"""A module as an ONNX graph, run by ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn


def run_exported(
    module: nn.Module,
    example: tuple[Tensor, ...],
    free: Sequence[dict[int, str]],
    folder: Path,
) -> Callable[..., np.ndarray]:
    """Export with free sizes and return what runs the graph's one output."""
    path = folder / "module.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example,
            path,
            dynamo=True,
            input_names=[f"x{k}" for k in range(len(example))],
            dynamic_shapes=tuple(free),
            opset_version=18,
            optimize=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> np.ndarray:
        feeds = {f"x{k}": x.numpy() for k, x in enumerate(inputs)}
        return np.asarray(session.run(None, feeds)[0])

    return run
