"""Find the layer that suffers, and give it back first."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cir_rt.calibration.quantize import Quantizer, quantizable
from cir_rt.calibration.recipe import Recipe
from cir_rt.calibration.sensitivity import Group, Trial, give_back_order, groups, path

WIDTH, LAYERS, FRAGILE = 24, 7, 4


def chain() -> onnx.ModelProto:
    """Seven products in a row; one of them reads a channel 60 times the others."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for k in range(LAYERS):
        if k == FRAGILE:
            large = np.ones(WIDTH, np.float32)
            large[5] = 60
            small = np.diag(1 / large) @ rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
            weights.append(numpy_helper.from_array(large, "large"))
            nodes.append(helper.make_node("Mul", [last, "large"], ["outlier"], name="outlier"))
            weight, last = small, "outlier"
        else:
            weight = rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{k}"], [f"y{k}"], name=f"layer{k}"))
        last = f"y{k}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", WIDTH])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def loss(got: np.ndarray, wanted: np.ndarray) -> float:
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    return 1 - float(((got * wanted).sum(1) / norms).mean())


def test_the_fragile_layer_comes_back_first(tmp_path: Path) -> None:
    onnx.save(chain(), tmp_path / "fp32.onnx")
    x = np.random.default_rng(1).standard_normal((111, WIDTH), np.float32)
    wanted = run(tmp_path / "fp32.onnx", x)
    quantizer = Quantizer(tmp_path / "fp32.onnx", [{"x": x}])

    def damage(recipe: Recipe) -> float:
        assert quantizer.write(recipe, tmp_path / "out.onnx")
        return loss(run(tmp_path / "out.onnx", x), wanted)

    recipe = Recipe()
    parts = groups(chain(), recipe)
    assert parts == [(f"layer{k}",) for k in range(LAYERS)]
    order = give_back_order(
        parts, recipe, lambda r: Trial(damage=damage(r), saved_ms=1.0, noise_ms=0.1)
    )
    assert order[0].nodes == (f"layer{FRAGILE}",)
    losses = [damage(point) for point in (recipe, *path(order, recipe, points=LAYERS))]
    assert losses[1] < 0.2 * losses[0]
    assert losses == sorted(losses, reverse=True)


def test_a_layer_is_measured_alone() -> None:
    model, recipe = chain(), Recipe(keep=("layer0",))
    seen: list[list[str]] = []

    def measure(lone: Recipe) -> Trial:
        seen.append(quantizable(model, lone))
        return Trial(damage=1.0, saved_ms=1.0, noise_ms=0.0)

    give_back_order(groups(model, recipe), recipe, measure)
    assert seen == [[f"layer{k}"] for k in range(1, LAYERS)]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 19])
def test_groups_are_neighbours_and_bounded(most: int) -> None:
    parts = groups(chain(), Recipe(), most)
    assert [node for part in parts for node in part] == [f"layer{k}" for k in range(LAYERS)]
    assert len(parts) <= most
    assert groups(chain(), Recipe(operators=("Conv",)), most) == []


def test_damage_counts_per_millisecond() -> None:
    cheap = Group(nodes=("a",), damage=0.02, saved_ms=0.1)
    dear = Group(nodes=("b",), damage=0.04, saved_ms=1.0)
    useless = Group(nodes=("c",), damage=0.01, saved_ms=-0.2)
    worths = [group.worth(0.01) for group in (cheap, dear, useless)]
    assert worths == pytest.approx([0.2, 0.04, 1.0])


@pytest.mark.parametrize("points", [1, 2, 4, 19])
def test_the_path_gives_back_ever_more(points: int) -> None:
    order = [Group(nodes=(f"n{k}", f"m{k}"), damage=1.0, saved_ms=1.0) for k in range(7)]
    recipes = path(order, Recipe(keep=("head",)), points)
    assert len(recipes) == min(points, 6)
    kept = [recipe.keep for recipe in recipes]
    assert kept[0] == ("head", "n0", "m0")
    for less, more in pairwise(kept):
        assert more[: len(less)] == less
        assert len(more) > len(less)
    assert path(order[:1], Recipe(), points) == path([], Recipe(), points) == []
