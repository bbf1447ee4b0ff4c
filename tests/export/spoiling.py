"""Quantizers that spoil a role's graph, so that gates have something to close on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from cir_rt.calibration.recipe import Recipe

Feeds = Sequence[dict[str, np.ndarray]]


def quantizer(change: Callable[[onnx.ModelProto], None], role: str = "image") -> type:
    """Return one that spoils the role's graph and copies the others."""

    class Spoiler:
        def __init__(self, graph: Path, feeds: Feeds) -> None:
            assert feeds
            self.graph = graph

        def write(self, recipe: Recipe, out: Path) -> int:
            model = onnx.load(self.graph)
            if self.graph.name.startswith(role):
                change(model)
            onnx.save(model, out)
            return 1

    return Spoiler


def turned(model: onnx.ModelProto) -> None:
    """Negate every vector: at peace with itself, but not with an FP32 gallery."""
    (output,) = model.graph.output
    for node in model.graph.node:
        for k, name in enumerate(node.output):
            if name == output.name:
                node.output[k] = "before"
    model.graph.node.append(helper.make_node("Neg", ["before"], [output.name]))


def use(monkeypatch: pytest.MonkeyPatch, replacement: type) -> None:
    monkeypatch.setattr("cir_rt.export.build.candidates.Quantizer", replacement)
