"""A condition on pictures' ids and metadata, and the SQL that finds the rows that meet it.

The logic is SQL's, of three values: a condition on a field that a picture lacks, or whose value is
null, is unknown, and so is its negation. A row is found where the whole condition is true.

Values compare as what the condition names them: `price < 50` looks at numbers, `size = 'XL'` at
text. Text that is written as a number or as true or false counts as one where the condition asks
for one, since a CSV table holds text alone. Values of two kinds are never equal and have no order:
where the price is 'on request', `price != 50` is true, and `price < 50` is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Value = str | int | float | bool
Bind = Callable[[Any], str]  # keeps a value for its placeholder, which it returns
Column = Callable[[Bind], str]  # SQL for one column


class Condition(Protocol):
    """Something that is true, false or unknown of a row of the catalogue's items."""

    def sql(self, bind: Bind) -> str:
        """Return SQL over `id` and `metadata`; placeholders are bound in the order of the text."""


def compiled(condition: Condition) -> tuple[str, list[Any]]:
    """Return SQL and the values of its placeholders; nothing that a person typed is in the SQL."""
    values: list[Any] = []

    def bind(value: Any) -> str:
        values.append(value)
        return "?"

    return condition.sql(bind), values


@dataclass(frozen=True, kw_only=True)
class Field:
    """A place in a picture's metadata, or its id where `names` is empty."""

    names: tuple[str, ...] = ()

    def kind(self, bind: Bind) -> str:
        """Return SQL for the value's JSON type, NULL where the picture lacks the field."""
        return f"json_type(metadata, {bind(self._path)})" if self.names else "'text'"

    def value(self, bind: Bind) -> str:
        """Return SQL for the value."""
        return f"json_extract(metadata, {bind(self._path)})" if self.names else "id"

    @property
    def _path(self) -> str:
        return "$" + "".join(f'."{name}"' for name in self.names)


@dataclass(frozen=True, kw_only=True)
class Equals:
    """The field is one of the values."""

    field: Field
    values: tuple[Value, ...]

    def sql(self, bind: Bind) -> str:
        """Unknown where the field is missing or null, else true or false."""
        known = f"CASE WHEN {self.field.kind(bind)} != 'null' THEN "
        return known + _equals(self.field.kind, self.field.value, self.values, bind) + " END"


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """The field lies before or after a value; text is ordered by its characters' code points."""

    field: Field
    operator: str  # < <= > >=
    value: str | int | float

    def sql(self, bind: Bind) -> str:
        """Unknown where the field is not of the value's kind."""
        left = _read_as(self.value, self.field.kind, self.field.value, bind)
        return f"{left} {self.operator} {bind(self.value)}"


@dataclass(frozen=True, kw_only=True)
class Like:
    """The field is text of a pattern: % any run of characters, _ any one; A to Z as a to z."""

    field: Field
    pattern: str

    def sql(self, bind: Bind) -> str:
        """Unknown where the field is no text."""
        text = _read_as("", self.field.kind, self.field.value, bind)
        return f"{text} LIKE {bind(self.pattern)}"


@dataclass(frozen=True, kw_only=True)
class Contains:
    """The field is a list with the value among its members, or text with the value within."""

    field: Field
    value: Value

    def sql(self, bind: Bind) -> str:
        """Unknown where the field is neither; the members are told apart as `Equals` does."""
        parts = [f"CASE {self.field.kind(bind)}"]
        if self.field.names:
            members = f"json_each(metadata, {bind(self.field._path)}) AS member"
            equal = _equals(_member_kind, _member_value, (self.value,), bind)
            parts.append(f"WHEN 'array' THEN EXISTS (SELECT 1 FROM {members} WHERE {equal})")
        if isinstance(self.value, str):
            parts.append(
                f"WHEN 'text' THEN instr({self.field.value(bind)}, {bind(self.value)}) > 0"
            )
        return " ".join([*parts, "WHEN '' THEN NULL END"])  # so that there is always one case


@dataclass(frozen=True, kw_only=True)
class IsNull:
    """The picture lacks the field, or its value is null; never unknown."""

    field: Field

    def sql(self, bind: Bind) -> str:
        """True or false."""
        return f"ifnull({self.field.kind(bind)}, 'null') = 'null'"


@dataclass(frozen=True, kw_only=True)
class Not:
    """The condition is false."""

    condition: Condition

    def sql(self, bind: Bind) -> str:
        """Unknown where the condition is."""
        return f"NOT {_bracketed(self.condition, (AllOf, AnyOf), bind)}"


@dataclass(frozen=True, kw_only=True)
class AllOf:
    """Every condition is true."""

    conditions: tuple[Condition, ...]

    def sql(self, bind: Bind) -> str:
        """False where one is false, else unknown where one is."""
        return " AND ".join(_bracketed(one, (AnyOf,), bind) for one in self.conditions)


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """At least one condition is true."""

    conditions: tuple[Condition, ...]

    def sql(self, bind: Bind) -> str:
        """True where one is true, else unknown where one is."""
        return " OR ".join(one.sql(bind) for one in self.conditions)


def _bracketed(condition: Condition, looser: tuple[type, ...], bind: Bind) -> str:
    """Return SQL in brackets where it would bind looser than what stands around it.

    No brackets but these: SQLite's parser gives up where too many are open.
    """
    sql = condition.sql(bind)
    return f"({sql})" if isinstance(condition, looser) else sql


def _equals(kind: Column, value: Column, among: tuple[Value, ...], bind: Bind) -> str:
    """Return SQL, true where the value is one of these and false where it is not."""
    tests = []
    for one in (str, bool, float):
        same = [v for v in among if _kind(v) is one]
        if same:
            left = _read_as(same[0], kind, value, bind)
            listed = bind(json.dumps(same, ensure_ascii=False))
            tests.append(f"ifnull({left} IN (SELECT value FROM json_each({listed})), 0)")
    return f"({' OR '.join(tests)})"


def _read_as(wanted: Value, kind: Column, value: Column, bind: Bind) -> str:
    """Return SQL for the value where it is of the wanted one's kind, NULL where it is not."""
    start = f"CASE {kind(bind)} "
    if _kind(wanted) is str:
        return f"{start}WHEN 'text' THEN {value(bind)} END"
    if _kind(wanted) is bool:
        written = f"CASE lower({value(bind)}) WHEN 'true' THEN 1 WHEN 'false' THEN 0 END"
        return f"{start}WHEN 'true' THEN 1 WHEN 'false' THEN 0 WHEN 'text' THEN {written} END"
    return (
        f"{start}WHEN 'integer' THEN {value(bind)} WHEN 'real' THEN {value(bind)} "
        f"WHEN 'text' THEN CASE WHEN json_valid({value(bind)}) THEN "
        f"CASE WHEN json_type({value(bind)}) IN ('integer', 'real') "
        f"THEN json_extract({value(bind)}, '$') END END END"
    )


def _kind(value: Value) -> type:
    """Return str, bool, or float for any number."""
    return next((kind for kind in (str, bool) if isinstance(value, kind)), float)


def _member_kind(bind: Bind) -> str:
    return "member.type"


def _member_value(bind: Bind) -> str:
    return "member.value"
