"""The search of `auto`, the gate without labels, and the bundle that a new one replaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builds import LOOSE, options, stub_race
from onnx import numpy_helper
from test_build_gates import blinded, quantizer, use
from test_calibration_set import plain

from cir_rt.bundle import open_bundle
from cir_rt.calibration.gate import Duel, cosines
from cir_rt.calibration.quantize import Quantizer
from cir_rt.calibration.recipe import Recipe
from cir_rt.errors import GateError
from cir_rt.export.build import BuildReport, build_engine
from cir_rt.export.build.backends.onnxruntime import OnnxRuntimeBackend
from cir_rt.export.build.candidates import measured
from cir_rt.export.build.frontier import Point, table, write
from cir_rt.export.data.dataset import Dataset


def fragile(layer: str) -> type:
    """Return a quantizer that ruins one layer as long as the recipe quantizes it."""

    class Ruin(Quantizer):
        def write(self, recipe: Recipe, out: Path) -> int:
            count = super().write(recipe, out)
            if count and self.graph.name.startswith("image") and layer not in recipe.keep:
                model = onnx.load(out)
                node = next(n for n in model.graph.node if n.name == layer)
                for scale in model.graph.initializer:
                    if scale.name in _scales(model, node):
                        values = numpy_helper.to_array(scale)
                        factors = np.random.default_rng(0).choice([0.0, 4.0], values.shape)
                        ruined = (values * factors).astype(np.float32)
                        scale.CopyFrom(numpy_helper.from_array(ruined, scale.name))
                onnx.save(model, out)
            return count

    return Ruin


def _scales(model: onnx.ModelProto, node: onnx.NodeProto) -> set[str]:
    """Name the scales of a product's weight."""
    return {n.input[1] for n in model.graph.node if n.output[0] == node.input[1]}


def convolutions(graphs: Path, tmp_path: Path) -> list[str]:
    """Name the image tower's convolutions, as a build names them."""
    from cir_rt.export.build.candidates import _materialise

    _materialise(graphs / "image.onnx", tmp_path / "image.onnx")
    nodes = onnx.load(tmp_path / "image.onnx").graph.node
    return [node.name for node in nodes if node.op_type == "Conv"]


