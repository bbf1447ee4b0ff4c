"""What a condition means, in plain Python: the oracle of the SQL that it is compiled to.

True, false, and None for unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cir_rt.gallery.condition import (
    AllOf,
    AnyOf,
    Condition,
    Contains,
    Equals,
    Field,
    IsNull,
    Like,
    Not,
    Ordered,
    Value,
)

JSON_NUMBER = re.compile(r"[ \t\n\r]*-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?[ \t\n\r]*")
MISSING = object()


def meets(condition: Condition, item_id: str, metadata: Mapping[str, Any]) -> bool | None:
    if isinstance(condition, Not):
        found = meets(condition.condition, item_id, metadata)
        return None if found is None else not found
    if isinstance(condition, (AllOf, AnyOf)):
        decides = isinstance(condition, AnyOf)
        found = [meets(c, item_id, metadata) for c in condition.conditions]
        return decides if decides in found else None if None in found else not decides
    assert isinstance(condition, (Equals, Ordered, Like, Contains, IsNull))
    return _compared(condition, looked_up(condition.field, item_id, metadata))


def looked_up(field: Field, item_id: str, metadata: Mapping[str, Any]) -> Any:
    value: Any = metadata if field.names else item_id
    for name in field.names:
        value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    return value


def _compared(condition: Condition, stored: Any) -> bool | None:
    known = stored is not MISSING and stored is not None
    if isinstance(condition, IsNull):
        return not known
    if not known:
        return None
    if isinstance(condition, Equals):
        return any(_equal(stored, value) for value in condition.values)
    if isinstance(condition, Ordered):
        left = read_as(stored, condition.value)
        if left is None:
            return None
        right = condition.value
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[
            condition.operator
        ]
    if isinstance(condition, Like):
        if not isinstance(stored, str):
            return None
        signs = {"%": ".*", "_": "."}
        pattern = "".join(signs.get(c, re.escape(c)) for c in condition.pattern)
        folded = [re.sub("[A-Z]", lambda m: m.group().lower(), t) for t in (pattern, stored)]
        return re.fullmatch(*folded, re.DOTALL) is not None
    assert isinstance(condition, Contains)
    if isinstance(stored, list):
        return any(_equal(member, condition.value) for member in stored)
    if isinstance(stored, str) and isinstance(condition.value, str):
        return condition.value in stored
    return None


def _equal(stored: Any, value: Value) -> bool:
    found = read_as(stored, value)
    return found is not None and found == value


def read_as(stored: Any, wanted: Value) -> Any:
    """Return what is stored as the wanted value's kind, None where it is of another."""
    if isinstance(wanted, str):
        return stored if isinstance(stored, str) else None
    if isinstance(wanted, bool):
        if isinstance(stored, str):
            return {"true": True, "false": False}.get(stored.lower())
        return stored if isinstance(stored, bool) else None
    if isinstance(stored, str) and JSON_NUMBER.fullmatch(stored):
        stored = json.loads(stored)
    if isinstance(stored, bool) or not isinstance(stored, (int, float)):
        return None
    return stored if -(2**63) <= stored < 2**63 else float(stored)
