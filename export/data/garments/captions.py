"""Say in a shopper's words how the wanted garment differs from the one in the picture."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import numpy as np

from cir_rt.export.data.garments.attributes import ATTRIBUTES, COLOURS, NONE, Garment, values

NOUNS: Final = MappingProxyType(
    {
        "dress": ("dress", "dress", "gown"),
        "shirt": ("shirt",),
        "toptee": ("top", "top", "tee"),
        "skirt": ("skirt",),
        "jacket": ("jacket", "jacket", "coat"),
        "trousers": ("trousers", "trousers", "pants"),
    }
)
_COLOURS: Final = MappingProxyType(
    {"navy": ("navy", "navy blue", "dark blue"), "grey": ("grey", "gray")}
)
# The first word of each is an adjective, the others are things a garment has.
_PATTERNS: Final = MappingProxyType(
    {
        "plain": ("plain", "a solid colour", "one plain colour", "no pattern"),
        "striped": ("striped", "stripes", "a stripe pattern"),
        "dotted": ("dotted", "dots", "polka dots", "a dotted print"),
        "checked": ("checked", "checks", "a checked pattern"),
        "floral": ("floral", "flowers", "a flower print", "a floral pattern"),
    }
)
_SLEEVES: Final = MappingProxyType(
    {
        "sleeveless": ("sleeveless", "no sleeves", "bare arms without sleeves"),
        "short": ("short sleeved", "short sleeves", "short sleeves", "a short sleeve"),
        "long": ("long sleeved", "long sleeves", "long sleeves", "a long sleeve"),
    }
)
_LENGTHS: Final = MappingProxyType(
    {
        "short": ("short", "a short cut", "a short hem"),
        "knee": ("knee length", "a knee length hem", "a hem at the knee"),
        "long": ("long", "a long cut", "a full length hem"),
    }
)
_NECKLINES: Final = MappingProxyType(
    {
        "round": ("round necked", "a round neck", "a crew neck", "a round neckline"),
        "v-neck": ("v-necked", "a v neck", "a v-neck", "a v shaped neckline"),
        "square": ("square necked", "a square neck", "a square neckline"),
        "collar": ("collared", "a collar", "a collar", "a pointed collar"),
        "band": ("band necked", "a band collar", "a stand up collar"),
        "hood": ("hooded", "a hood", "a hood"),
    }
)
_ADJECTIVE: Final = MappingProxyType(
    {"pattern": 0.6, "sleeve": 0.3, "length": 0.75, "neckline": 0.15}
)
_PLURALS: Final = ("stripes", "dots", "polka dots", "checks", "flowers")
_WORDS: Final = MappingProxyType(
    {"pattern": _PATTERNS, "sleeve": _SLEEVES, "length": _LENGTHS, "neckline": _NECKLINES}
)
_TYPOS: Final = (
    ("sleeves", "sleevs"),
    ("striped", "stripped"),
    ("polka", "poka"),
    ("collar", "coller"),
)
_COMPLETE: Final = 0.11
_VAGUE: Final = 0.15


def captions(reference: Garment, target: Garment, rng: np.random.Generator) -> tuple[str, str]:
    """Word one query as two annotators would; together they name every change.

    A relative word ("longer") always means the next value of the article. Raises ValueError
    where the two garments are equal.
    """
    changes = reference.changes(target)
    if not changes:
        raise ValueError("the reference equals the target: expected at least one change")
    heard = _share(changes, rng)
    said = [_caption(reference, target, names, rng) for names in heard]
    for _ in range(4):
        if said[0] != said[1]:
            break
        said[1] = _caption(reference, target, heard[1], rng)
    if rng.random() < _COMPLETE:
        said[0] = _description(target, changes, rng)
    elif changes == ("colour",) and rng.random() < _VAGUE:
        said[1] = _vague(reference, target)
    if rng.random() < 0.5:
        said.reverse()
    return _hand(said[0], rng), _hand(said[1], rng)


def title(garment: Garment) -> str:
    """Name a garment in full: "Red striped long-sleeve dress with v-neck"."""
    words = [garment.colour, garment.pattern]
    words += [_suffixed(garment.sleeve, "sleeve")] if garment.sleeve != NONE else []
    words += [_suffixed(garment.length, "length")] if garment.length != NONE else []
    noun = NOUNS[garment.article][0]
    neck = {NONE: "", "v-neck": " with v-neck", "collar": " with collar", "hood": " with hood"}
    ending = neck.get(garment.neckline, f" with {garment.neckline} neck")
    return f"{' '.join(words)} {noun}{ending}".capitalize()


def _suffixed(value: str, kind: str) -> str:
    return value if value == "sleeveless" else f"{value}-{kind}"


def _share(
    changes: tuple[str, ...], rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give each annotator the changes to mention: all, or at times one each."""
    if len(changes) == 1:
        return changes, changes
    first, second = (changes[int(place)] for place in rng.permutation(len(changes))[:2])
    turned = (second, first)
    draw = rng.random()
    if len(changes) > 2 or draw < 0.35:
        return changes, turned if len(changes) == 2 else changes
    return (turned, (first,)) if draw < 0.65 else ((first,), (second,))


