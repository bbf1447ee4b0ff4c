"""Frozen configuration dataclasses to plain JSON values and back."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from cir_rt.errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Return the dataclass as JSON-ready values (tuples become lists)."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from plain values.

    Raises ConfigError for an unknown key (naming the nearest one), a missing key, or a value that
    the dataclass itself refuses.
    """
    label = where or cls.__name__
    if not isinstance(values, Mapping):
        raise ConfigError(f"{label}: expected a table of settings, got {values!r}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = (
                f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(sorted(fields))}."
            )
            raise ConfigError(f"{label} has no setting '{key}'.{hint}")
    built = {key: _typed(hints[key], value, f"{label}.{key}") for key, value in values.items()}
    try:
        return cls(**built)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{label}: {error}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        return _typed(inner[0], value, where) if len(inner) == 1 else value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {value!r}.")
        return tuple(_typed(arguments[0], item, where) for item in value)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a table, got {value!r}.")
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool):
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
        if not fits:
            raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}.")
    return value
