"""Name what a drawn garment can be: its article, colour, pattern, sleeve, length and neckline."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

ARTICLES: Final = ("dress", "shirt", "toptee", "skirt", "jacket", "trousers")
ATTRIBUTES: Final = ("colour", "pattern", "sleeve", "length", "neckline")
COLOURS: Final = MappingProxyType(
    {
        "red": (204, 36, 48),
        "orange": (238, 124, 38),
        "yellow": (246, 208, 66),
        "green": (52, 140, 80),
        "blue": (72, 144, 222),
        "navy": (30, 42, 92),
        "purple": (124, 70, 166),
        "pink": (244, 158, 190),
        "brown": (124, 80, 50),
        "black": (36, 36, 40),
        "white": (247, 245, 241),
        "grey": (150, 152, 157),
    }
)
PATTERNS: Final = ("plain", "striped", "dotted", "checked", "floral")
NONE: Final = "none"
_SLEEVES: Final = ("sleeveless", "short", "long")
_LENGTHS: Final = ("short", "knee", "long")
_ABSENT: Final = (NONE,)
_TRAITS: Final = MappingProxyType(
    {
        "dress": (_SLEEVES, _LENGTHS, ("round", "v-neck", "square", "collar")),
        "shirt": (_SLEEVES, _ABSENT, ("collar", "band", "round", "v-neck")),
        "toptee": (_SLEEVES, ("short", "long"), ("round", "v-neck", "square")),
        "skirt": (_ABSENT, _LENGTHS, _ABSENT),
        "jacket": (("sleeveless", "long"), _LENGTHS, ("collar", "round", "hood")),
        "trousers": (_ABSENT, _LENGTHS, _ABSENT),
    }
)
# The accents that a pattern may have, each with the colours it would not be seen on.
ACCENTS: Final = MappingProxyType(
    {
        "white": ("white",),
        "black": ("black", "navy", "brown"),
        "yellow": ("yellow", "white", "orange"),
        "navy": ("navy", "black", "purple"),
        "red": ("red", "orange", "brown", "purple"),
        "pink": ("pink", "white", "orange"),
        "blue": ("blue", "purple", "grey"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Garment:
    """Hold the attributes of one garment; `accent` is the colour of its pattern.

    An attribute the article does not have is "none", as is the accent of a plain garment.
    Raises ValueError where a value is not one the article can have.
    """

    article: str
    colour: str
    pattern: str = "plain"
    sleeve: str = NONE
    length: str = NONE
    neckline: str = NONE
    accent: str = NONE

    def __post_init__(self) -> None:
        if self.article not in ARTICLES:
            raise ValueError(f"article {self.article!r}: expected one of {', '.join(ARTICLES)}")
        for attribute in ATTRIBUTES:
            known = values(self.article, attribute)
            if self[attribute] not in known:
                raise ValueError(
                    f"{attribute} {self[attribute]!r} of a {self.article}: "
                    f"expected one of {', '.join(known)}"
                )
        if (self.accent == NONE) != (self.pattern == "plain") or self.accent not in (
            *ACCENTS,
            NONE,
        ):
            raise ValueError(
                f"accent {self.accent!r} of a {self.pattern} garment: expected "
                f"{NONE!r} where it is plain, else one of {', '.join(ACCENTS)}"
            )

    def __getitem__(self, attribute: str) -> str:
        return str(getattr(self, attribute))

    def changes(self, other: Garment) -> tuple[str, ...]:
        """List the attributes in which `other` differs, in the order of ATTRIBUTES."""
        return tuple(name for name in ATTRIBUTES if self[name] != other[name])


def values(article: str, attribute: str) -> tuple[str, ...]:
    """List the values of an attribute that an article can have, shortest first for lengths."""
    if attribute == "colour":
        return tuple(COLOURS)
    if attribute == "pattern":
        return PATTERNS
    return _TRAITS[article][("sleeve", "length", "neckline").index(attribute)]
