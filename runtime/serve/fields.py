"""The fields of a request: what each takes, checked here and told in the OpenAPI document."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from cir_rt.serve.problem import Problem

_TYPES = {
    "text": "string",
    "file": "string",
    "integer": "integer",
    "number": "number",
    "object": "object",
}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field: text, a file's bytes, an integer, a number, or a JSON object."""

    name: str
    kind: str  # a key of _TYPES
    says: str
    example: Any
    required: bool = False
    minimum: float | None = None  # of a number; of a text, its characters
    maximum: float | None = None
    choices: tuple[str, ...] = ()  # of a text; any unless said
    default: Any = None

    def checked(self, value: Any, *, typed: bool) -> Any:
        """Return the value as its type; `typed` where JSON already gave it one.

        Raises Problem for anything else.
        """
        if not typed and self.kind in ("integer", "number", "object"):
            value = self._parsed(value)
        fits = {
            "text": isinstance(value, str),
            "file": isinstance(value, bytes),
            "integer": _is_integer(value),
            "number": _is_number(value),
            "object": isinstance(value, dict),
        }[self.kind]
        if not fits:
            raise self._refusal()
        if self.kind == "integer":
            value = int(value)  # 10.0 is an integer in JSON
        size = value if self.kind in ("integer", "number") else len(_measured(value))
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if not low <= size <= high or (self.choices and value not in self.choices):
            raise self._refusal()
        return value

    def _parsed(self, value: Any) -> Any:
        """Return what the text of a form's field says as JSON."""
        try:
            return json.loads(value, parse_constant=no_number)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._refusal() from error

    def _refusal(self) -> Problem:
        what = {"file": "a file's bytes", "object": "a JSON object"}.get(self.kind, self.kind)
        unit = "" if self.kind in ("integer", "number") else " characters"
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            what += f" of {low:g} to {high:g}{unit}"
        elif high is not None:
            what += f" of at most {high:g}{unit}"
        elif low is not None:
            what += f" of at least {low:g}{unit}"
        if self.choices:
            what = " or ".join(self.choices)
        return Problem("field", f"{self.name}: expected {what}.")

    def schema(self, *, multipart: bool) -> dict[str, Any]:
        """Return the field's JSON Schema, as it stands in a form or in JSON."""
        found: dict[str, Any] = {"type": _TYPES[self.kind], "description": self.says}
        if self.kind == "file" and multipart:
            return found | {"contentMediaType": "application/octet-stream"}
        found["examples"] = [self.example]
        if self.kind == "file":
            return found | {"contentEncoding": "base64"}
        if self.kind == "object" and not multipart:
            return found
        low, high = ("minLength", "maxLength") if self.kind == "text" else ("minimum", "maximum")
        if self.kind in ("text", "integer", "number"):
            bounds = {low: self.minimum, high: self.maximum, "default": self.default}
            found |= {key: value for key, value in bounds.items() if value is not None}
        return found | ({"enum": list(self.choices)} if self.choices else {})


def checked(fields: Sequence[Field], values: Mapping[str, Any], *, typed: bool) -> dict[str, Any]:
    """Return the values of known fields, each checked. Raises Problem for any other."""
    known = {field.name: field for field in fields}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
            raise Problem("field", f"There is no field '{name[:40]}'. {hint}")
    for field in fields:
        if field.required and field.name not in values:
            raise Problem("field", f"{field.name} is missing. {field.says}")
    return {name: known[name].checked(value, typed=typed) for name, value in values.items()}


def no_number(name: str) -> NoReturn:
    """Raise ValueError for what Python reads as JSON and no one else does: NaN, Infinity."""
    raise ValueError(f"{name} is no JSON number")


def body_schema(fields: Sequence[Field], *, multipart: bool) -> dict[str, Any]:
    """Return the JSON Schema of a body of these fields, with an example."""
    required = [field.name for field in fields if field.required]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.name: field.schema(multipart=multipart) for field in fields},
        **({"required": required} if required else {}),
    }


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _is_integer(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _measured(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
