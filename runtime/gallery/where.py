"""The language of `--where`: `category = 'dress' and price < 50`.

    condition   comparisons joined by and, or, not and brackets; not binds closest, then and
    comparison  field = value        also != < <= > >=
                field in (value, …)  also not in
                field like 'pattern' % any run of characters, _ any one; also not like
                field contains value a member of a list, or a part of a text; also not contains
                field is null        also is not null
    field       a name of the metadata; maker.city for one inside another; id, the picture's id;
                "on sale" where a name is no plain word, or is a word of this language
    value       12, -0.5, 'text', 'the tailor''s', true, false

Words of the language may be in capitals. What a condition means stands in `condition`.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple, NoReturn

from cir_rt.errors import UsageError
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

MAX_CHARACTERS = 100_000
MAX_COMPARISONS = 200
MAX_DEPTH = 8  # of brackets and `not`; SQLite gives up at 100 terms that are open at once

_WORDS = ("and", "or", "not", "in", "like", "contains", "is", "null", "true", "false")
_SAME = {"==": "=", "<>": "!="}
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"[^"]*")
    |(?P<name>[^\W\d]\w*)
    |(?P<symbol><=|>=|<>|!=|==|[=<>(),.])""",
    re.VERBOSE,
)
_NO_NAME = re.compile(r'["\\\x00-\x1f]')  # what JSON writes as an escape
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")  # SQLite ends text at NUL, UTF-8 has no halves
_EXCERPT = 36  # characters shown on either side of a fault


class _Token(NamedTuple):
    kind: str  # number, text, quoted, name, word, symbol, end
    text: str
    start: int


def parse(expression: str) -> Condition:
    """Return the condition that an expression says.

    Raises UsageError that points at the place and says what was expected there.
    """
    if len(expression) > MAX_CHARACTERS:
        raise UsageError(
            f"where: {len(expression)} characters. Expected at most {MAX_CHARACTERS}; "
            "ask for fewer values at a time."
        )
    return _Parser(expression).whole()


