"""`--where`: the language, and its SQL held against plain Python."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from where_oracle import meets

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
    compiled,
)
from cir_rt.gallery.where import MAX_COMPARISONS, MAX_DEPTH, parse

PRICE = Field(names=("price",))


def is_(name: str, *values: Any) -> Equals:
    return Equals(field=Field(names=(name,)), values=values)


def found(condition: Condition, rows: list[tuple[str, dict[str, Any]]]) -> list[int]:
    """Return the places of the rows that SQLite finds."""
    sql, values = compiled(condition)
    db = sqlite3.connect(":memory:")
    try:
        db.execute("CREATE TABLE items (row INTEGER PRIMARY KEY, id TEXT, metadata TEXT)")
        db.execute("CREATE TABLE precious (one)")
        stored = [(k, i, json.dumps(m, ensure_ascii=False)) for k, (i, m) in enumerate(rows)]
        db.executemany("INSERT INTO items VALUES (?, ?, ?)", stored)
        asked = f"SELECT row FROM items WHERE id != ? AND row < ? AND ({sql}) ORDER BY row"
        rows_found = [row for (row,) in db.execute(asked, ["", len(rows), *values])]
        assert db.execute("SELECT count(*) FROM precious").fetchone() == (0,)
        return rows_found
    finally:
        db.close()


@pytest.mark.parametrize(
    ("expression", "condition"),
    [
        ("category = 'dress'", is_("category", "dress")),
        ("price == 5", is_("price", 5)),
        ("price != 5", Not(condition=is_("price", 5))),
        ("price <> 5", Not(condition=is_("price", 5))),
        ("price<-.5e1", Ordered(field=PRICE, operator="<", value=-5.0)),
        ("price >= +3.", Ordered(field=PRICE, operator=">=", value=3.0)),
        ("price in (1, 2.5, 'x')", is_("price", 1, 2.5, "x")),
        ("price NOT IN (1)", Not(condition=is_("price", 1))),
        ("price like 'a%'", Like(field=PRICE, pattern="a%")),
        ("price not like 'a%'", Not(condition=Like(field=PRICE, pattern="a%"))),
        ("price contains true", Contains(field=PRICE, value=True)),
        ("price not contains 'x'", Not(condition=Contains(field=PRICE, value="x"))),
        ("price is null", IsNull(field=PRICE)),
        ("price Is Not Null", Not(condition=IsNull(field=PRICE))),
        ("id = 'a'", Equals(field=Field(), values=("a",))),
        ('"id" = 1', is_("id", 1)),
        ("id.id = 1", Equals(field=Field(names=("id", "id")), values=(1,))),
        ('"on sale" = false', is_("on sale", False)),
        ('"and"."a.b" = 1', Equals(field=Field(names=("and", "a.b")), values=(1,))),
        ("größe = 'ü'", is_("größe", "ü")),
        ("maker . name = 'the tailor''s'", Equals(field=Field(names=("maker", "name")),
                                                 values=("the tailor's",))),
        ("a=1 or b=2 and not c=3", AnyOf(conditions=(
            is_("a", 1), AllOf(conditions=(is_("b", 2), Not(condition=is_("c", 3)))),
        ))),
        ("(a=1 or b=2) and c=3", AllOf(conditions=(
            AnyOf(conditions=(is_("a", 1), is_("b", 2))), is_("c", 3),
        ))),
        ("not (not a=1)", Not(condition=Not(condition=is_("a", 1)))),
        ("a = 1234567890123456789012", is_("a", 1234567890123456789012.0)),
    ],
)  # fmt: skip
def test_the_language(expression: str, condition: Condition) -> None:
    assert parse(expression) == condition


@pytest.mark.parametrize(
    ("expression", "place", "said"),
    [
        ("", 0, "ends here, expected a field"),
        ("   ", 3, "ends here, expected a field"),
        ("price", 5, "expected =, !=, <"),
        ("price < ", 8, "ends here, expected a number"),
        ("price < and x = 1", 8, "found 'and'"),
        ("category = dress", 11, "text in single quotes, such as 'dress'"),
        ('category = "dress"', 11, "text in single quotes, such as 'dress'"),
        ("category = 'dress", 11, "a closing '"),
        ('"on sale = 1', 0, 'a closing "'),
        ("(a = 1", 6, "a closing bracket"),
        ("a = 1)", 5, "'and', 'or' or the end"),
        ("a = 1 b = 2", 6, "'and', 'or' or the end"),
        ("and = 1", 0, 'is written "and"'),
        ("a in ()", 6, "expected a number"),
        ("a in 3", 5, "'(' and values"),
        ("a in (1 2)", 8, "',' or ')'"),
        ("a is 3", 5, "'null'"),
        ("a > true", 4, "a number or text after '>'"),
        ("a like 3", 7, "a pattern in single quotes"),
        ("a not = 3", 6, "in, like, contains"),
        ("a. = 3", 3, "a field, such as"),
        ('"" = 3', 0, "a name of one character"),
        ('"a\\b" = 3', 0, "a name of one character"),
        ("a = 1e999", 4, "below 1.8e308"),
        ("a = 'x\0'", 6, "no NUL"),
        ("a = '\ud800'", 5, "no half character"),
        ("a = 1; DROP TABLE items", 5, "found ';'"),
        ("a = 1 -- and b = 2", 6, "found '-'"),
        ("5 < price", 0, "found '5', expected a field"),
    ],
)
def test_a_fault_is_pointed_at(expression: str, place: int, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(expression)
    message, _, caret = str(error.value).split("\n")
    assert said in message
    assert caret == "  " + " " * place + "^"


def test_a_long_condition_is_shown_in_part() -> None:
    with pytest.raises(UsageError) as error:
        parse("category = 'dress' and " * 20 + "oops" + " and category = 'dress'" * 20)
    _, excerpt, caret = str(error.value).split("\n")
    assert max(len(excerpt), len(caret)) < 80
    assert excerpt[caret.index("^") :].startswith("and")


ROWS: list[tuple[str, dict[str, Any]]] = [
    ("shoes/1", {"category": "dress", "price": 49.5, "tags": ["silk", 3, None], "new": True}),
    ("shoes/2", {"category": "Dress", "price": "49.5", "tags": "silk scarf", "new": "TRUE"}),
    ("hats/3", {"category": "hat", "price": "on request", "maker": {"city": "Łódź"}, "new": 1}),
    ("4", {"category": None, "price": 50, "tags": [], "new": False}),
    ("5", {}),
]


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("category = 'dress'", [0]),
        ("category != 'dress'", [1, 2]),  # neither null nor missing
        ("category like 'dress'", [0, 1]),
        ("category in ('dress', 'hat', 3)", [0, 2]),
        ("category is null", [3, 4]),
        ("category is not null", [0, 1, 2]),
        ("price < 50", [0, 1]),  # 49.5 also where a table wrote it as text
        ("not price < 50", [3]),  # on request is neither below nor not below
        ("price != 50", [0, 1, 2]),
        ("price = '49.5'", [1]),
        ("price = 49.50 or price > 49.5", [0, 1, 3]),
        ("price > 'on'", [2]),
        ("tags contains 'silk'", [0, 1]),
        ("tags contains 3", [0]),
        ("not tags contains 3", [3]),  # text holds no number: unknown
        ("new = true", [0, 1]),
        ("new = 1", [2]),
        ("new != true", [2, 3]),
        ("maker.city = 'Łódź'", [2]),
        ("maker.city is null", [0, 1, 3, 4]),
        ("maker = 'x' or not maker = 'x'", [2]),
        ("category.name = 'x' or category.name is null", [0, 1, 2, 3, 4]),
        ("id like 'shoes/%' and not id = 'shoes/2'", [0]),
        ("id = 4 or id contains 'ats'", [2, 3]),
        ("id in ('5', 'nobody')", [4]),
        ("\"id\" is null and category = 'hat'", [2]),
        ("category = 'dress' or price = 50", [0, 3]),
    ],
)
def test_what_is_found(expression: str, rows: list[int]) -> None:
    assert found(parse(expression), ROWS) == rows
    assert [k for k, row in enumerate(ROWS) if meets(parse(expression), *row)] == rows


def test_the_deepest_and_the_longest_that_is_taken() -> None:
    """What the parser lets through, SQLite takes; what it would not, the parser refuses."""
    deep = "a contains 1"
    for _ in range(MAX_DEPTH):
        deep = f"(a = 1 or b = 'x' and {deep})"
    denied = "not " * MAX_DEPTH + "a contains 1"
    mixed = "a contains 1"
    for _ in range(MAX_DEPTH // 2):
        mixed = f"x = 1 or y = 2 and not (z = 1 or b = '3' and {mixed})"
    for expression in (deep, denied, mixed):
        assert found(parse(expression), [("a", {"a": [1], "b": "x"})]) is not None
        with pytest.raises(UsageError, match="inside one another"):
            parse(f"not ({expression})")
    many = ["tags contains 5"] * MAX_COMPARISONS
    assert found(parse(" or ".join(many)), ROWS) == []
    assert found(parse(" and ".join(many)), ROWS) == []
    with pytest.raises(UsageError, match="comparisons"):
        parse(" or ".join([*many, "a = 1"]))
    listed = ", ".join(f"'{k}'" for k in range(9000))
    assert found(parse(f"id in ({listed})"), ROWS) == [3, 4]
    with pytest.raises(UsageError, match="characters"):
        parse(f"id in ({listed}, {listed})")


# Values that meet often, beside any; SQLite reads text up to a NUL.
TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "A", "ab", "%", "_", "'", "''", '"', "\\", "'; DROP TABLE precious --", "ſ", "é",
         "10", " 10 ", "1e1", "-0", "0x10", "1.", ".5", "01", "1e999", "true", "TRUE", "null", "?",
         "12345678901234567890", "NaN", "[1]", '{"a": 1}', "\n", "\x1f", "😀"]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=6),
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 10, -1, 0.5, 10.0, 1e300, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]),
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
VALUES = st.one_of(TEXTS, NUMBERS, st.booleans())
NAMES = st.sampled_from(["a", "b", "id", "a b", "a.b", "$", "[0]", "#", "ü", "and", "'", "0"])
STORED = st.recursive(
    st.one_of(VALUES, st.none(), st.just(2**70), st.just(-(10**30))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=2)),
    max_leaves=4,
)
RECORDS = st.lists(
    st.tuples(TEXTS.filter(len), st.dictionaries(NAMES, STORED, max_size=4)), max_size=5
)
FIELDS = st.lists(NAMES, max_size=2).map(lambda names: Field(names=tuple(names)))
COMPARISONS = st.one_of(
    st.builds(Equals, field=FIELDS, values=st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.builds(
        Ordered,
        field=FIELDS,
        operator=st.sampled_from(["<", "<=", ">", ">="]),
        value=st.one_of(TEXTS, NUMBERS),
    ),
    st.builds(Like, field=FIELDS, pattern=TEXTS),
    st.builds(Contains, field=FIELDS, value=VALUES),
    st.builds(IsNull, field=FIELDS),
)
SEVERAL = dict[str, Any](min_size=2, max_size=3)
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds(Not, condition=inner),
        st.builds(AllOf, conditions=st.lists(inner, **SEVERAL).map(tuple)),
        st.builds(AnyOf, conditions=st.lists(inner, **SEVERAL).map(tuple)),
    ),
    max_leaves=5,
)
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@settings(QUICK, max_examples=500)
@given(CONDITIONS, RECORDS)
def test_sqlite_finds_what_python_finds(
    condition: Condition, rows: list[tuple[str, dict[str, Any]]]
) -> None:
    expected = [k for k, row in enumerate(rows) if meets(condition, *row)]
    assert found(condition, rows) == expected


def written(condition: Condition) -> str:
    """Return an expression that says the condition, with brackets around every part."""
    if isinstance(condition, Not):
        return f"not ({written(condition.condition)})"
    if isinstance(condition, (AllOf, AnyOf)):
        word = " and " if isinstance(condition, AllOf) else " or "
        return word.join(f"({written(c)})" for c in condition.conditions)
    field = ".".join(f'"{name}"' for name in condition.field.names) or "id"
    if isinstance(condition, Equals):
        return f"{field} in ({', '.join(map(literal, condition.values))})"
    if isinstance(condition, Ordered):
        return f"{field}{condition.operator}{literal(condition.value)}"
    if isinstance(condition, Like):
        return f"{field} like {literal(condition.pattern)}"
    if isinstance(condition, Contains):
        return f"{field} contains {literal(condition.value)}"
    return f"{field} is null"


def parsed(expression: str) -> tuple[Condition | None, str]:
    """Return the condition, or None and why it is refused."""
    try:
        return parse(expression), ""
    except UsageError as error:
        return None, str(error)


def literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower()


@settings(QUICK, max_examples=150)
@given(COMPARISONS, CONDITIONS)
def test_what_is_written_is_read_back(first: Condition, second: Condition) -> None:
    for condition in (first, AnyOf(conditions=(first, Not(condition=second)))):
        again, refusal = parsed(written(condition))
        assert "inside one another" in refusal or again == condition


@settings(QUICK, max_examples=150)
@given(st.text(max_size=40) | st.lists(
    st.sampled_from(["a", "id", "'x'", "3", "=", "<", "(", ")", "and", "or", "not", "in", "like",
                     ",", ".", "is", "null", "contains", "'", '"', ";", "true"]), max_size=12,
).map(" ".join))  # fmt: skip
@example("a = '" + "x" * 60_000 + "'")
def test_any_text_is_a_condition_or_refused(expression: str) -> None:
    condition, refusal = parsed(expression)
    if condition is None:
        assert refusal.startswith("where: ")
    else:
        rows = [("x", {"a": 3}), ("a", {"a": "x"})]
        expected = [k for k, row in enumerate(rows) if meets(condition, *row)]
        assert found(condition, rows) == expected