def _caption(
    reference: Garment, target: Garment, names: tuple[str, ...], rng: np.random.Generator
) -> str:
    """Word the named changes in one manner of speech."""
    noun = str(rng.choice(NOUNS[target.article]))
    phrases = [_phrase(reference, target, name, rng) for name in names]
    ordered = [text for kind, text in phrases if kind == "is"]
    things = [text for kind, text in phrases if kind == "has"]
    manners = _thing_manners(noun, " and ".join(things))
    if ordered:
        manners = _order_manners(noun, " and ".join(ordered), " and ".join(things))
    if names == ("colour",):
        old, new = _word(reference, "colour", rng), ordered[0]
        manners += [f"same {noun} in {new}", f"the same {noun} in {new}", f"same but in {new}"]
        manners += [f"in {new}", f"i want it in {new}", f"{new} instead of {old}"]
        manners += [f"is {new}, not {old}", f"make it {new}"]
    elif (
        names == ("pattern",) and things and things[0] in _PLURALS and reference.pattern != "plain"
    ):
        old = _PATTERNS[reference.pattern][1]
        manners += [f"i want it with {things[0]} instead of {old}"] * 2
        manners += [f"{things[0]} instead of {old}", f"has {things[0]}, not {old}"]
    return str(manners[int(rng.integers(len(manners)))])


def _thing_manners(noun: str, things: str) -> list[str]:
    """List the ways to ask for what a garment should have."""
    one = "ones" if noun in ("trousers", "pants") else "one"
    has = "have" if one == "ones" else "has"
    return [
        *[f"has {things}"] * 5,
        *[f"with {things}"] * 2,
        f"same but with {things}",
        f"the same {noun} with {things}",
        f"i want it with {things}",
        f"{one} with {things}",
        f"{noun} {has} {things}",
        f"with {things} instead",
        f"should have {things}",
    ]


def _order_manners(noun: str, order: str, things: str) -> list[str]:
    """List the ways to ask for what a garment should be, and have where `things` is not empty."""
    plural = noun in ("trousers", "pants")
    lead = "" if plural else "an " if order[0] in "aeiou" else "a "
    having = f" with {things}" if things else ""
    also = f" and has {things}" if things else ""
    return [
        *[f"is {order}{also}"] * 3,
        *[f"is {order}{having}"] * 2,
        *[f"{order}{having}"] * 2,
        f"same but {order}{having}",
        f"the same {noun} but {order}{having}",
        f"i want it {order}{having}",
        f"{lead}{order} {'ones' if plural else 'one'}{having}",
        f"{noun} {'are' if plural else 'is'} {order}{having}",
        f"{order}{having} instead",
        f"make it {order}{having}",
    ]


def _phrase(
    reference: Garment, target: Garment, name: str, rng: np.random.Generator
) -> tuple[str, str]:
    """Word one change: ("is", an adjective) or ("has", a thing)."""
    if name in ("sleeve", "length") and rng.random() < 0.5:
        ladder = values(target.article, name)
        step = ladder.index(target[name]) - ladder.index(reference[name])
        bare = name == "sleeve" and "sleeveless" in (reference.sleeve, target.sleeve)
        if abs(step) == 1 and not bare:
            word = "longer" if step > 0 else "shorter"
            return ("is", word) if name == "length" else ("has", f"{word} sleeves")
    word = _word(target, name, rng)
    adjective = name == "colour" or word == _WORDS[name][target[name]][0]
    return "is" if adjective else "has", word


def _word(garment: Garment, name: str, rng: np.random.Generator) -> str:
    value = garment[name]
    if name == "colour":
        return str(rng.choice(_COLOURS.get(value, (value,))))
    words = _WORDS[name][value]
    if rng.random() < _ADJECTIVE[name]:
        return words[0]
    return str(rng.choice(words[1:]))


def _description(garment: Garment, changes: tuple[str, ...], rng: np.random.Generator) -> str:
    """Describe the target in nearly all its attributes, leaving out one or two unchanged ones."""
    told = [name for name in ATTRIBUTES if garment[name] != NONE]
    spare = [name for name in told if name not in changes]
    for name in rng.permutation(spare)[: min(2, max(1, len(spare) - 1))]:
        told.remove(str(name))
    front = [_word(garment, "colour", rng)] if "colour" in told else []
    front = ([_LENGTHS[garment.length][0]] if "length" in told else []) + front
    front += [_PATTERNS[garment.pattern][0]] if "pattern" in told else []
    ends = [_SLEEVES[garment.sleeve][1]] if "sleeve" in told else []
    ends += [_NECKLINES[garment.neckline][1]] if "neckline" in told else []
    noun = str(rng.choice(NOUNS[garment.article]))
    vowel = [*front, noun][0][0] in "aeiou"
    lead = "" if garment.article == "trousers" else "an " if vowel else "a "
    lead = ("", lead, lead, f"is {lead}")[int(rng.integers(4))]
    return f"{lead}{' '.join([*front, noun])}{' with ' if ends else ''}{' and '.join(ends)}"


def _vague(reference: Garment, target: Garment) -> str:
    """Say only where a new colour lies from the old one; the other annotator names it."""
    light = [sum(COLOURS[garment.colour]) for garment in (reference, target)]
    return "is a lighter colour" if light[1] > light[0] else "is a darker colour"


def _hand(text: str, rng: np.random.Generator) -> str:
    """Write as people type: at times a capital, a full stop, or a slip."""
    draw = rng.random(3)
    if draw[0] < 0.02:
        for right, wrong in _TYPOS:
            text = text.replace(right, wrong)
    if draw[1] < 0.06:
        text = text[0].upper() + text[1:]
    return text + "." if draw[2] < 0.06 else text