class _Parser:
    """One pass over the tokens, one method for each rule of the grammar."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = self._tokenized()
        self._next = 0
        self._depth = 0
        self._comparisons = 0

    def whole(self) -> Condition:
        """Return the condition that all the tokens make."""
        found = self._any_of()
        if self._token.kind != "end":
            self._refuse("'and', 'or' or the end")
        return found

    def _any_of(self) -> Condition:
        found = [self._all_of()]
        while self._taken("or"):
            found.append(self._all_of())
        return found[0] if len(found) == 1 else AnyOf(conditions=tuple(found))

    def _all_of(self) -> Condition:
        found = [self._one()]
        while self._taken("and"):
            found.append(self._one())
        return found[0] if len(found) == 1 else AllOf(conditions=tuple(found))

    def _one(self) -> Condition:
        """Read a comparison, or what is in brackets or denied."""
        if self._token.text not in ("not", "(") or self._token.kind not in ("word", "symbol"):
            return self._comparison()
        if self._depth == MAX_DEPTH:
            self._refuse(f"at most {MAX_DEPTH} brackets and 'not' inside one another")
        self._depth += 1
        if self._taken("not"):
            found: Condition = Not(condition=self._one())
        else:
            self._next += 1
            found = self._any_of()
            self._take(")", "'and', 'or' or a closing bracket")
        self._depth -= 1
        return found

    def _comparison(self) -> Condition:
        if self._comparisons == MAX_COMPARISONS:
            self._refuse(f"at most {MAX_COMPARISONS} comparisons; 'in (…)' takes many values")
        self._comparisons += 1
        field = self._field()
        if self._taken("is"):
            denied = self._taken("not")
            self._take("null", "'null'")
            found: Condition = IsNull(field=field)
            return Not(condition=found) if denied else found
        symbol = self._token
        operator = _SAME.get(symbol.text, symbol.text)
        if symbol.kind == "symbol" and operator in ("=", "!=", "<", "<=", ">", ">="):
            self._next += 1
            return self._compared(field, operator)
        denied = self._taken("not")
        found = self._matched(field)
        return Not(condition=found) if denied else found

    def _compared(self, field: Field, operator: str) -> Condition:
        place = self._token
        value = self._value()
        if operator == "=":
            return Equals(field=field, values=(value,))
        if operator == "!=":
            return Not(condition=Equals(field=field, values=(value,)))
        if isinstance(value, bool):
            self._refuse(f"a number or text after '{operator}'", place)
        return Ordered(field=field, operator=operator, value=value)

    def _matched(self, field: Field) -> Condition:
        if self._taken("in"):
            return Equals(field=field, values=self._values())
        if self._taken("contains"):
            return Contains(field=field, value=self._value())
        if not self._taken("like"):
            self._refuse("=, !=, <, <=, >, >=, in, like, contains or is")
        place = self._token
        pattern = self._value()
        if not isinstance(pattern, str):
            self._refuse("a pattern in single quotes, such as 'red%'", place)
        return Like(field=field, pattern=pattern)

    def _values(self) -> tuple[Value, ...]:
        self._take("(", "'(' and values")
        found = [self._value()]
        while self._taken(","):
            found.append(self._value())
        self._take(")", "',' or ')'")
        return tuple(found)

    def _field(self) -> Field:
        first = self._token
        names = [self._name()]
        while self._taken("."):
            names.append(self._name())
        return Field() if names == ["id"] and first.kind == "name" else Field(names=tuple(names))

    def _name(self) -> str:
        token = self._token
        name = token.text[1:-1] if token.kind == "quoted" else token.text
        if token.kind == "word":
            self._refuse(f'a field; one that is called so is written "{token.text}"')
        if token.kind not in ("name", "quoted"):
            self._refuse('a field, such as price or "on sale"')
        if not name or _NO_NAME.search(name):
            self._refuse("a name of one character or more, none of them a control or a backslash")
        self._next += 1
        return name

    def _value(self) -> Value:
        token = self._token
        if token.kind == "text":
            value: Value = token.text[1:-1].replace("''", "'")
        elif token.kind == "number":
            value = self._number(token)
        elif token.text in ("true", "false") and token.kind == "word":
            value = token.text == "true"
        elif token.kind in ("name", "quoted"):
            name = token.text.strip('"')
            self._refuse(f"a number, true, false, or text in single quotes, such as '{name}'")
        else:
            self._refuse("a number, true, false, or text in single quotes")
        self._next += 1
        return value

    def _number(self, token: _Token) -> int | float:
        value = float(token.text)
        if math.isinf(value):
            self._refuse("a number below 1.8e308")
        whole = token.text.lstrip("+-").isdigit() and abs(value) < 1e19
        return int(token.text) if whole and -(2**63) <= int(token.text) < 2**63 else value

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _taken(self, text: str) -> bool:
        """Step over a word or symbol where it is this one."""
        found = self._token.text == text and self._token.kind in ("word", "symbol")
        self._next += found
        return found

    def _take(self, text: str, expected: str) -> None:
        if not self._taken(text):
            self._refuse(expected)

    def _tokenized(self) -> list[_Token]:
        bad = _NO_TEXT.search(self._expression)
        if bad:
            self._refuse("no NUL and no half character", _Token("text", bad[0], bad.start()))
        found, start = [], 0
        while start < len(self._expression):
            match = _TOKEN.match(self._expression, start)
            if not match:
                self._refuse_character(start)
            kind, text, start = str(match.lastgroup), match.group(), match.end()
            if kind == "name" and text.lower() in _WORDS:
                kind, text = "word", text.lower()
            if kind != "space":
                found.append(_Token(kind, text, match.start()))
        return [*found, _Token("end", "", len(self._expression))]

    def _refuse_character(self, start: int) -> NoReturn:
        token = _Token("character", self._expression[start], start)
        if token.text in "'\"":
            self._refuse(f"a closing {token.text} somewhere behind this one", token)
        self._refuse("a field, a value or a comparison", token)

    def _refuse(self, expected: str, token: _Token | None = None) -> NoReturn:
        token = token or self._token
        found = f"found {token.text[:40]!r}" if token.text else "the condition ends here"
        first = max(0, token.start - _EXCERPT)
        excerpt = self._expression[first : token.start + _EXCERPT]
        excerpt = "".join(c if c.isprintable() else " " for c in excerpt)
        raise UsageError(
            f"where: {found}, expected {expected}.\n  {excerpt}\n  {' ' * (token.start - first)}^"
        )
