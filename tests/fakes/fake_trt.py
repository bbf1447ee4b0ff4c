"""TensorRT played by ONNX Runtime behind TensorRT's own calls, on every recorded surface.

A "plan" is the graph with the version and the capabilities that it was built for. What TensorRT
refuses is refused: operators that its parser does not know, zero points, weakly typed networks,
shapes outside the profile, addresses that are not on the GPU. This shows that the calls are those
that each version takes and that the way of the data is right; it is not a run on a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_trt_build
import fake_trt_run
import fake_trt_types
import onnx
from fake_gpu import FakeGpu
from fake_trt_types import MAGIC
from trt_surface import CLASSES, module, recorded

SURFACES = {
    "10.3": "tensorrt-10.3.0",
    "10.16": "tensorrt-10.16.1.11",
    "11.4": "tensorrt-11.4.0.106",
    "rtx": "tensorrt-rtx-1.7.1.116",
}
BEHAVIOURS: dict[str, type] = {
    name: getattr(half, name)
    for half in (fake_trt_types, fake_trt_build, fake_trt_run)
    for name in CLASSES
    if hasattr(half, name)
}


def fake_trt(surface: str, gpu: FakeGpu) -> ModuleType:
    """Return the module of a surface by its short name, on a GPU that is played too."""
    name = "tensorrt_rtx" if surface == "rtx" else "tensorrt"
    trt = module(name, recorded(SURFACES[surface]), BEHAVIOURS)
    trt._gpu = gpu  # type: ignore[attr-defined]
    return trt


def plan_facts(plan: Path) -> dict[str, Any]:
    """Return what a fake plan says of its build."""
    facts: dict[str, Any] = json.loads(_parts(plan)[1])
    return facts


def plan_graph(plan: Path) -> onnx.GraphProto:
    """Return the graph that a fake plan is."""
    return onnx.load_from_string(_parts(plan)[2]).graph


def _parts(plan: Path) -> list[bytes]:
    return plan.read_bytes()[len(MAGIC) :].split(b"\n", 2)
