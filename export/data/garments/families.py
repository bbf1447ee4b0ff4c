"""Lay out a gallery as families of near relatives, then pair them into queries."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

import numpy as np

from cir_rt.export.data.garments.attributes import ACCENTS, ATTRIBUTES, NONE, Garment, values

_FAMILY: Final = 66  # pictures; about one to three for each cell of the slice a family lies in
_CELLS: Final = (12, 64)  # how many cells such a slice may have
_TWO_CHANGES: Final = 0.33
_COLOUR_WEIGHT: Final = (
    1.0,
    0.6,
    0.12,
)  # by changes: a colour narrows a gallery most, so fewer queries change it


@dataclass(frozen=True, kw_only=True)
class Member:
    """Place a garment in its family; only members of one family make a query."""

    family: int
    garment: Garment


def gallery(article: str, count: int, rng: np.random.Generator) -> list[Member]:
    """Draw `count` members of one article, in families that differ along two or three axes."""
    members: list[Member] = []
    families = max(1, round(count / _FAMILY))
    axes = _axes(article, families, rng)
    for family, size in enumerate(np.diff(np.linspace(0, count, families + 1).astype(int))):
        cells = _slice(article, axes[family], rng)
        rounds = [rng.permutation(len(cells)) for _ in range(-(-int(size) // len(cells)))]
        picked = np.concatenate([*rounds, []])[: int(size)]
        members += [Member(family=family, garment=cells[int(cell)]) for cell in picked]
    return [members[place] for place in rng.permutation(len(members))]


def pairs(members: list[Member], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Choose `count` (reference, target) places one or two changes apart, each pair once.

    Every picture is a reference equally often, and a target about equally often.
    Raises ValueError where the gallery has too few such pairs.
    """
    codes = np.array([_code(member) for member in members])
    families = np.array([member.family for member in members])
    used, seen = np.zeros(len(members)), set[tuple[int, int]]()
    chosen: list[tuple[int, int]] = []
    idle = 0
    while len(chosen) < count:
        before = len(chosen)
        for reference in rng.permutation(len(members))[: count - len(chosen)]:
            near = np.flatnonzero(families == families[reference])
            changed = codes[near] != codes[reference]
            free = np.array([(int(reference), int(place)) not in seen for place in near])
            target = _target(near, changed, free, used, rng)
            if target is not None:
                seen.add((int(reference), target))
                used[target] += 1
                chosen.append((int(reference), target))
        idle = idle + 1 if len(chosen) == before else 0
        if idle == 3:
            raise ValueError(
                f"{len(members)} pictures make {len(chosen)} queries, expected {count}: "
                "ask for fewer queries or more pictures"
            )
    return chosen


def _target(
    near: np.ndarray,
    changed: np.ndarray,
    free: np.ndarray,
    used: np.ndarray,
    rng: np.random.Generator,
) -> int | None:
    """Pick the kind of change first, then its least used picture; None where there is none."""
    wanted = 2 if rng.random() < _TWO_CHANGES else 1
    for number in (wanted, 3 - wanted):
        fits = free & (changed.sum(axis=1) == number)
        if not fits.any():
            continue
        kinds = np.unique(changed[fits], axis=0)
        weights = np.where(kinds[:, 0], _COLOUR_WEIGHT[number], 1.0)
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
        places = near[fits & (changed == kind).all(axis=1)]
        return int(places[np.argmin(used[places] + rng.random(len(places)) * 0.5)])
    return None


def _axes(article: str, count: int, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Choose the axes of each family so that every attribute of the article gets its turn."""
    own = [name for name in ATTRIBUTES if len(values(article, name)) > 1]
    slices = [
        axes
        for number in (2, 3)
        for axes in combinations(own, number)
        if _CELLS[0] <= int(np.prod([len(values(article, name)) for name in axes])) <= _CELLS[1]
    ]
    turns = [rng.permutation(len(slices)) for _ in range(-(-count // len(slices)))]
    return [slices[int(place)] for place in np.concatenate(turns)[:count]]


def _slice(article: str, axes: tuple[str, ...], rng: np.random.Generator) -> list[Garment]:
    """Fix every attribute outside `axes` at random and list the garments of all cells left."""
    options = [
        values(article, name) if name in axes else (str(rng.choice(values(article, name))),)
        for name in ATTRIBUTES
    ]
    accents = {pattern: str(rng.choice(list(ACCENTS))) for pattern in values(article, "pattern")}
    if "colour" not in axes:
        seen = [accent for accent, hidden in ACCENTS.items() if options[0][0] not in hidden]
        accents = {pattern: str(rng.choice(seen)) for pattern in accents}
    cells = []
    for colour, pattern, sleeve, length, neckline in product(*options):
        accent = NONE if pattern == "plain" else accents[pattern]
        if accent != NONE and colour in ACCENTS[accent]:
            continue
        cells.append(
            Garment(
                article=article,
                colour=colour,
                pattern=pattern,
                sleeve=sleeve,
                length=length,
                neckline=neckline,
                accent=accent,
            )
        )
    return cells


def _code(member: Member) -> list[int]:
    garment = member.garment
    return [values(garment.article, name).index(garment[name]) for name in ATTRIBUTES]
