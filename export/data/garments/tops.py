"""Shape the garments worn on the shoulders: dress, shirt, toptee and jacket."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin
from types import MappingProxyType
from typing import Final

import numpy as np

from cir_rt.export.data.garments.attributes import Garment
from cir_rt.export.data.garments.scenes import Scene
from cir_rt.export.data.garments.silhouettes import (
    Part,
    Point,
    Seam,
    Silhouette,
    bend,
    mirror,
    trace,
)


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """Hold the measures of one article: half widths at each height, and hem heights."""

    neck: float = 0.17
    shoulder: float = 0.45
    chest: float = 0.42
    waist: float = 0.37
    hem: float = 0.44
    hems: tuple[tuple[str, float], ...] = (("none", 1.22),)
    waist_at: float = 0.80
    fall: float = 0.35
    front: str = "closed"
    cuff: float = 0.11


_CUTS: Final = MappingProxyType(
    {
        "dress": _Cut(
            shoulder=0.41,
            chest=0.38,
            waist=0.29,
            hem=0.62,
            hems=(("short", 1.36), ("knee", 1.80), ("long", 2.42)),
            fall=1.0,
            cuff=0.10,
        ),
        "shirt": _Cut(hems=(("none", 1.28),), waist=0.41, hem=0.43, cuff=0.12),
        "toptee": _Cut(
            shoulder=0.40,
            chest=0.37,
            waist=0.34,
            hem=0.43,
            hems=(("short", 0.78), ("long", 1.34)),
            fall=0.6,
            cuff=0.10,
        ),
        "jacket": _Cut(
            shoulder=0.48,
            chest=0.47,
            waist=0.44,
            hem=0.50,
            hems=(("short", 0.98), ("knee", 1.55), ("long", 2.12)),
            fall=0.3,
            cuff=0.14,
        ),
    }
)
_DEPTHS: Final = MappingProxyType(
    {"round": 0.17, "v-neck": 0.47, "square": 0.27, "collar": 0.16, "band": 0.12, "hood": 0.30}
)


def top(garment: Garment, scene: Scene) -> Silhouette:
    """Shape one garment of the shoulders, standing as the scene says."""
    cut = _CUTS[garment.article]
    hem = dict(cut.hems)[garment.length]
    shape = Silhouette(
        waist=cut.waist_at if hem > 1.0 else 0.4,
        fall=cut.fall,
        bottom=hem + 0.02,
        top=-0.36 if garment.neckline == "hood" else -0.12,
        span=cut.shoulder - 0.06,
        reach=max(height for _, height in cut.hems),
    )
    neck = cut.neck + (0.05 if garment.neckline in ("square", "round") else 0.0)
    _add_back(shape, garment, neck)
    bare = garment.sleeve == "sleeveless"
    tip = (cut.shoulder - 0.12, 0.05) if bare else (cut.shoulder, 0.10)
    if not bare:
        _add_sleeves(shape, garment, scene, cut)
    side = _side(cut, scene, hem)
    armhole = bend(tip, (tip[0] - 0.06, 0.36), (cut.chest, 0.44))
    collar_line = _neckline(garment.neckline, neck)
    hem_line = bend((side[-1][0], hem), (0.0, hem + 0.035 + 0.07 * side[-1][0]), (0.0, hem + 0.05))
    right = trace(collar_line[::-1], armhole, side, hem_line)
    shape.parts.append(Part(outline=trace(right, mirror(right))))
    _add_hem(shape, garment, hem_line, (armhole, collar_line), bare)
    if garment.article in ("shirt", "jacket") or garment.neckline == "collar":
        _add_front(shape, garment, hem, _DEPTHS[garment.neckline])
    _add_collar(shape, garment, neck)
    if garment.article == "dress":
        _add_waist(shape, cut, scene)
    return shape


def _side(cut: _Cut, scene: Scene, hem: float) -> np.ndarray:
    """Trace the right side from the armpit through the waist to the hem."""
    waist = cut.waist + 0.025 * scene.ease
    width = cut.hem * (1.0 + (0.16 if cut.fall == 1.0 else 0.06) * scene.flare)
    if cut.waist_at + 0.1 > hem:
        return bend((cut.chest, 0.44), (cut.chest - 0.02, 0.6), (waist + 0.03, hem))
    if cut.fall < 1.0:
        pull = 2 * waist - (cut.chest + width) / 2
        return bend((cut.chest, 0.44), (pull, 0.40 + 0.6 * (hem - 0.44)), (width, hem), 12)
    width = waist + (width - waist) * min(1.0, (hem - cut.waist_at) / 1.2) ** 0.7
    over = bend((cut.chest, 0.44), (cut.chest - 0.02, 0.62), (waist, cut.waist_at), 6)
    below = cut.waist_at + 0.35 * (hem - cut.waist_at)
    flow = (waist + 0.22 * (width - waist) + 0.04, below)
    return trace(over, bend((waist, cut.waist_at), flow, (width, hem))[1:])


def _neckline(kind: str, neck: float) -> np.ndarray:
    """Trace the front opening from the shoulder to the middle."""
    depth = _DEPTHS[kind]
    if kind in ("v-neck", "hood"):
        return bend((neck, 0.0), (neck * 0.62, depth * 0.45), (0.0, depth))
    if kind == "square":
        return trace([(neck, 0.0), (neck * 0.90, depth), (0.0, depth + 0.012)])
    return bend((neck, 0.0), (neck * 0.92, depth), (0.0, depth), 12)


def _add_back(shape: Silhouette, garment: Garment, neck: float) -> None:
    """Lay the inside of the back behind the opening, or a whole hood."""
    depth = _DEPTHS[garment.neckline]
    if garment.neckline == "hood":
        half = trace(
            bend((0.0, -0.34), (0.24, -0.34), (0.28, -0.10)),
            bend((0.28, -0.1), (0.3, 0.1), (0.1, 0.2)),
        )
        shape.parts.append(Part(outline=trace(half, mirror(half)), tone=0.93))
        inner = trace(bend((0.0, -0.25), (0.16, -0.25), (0.18, -0.05)), [(0.17, 0.1), (0.0, depth)])
        shape.parts.append(Part(outline=trace(inner, mirror(inner)), tone=0.55, woven=False))
        return
    rise = -0.07 if garment.neckline in ("collar", "band") else 0.045
    back = bend((0.0, rise), (neck * 0.8, rise), (neck + 0.01, 0.0))
    front = [(neck * 0.96, depth + 0.03), (0.0, depth + 0.05)]
    half = trace(back, front)
    shape.parts.append(Part(outline=trace(half, mirror(half)), tone=0.62, woven=False))
    shape.seams.append(Seam(points=trace(mirror(back), back)[:, :] + (0.0, 0.03), strength=0.25))


def _add_sleeves(shape: Silhouette, garment: Garment, scene: Scene, cut: _Cut) -> None:
    """Hang both sleeves from the shoulders, each a little differently."""
    long = garment.sleeve == "long"
    for sign in (-1.0, 1.0):
        angle = radians(scene.arms + sign * 4.0 * scene.bend + (0.0 if long else 14.0))
        way = np.array([sin(angle), cos(angle)])
        across = np.array([cos(angle), -sin(angle)])
        tip, pit = np.array([cut.shoulder - 0.03, 0.07]), np.array([cut.chest - 0.05, 0.46])
        length = 1.02 if long else 0.40
        end = np.array([cut.shoulder - 0.07, 0.15]) + way * length
        half = cut.cuff * (0.85 if long else 1.35)
        outer, inner = end + across * half, end - across * half + way * 0.01
        bulge = tip + way * length * 0.25 + across * 0.14
        low = pit + way * 0.2 + across * 0.02
        edge = trace(
            bend(tuple(tip), tuple(bulge), tuple(outer)),
            bend(tuple(outer), tuple(end + way * 0.03), tuple(inner), 5),
            bend(tuple(inner), tuple(low), tuple(pit)),
            [(cut.chest - 0.12, 0.3)],
        )
        flip = np.array([sign, 1.0])
        shape.parts.append(Part(outline=edge * flip, turn=-sign * angle, tone=0.965))
        back = way * (0.13 if long and garment.article in ("shirt", "jacket") else 0.045)
        cuff = trace([tuple(outer - back), tuple(end - back + way * 0.03), tuple(inner - back)])
        dashed = garment.article in ("toptee", "dress")
        shape.seams.append(Seam(points=cuff * flip, strength=0.45, dashed=dashed))


def _add_hem(
    shape: Silhouette,
    garment: Garment,
    hem: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray],
    bare: bool,
) -> None:
    """Stitch the hem, the armholes and the neckline's border."""
    up = 0.11 if garment.article == "jacket" and garment.length == "short" else 0.05
    line = trace(hem, mirror(hem)) - (0.0, up)
    shape.seams.append(Seam(points=line, strength=0.45, dashed=up < 0.1))
    armhole, opening = edges
    inset = np.array([0.035, 0.0]) if bare else np.zeros(2)
    for edge in (armhole - inset, mirror(armhole) + inset):
        shape.seams.append(Seam(points=edge, strength=0.3 if bare else 0.55))
    if garment.neckline in ("round", "v-neck", "square"):
        rim = opening * (1.0 + 0.035 / max(opening[:, 0].max(), 0.1), 1.0) + (0.0, 0.045)
        shape.seams.append(Seam(points=trace(rim, mirror(rim)), strength=0.45))


