"""Configuration dataclasses to JSON and back, and what is refused on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cir_rt.config import from_dict, to_dict
from cir_rt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3
    mean: tuple[float, ...] = (0.5, 0.25)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.1
    fast: bool = False
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    limit: int | None = None
    parts: Mapping[str, Inner] = field(default_factory=dict)
    rows: tuple[Inner, ...] = ()
    free: Mapping[str, Any] = field(default_factory=dict)


FULL = Outer(
    name="a",
    rate=2.0,
    fast=True,
    inner=Inner(size=7),
    maybe=Inner(mean=()),
    limit=4,
    parts={"x": Inner(), "y": Inner(size=19)},
    rows=(Inner(size=1), Inner()),
    free={"deep": {"list": [1, "two", None]}},
)


@pytest.mark.parametrize("config", [Outer(name="b"), FULL], ids=["defaults", "full"])
def test_json_both_ways(config: Outer) -> None:
    values = json.loads(json.dumps(to_dict(config)))
    assert from_dict(Outer, values) == config
    assert to_dict(from_dict(Outer, values)) == values


def test_missing_keys_take_their_defaults() -> None:
    assert from_dict(Outer, {"name": "b"}) == Outer(name="b")
    assert from_dict(Outer, {**to_dict(FULL), "limit": None}) == replace(FULL, limit=None)


def test_whole_numbers_serve_as_floats() -> None:
    built = from_dict(Outer, {"name": "b", "rate": 2, "inner": {"mean": [1, 0]}})
    assert built == Outer(name="b", rate=2.0, inner=Inner(mean=(1.0, 0.0)))
    assert isinstance(built.rate, float)
    assert isinstance(built.inner.mean[0], float)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "b", "rat": 1.0}, "Outer has no setting 'rat'. Did you mean 'rate'"),
        ({"name": "b", "zzzzzz": 1.0}, "Known: fast, free, inner"),
        ({"name": "b", "inner": {"sise": 1}}, r"Outer\.inner has no setting 'sise'.*'size'"),
        ({"name": "b", "rows": [{"sise": 1}]}, "'sise'"),
        ({"name": "b", "parts": {"x": {"sise": 1}}}, r"Outer\.parts\.x has no setting"),
        ({}, "name"),
        ({"name": 3}, r"Outer\.name: expected str, got 3"),
        ({"name": "b", "rate": "fast"}, r"Outer\.rate: expected float"),
        ({"name": "b", "rate": True}, r"Outer\.rate: expected float"),
        ({"name": "b", "fast": 1}, r"Outer\.fast: expected bool"),
        ({"name": "b", "limit": 1.5}, r"Outer\.limit: expected int"),
        ({"name": "b", "limit": True}, r"Outer\.limit: expected int"),
        ({"name": "b", "inner": 3}, r"Outer\.inner: expected a table"),
        ({"name": "b", "inner": None}, r"Outer\.inner: expected a table"),
        ({"name": "b", "rows": 3}, r"Outer\.rows: expected a list"),
        ({"name": "b", "inner": {"mean": [0.5, None]}}, r"Outer\.inner\.mean: expected float"),
        ({"name": "b", "inner": {"size": 0}}, "at least 1, got 0"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_dict(Outer, values)


def test_the_caller_may_name_the_file() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.toml has no setting"):
        from_dict(Inner, {"sice": 3}, "recipe.toml")


@pytest.mark.parametrize("value", [[], 3, None, "x"])
def test_a_table_must_be_a_table(value: Any) -> None:
    with pytest.raises(ConfigError, match="expected a table"):
        from_dict(Outer, {"name": "b", "parts": value})


@pytest.mark.parametrize("value", [[], 3, None])
def test_the_whole_must_be_a_table(value: Any) -> None:
    with pytest.raises(ConfigError, match="expected a table"):
        from_dict(Inner, value)