def race_of(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """Let INT8 win against FP32, and nothing win against INT8."""
    seen: list[int] = []

    def race(before: Any, after: Any, **settings: object) -> Duel:
        seen.append(1)
        return Duel(before_ms=1.0, after_ms=ratio if len(seen) < 3 else 1.0, spread=0.0)

    monkeypatch.setattr("cir_rt.export.build.race.duel", race)


def test_auto_gives_back_the_layer_that_suffers(
    twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = convolutions(twins, tmp_path)[1]
    use(monkeypatch, fragile(layer))
    race_of(monkeypatch, 0.5)
    chosen = options("auto", min_cosine=0.95)
    report = build_engine(twins, tmp_path / "made.cir", chosen)
    assert report.precisions["image"] == "int8"
    recipe = open_bundle(tmp_path / "made.cir").manifest.roles["image"].recipe
    assert layer in recipe["keep"]
    assert report.recall_after["R@1"] > report.recall_before["R@1"] - 0.5
    assert any("kept; " in note for note in report.notes)
    ways = [point for point in report.frontier if point.role == "image"]
    assert {point.way for point in ways} >= {"fp32", "int8+MatMul+Gemm"}
    assert sum(point.chosen for point in ways) == 1


def test_cosine_is_a_gate(twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, quantizer(blinded))
    settings = {"keep_slower": True, "max_recall_drop": LOOSE, "min_cosine": 0.98}
    with pytest.raises(GateError, match=r"image: the cosine to FP32 is 0\.\d+.*--min-cosine"):
        build_engine(twins, tmp_path / "made.cir", options("int8", **settings))
    assert not list(tmp_path.iterdir())


def test_without_labels_the_gate_is_agreement(
    graphs: Path, drawn: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = plain(tmp_path / "photos", drawn, 48)
    stub_race(monkeypatch, 0.5)
    kept = options("int8", min_agreement=70.0)
    report = build_engine(graphs, tmp_path / "a.cir", kept, calibration=photos)
    assert 70 <= report.agreement <= 100
    assert report.recall_before == report.recall_after == {}
    quality = open_bundle(tmp_path / "a.cir").manifest.quality
    assert not quality["calibration"]["labelled"]
    assert quality["gates"][0]["limit"] == 70.0
    use(monkeypatch, quantizer(blinded))
    with pytest.raises(GateError, match=r"% of FP32's top 10 are found again, the limit is 70"):
        build_engine(graphs, tmp_path / "b.cir", kept, calibration=photos)


def test_a_standing_bundle_is_not_replaced_by_a_slower_one(
    built: dict[str, tuple[Path, BuildReport]],
    graphs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "made.cir"
    stub_race(monkeypatch, 0.5)
    build_engine(graphs, out, options("int8", max_recall_drop=LOOSE))
    stub_race(monkeypatch, 2.0)
    with pytest.raises(GateError, match=r"one query, beside that of .*made\.cir: 2\.00 ms, slower"):
        build_engine(graphs, out, options("fp32"))
    assert open_bundle(out).manifest.precisions["image"] == "int8"
    build_engine(graphs, out, options("fp32", keep_slower=True))
    assert open_bundle(out).manifest.precisions["image"] == "fp32"
    build_engine(graphs, out, options("fp32"))  # the same graphs: nothing to race


def test_the_frontier_is_a_table_and_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fast = Point(role="image", way="int8+MatMul", ms=1.0, drop=0.25, cosine=0.999, chosen=True)
    points = [replace(fast, way="fp32", ms=2.0, drop=0.0, cosine=1.0, chosen=False), fast]
    lines = table(points).splitlines()
    assert lines[2] == "| image | int8+MatMul | 1.000 | 0.25 | 0.99900 | chosen |"
    assert lines[3].startswith("| image | fp32 | 2.000 | 0.00 | 1.00000 |")
    write(points, tmp_path / "report", limit=0.5)
    assert (tmp_path / "report/frontier.md").read_text() == table(points)
    assert (tmp_path / "report/frontier.png").stat().st_size > 5000
    write([], tmp_path / "empty", limit=0.5)


class Inputs:
    """Calibration inputs of a graph of one input `x`."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def feeds(self, role: str) -> list[dict[str, np.ndarray]]:
        return [{"x": self.rows[:64]}, {"x": self.rows[64:]}]


@pytest.mark.parametrize(("outlier", "smooth"), [(100.0, 0.5), (1.0, None)])
def test_outliers_are_folded_where_that_helps(
    tmp_path: Path, outlier: float, smooth: float | None
) -> None:
    rng = np.random.default_rng(0)
    scale = np.ones(32, np.float32)
    scale[[3, 19]] = outlier
    weights = {
        "scale": scale,
        "weight": (rng.standard_normal((32, 24)) / scale[:, None]).astype(np.float32),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        onnx.helper.make_node("LayerNormalization", ["x", "scale"], ["n"], name="norm"),
        onnx.helper.make_node("MatMul", ["n", "weight"], ["y"], name="product"),
        onnx.helper.make_node("ReduceL2", ["y", "axes"], ["l"], name="length", keepdims=1),
        onnx.helper.make_node("Div", ["y", "l"], ["vector"], name="unit"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "norm",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", 32])],
        [onnx.helper.make_tensor_value_info("vector", kind, ["n", 24])],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "x")
    inputs: Any = Inputs(rng.standard_normal((111, 32), np.float32))
    exact = measured("text", tmp_path / "x", inputs.feeds("text"), 1)
    backend = OnnxRuntimeBackend(options("int8"), inputs, tmp_path, {})
    (way,) = backend.candidates(exact, "int8")
    assert way.recipe is not None
    assert way.recipe.smooth == smooth
    assert cosines(exact.vectors, way.vectors).mean > 0.999