def _add_front(shape: Silhouette, garment: Garment, hem: float, start: float) -> None:
    """Close the front with a placket and buttons, or a jacket's with pockets beside."""
    short = garment.article == "dress" or garment.neckline in ("round", "v-neck")
    if garment.article == "shirt" and short:
        return
    end = 0.78 if garment.article in ("dress", "toptee") else hem + 0.045
    half = 0.05 if garment.article != "jacket" else 0.0
    for x in {-half, half}:
        shape.seams.append(Seam(points=np.array([(x, start + 0.02), (x, end)]), strength=0.5))
    if garment.article != "jacket" or garment.neckline == "collar":
        count = max(3, round((end - start) / 0.21))
        x = 0.0 if half else 0.055
        shape.buttons.extend((x, float(y)) for y in np.linspace(start + 0.12, end - 0.1, count))
    if garment.article == "jacket":
        y = min(0.72, hem - 0.36) if garment.length == "short" else 0.98
        for sign in (-1.0, 1.0):
            slit = np.array([(0.17, y + 0.14), (0.33, y)]) * (sign, 1.0)
            shape.seams.append(Seam(points=slit, width=0.022, strength=0.7))
        if not shape.buttons:
            zip_line = np.array([(0.0, start), (0.0, end)])
            shape.seams.append(Seam(points=zip_line, width=0.03, strength=0.75, dashed=True))
    elif garment.article == "shirt":
        pocket = np.array(
            [(0.13, 0.50), (0.31, 0.50), (0.31, 0.66), (0.22, 0.71), (0.13, 0.66), (0.13, 0.5)]
        )
        shape.seams.append(Seam(points=pocket, strength=0.4))


