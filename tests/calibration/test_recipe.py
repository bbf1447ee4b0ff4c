"""Check that a quantization recipe is a value."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cir_rt.calibration import recipe
from cir_rt.calibration.recipe import Int8Recipe, candidates
from cir_rt.config import from_dict, to_dict
from cir_rt.errors import ConfigError


def test_a_recipe_is_frozen() -> None:
    mine = Int8Recipe(operators=("Conv",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        mine.method = "entropy"  # type: ignore[misc]
    assert mine == Int8Recipe(operators=("Conv",))
    assert hash(mine) == hash(Int8Recipe(operators=("Conv",)))
    with pytest.raises(TypeError):
        Int8Recipe(("Conv",))  # type: ignore[misc]


@pytest.mark.parametrize(
    "mine",
    [
        Int8Recipe(),
        Int8Recipe(operators=("Conv", "Gemm"), signed_activations=True, method="percentile"),
        Int8Recipe(reduce_range=True, per_channel=False),
    ],
)
def test_json_leads_both_ways(mine: Int8Recipe) -> None:
    assert from_dict(Int8Recipe, json.loads(json.dumps(to_dict(mine)))) == mine


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "median"}, "method must be one of minmax, entropy, percentile, got 'median'"),
        ({"operators": []}, "operators is empty"),
        ({"methd": "minmax"}, "Did you mean 'method'"),
        ({"per_channel": "yes"}, "expected bool"),
        ({"operators": "Conv"}, "expected a list"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Int8Recipe, values)


@pytest.mark.parametrize(
    ("instructions", "arm", "signed", "reduced"),
    [
        ("avx512_vnni", False, False, False),
        ("avx2", False, False, True),
        ("asimddp", True, True, False),
        ("asimd", True, True, False),
    ],
)
def test_candidates_follow_the_machine(
    monkeypatch: pytest.MonkeyPatch, instructions: str, arm: bool, signed: bool, reduced: bool
) -> None:
    monkeypatch.setattr(recipe, "instruction_set", lambda: instructions)
    monkeypatch.setattr(recipe, "is_arm", lambda: arm)
    found = candidates()
    assert [("Conv" in r.operators) for r in found] == [False, True]
    assert {r.signed_activations for r in found} == {signed}
    assert {r.reduce_range for r in found} == {reduced}
