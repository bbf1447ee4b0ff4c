"""Check that a quantization recipe is a value."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cir_rt.calibration import recipe
from cir_rt.calibration.recipe import Recipe, candidates, tensorrt_candidates
from cir_rt.config import from_dict, to_dict
from cir_rt.errors import ConfigError


def test_a_recipe_is_frozen() -> None:
    mine = Recipe(operators=("Conv",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        mine.method = "entropy"  # type: ignore[misc]
    assert mine == Recipe(operators=("Conv",))
    assert hash(mine) == hash(Recipe(operators=("Conv",)))
    with pytest.raises(TypeError):
        Recipe(("Conv",))  # type: ignore[misc]


@pytest.mark.parametrize(
    "mine",
    [
        Recipe(),
        Recipe(operators=("Conv", "Gemm"), format="s8s8", method="percentile"),
        Recipe(reduce_range=True, per_channel=False),
        Recipe(format="fp8", smooth=0.5, keep=("one", "two"), half=True, bias=False),
    ],
)
def test_json_leads_both_ways(mine: Recipe) -> None:
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(mine)))) == mine


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "median"}, "method must be one of minmax, entropy, percentile, got 'median'"),
        ({"operators": []}, "operators is empty"),
        ({"format": "u4s4"}, "format must be one of u8s8, s8s8, fp8, fp16, got 'u4s4'"),
        ({"smooth": 1.5}, r"smooth must be from 0 to 1, got 1\.5"),
        ({"format": "s8s8", "reduce_range": True}, "reduce_range is for u8s8 alone"),
        ({"methd": "minmax"}, "Did you mean 'method'"),
        ({"per_channel": "yes"}, "expected bool"),
        ({"operators": "Conv"}, "expected a list"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Recipe, values)


@pytest.mark.parametrize(
    ("instructions", "arm", "layout", "reduced"),
    [
        ("avx512_vnni", False, "u8s8", False),
        ("avx2", False, "u8s8", True),
        ("asimddp", True, "s8s8", False),
        ("asimd", True, "s8s8", False),
    ],
)
def test_candidates_follow_the_machine(
    monkeypatch: pytest.MonkeyPatch, instructions: str, arm: bool, layout: str, reduced: bool
) -> None:
    monkeypatch.setattr(recipe, "instruction_set", lambda: instructions)
    monkeypatch.setattr(recipe, "is_arm", lambda: arm)
    found = candidates()
    assert [("Conv" in r.operators) for r in found] == [False, True]
    assert {r.format for r in found} == {layout}
    assert {r.reduce_range for r in found} == {reduced}


def test_recipes_for_tensorrt_are_symmetric_and_half() -> None:
    for precision in ("fp16", "int8", "fp8"):
        for mine in tensorrt_candidates(precision):
            assert mine.precision == precision
            assert mine.symmetric
            assert mine.half


def test_a_recipe_reads_in_a_line() -> None:
    assert str(Recipe()) == "int8+MatMul+Gemm"
    assert str(Recipe(smooth=0.5, keep=("a", "b"))) == "int8+MatMul+Gemm+smooth 0.5+2 kept"
    assert str(Recipe(format="fp16")) == "fp16"