def _add_collar(shape: Silhouette, garment: Garment, neck: float) -> None:
    """Fold a pointed collar over the shoulders, or stand a band around the neck."""
    deep = 0.10 if garment.article == "jacket" else 0.0
    if garment.neckline == "collar":
        flap: list[Point] = [
            (neck - 0.04, -0.075),
            (neck + 0.075, 0.02),
            (0.20 + deep / 2, 0.25 + deep),
            (0.012, 0.155 + deep / 4),
        ]
        for sign in (-1.0, 1.0):
            edge = np.array(flap) * (sign, 1.0)
            shape.parts.append(Part(outline=edge, turn=sign * 0.6, tone=1.06))
    if garment.neckline == "band":
        half = trace(
            [(0.012, 0.075)],
            bend((0.012, 0.075), (neck * 0.9, 0.09), (neck - 0.015, -0.09)),
            bend((neck + 0.025, -0.01), (neck * 0.95, 0.17), (0.012, 0.16)),
        )
        for sign in (-1.0, 1.0):
            shape.parts.append(Part(outline=half * (sign, 1.0), tone=1.05, woven=False))


def _add_waist(shape: Silhouette, cut: _Cut, scene: Scene) -> None:
    """Gather a dress at the waist."""
    half = cut.waist + 0.025 * scene.ease
    for y in (cut.waist_at - 0.03, cut.waist_at + 0.03):
        line = bend((-half, y), (0.0, y + 0.05), (half, y))
        shape.seams.append(Seam(points=line, strength=0.45))
