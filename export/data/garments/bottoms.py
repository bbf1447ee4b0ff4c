"""Shape the garments that hang from the waist: skirt and trousers."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import numpy as np

from cir_rt.export.data.garments.attributes import Garment
from cir_rt.export.data.garments.scenes import Scene
from cir_rt.export.data.garments.silhouettes import Part, Seam, Silhouette, bend, mirror, trace

_SKIRT_HEMS: Final = MappingProxyType({"short": 0.68, "knee": 1.12, "long": 1.72})
_TROUSER_HEMS: Final = MappingProxyType({"short": 0.92, "knee": 1.38, "long": 2.12})
_WAIST: Final = 0.34
_BAND: Final = 0.11


def bottom(garment: Garment, scene: Scene) -> Silhouette:
    """Shape one garment of the waist, hanging as the scene says."""
    return _skirt(garment, scene) if garment.article == "skirt" else _trousers(garment, scene)


def _skirt(garment: Garment, scene: Scene) -> Silhouette:
    hem = _SKIRT_HEMS[garment.length]
    width = _WAIST + (0.20 + 0.12 * (scene.flare + 1.0)) * (hem / 1.1) ** 0.6
    shape = Silhouette(
        waist=0.05, fall=1.2, top=-0.04, bottom=hem + 0.06, reach=1.72, span=0.28, clipped=True
    )
    side = bend((_WAIST, _BAND), (_WAIST + 0.12, hem * 0.4), (width, hem), 12)
    waves = 2 + round(scene.ease + 1.0)
    x = np.linspace(width, 0.0, 25)
    sag = 0.07 * (1.0 - (x / width) ** 2) * (0.5 + width)
    ripple = 0.016 * (1.0 - np.cos(2 * np.pi * waves * x / width)) / 2
    hem_line = np.stack([x, hem + sag + ripple], axis=1)
    right = trace(side, hem_line)
    shape.parts.append(Part(outline=trace(right, mirror(right))))
    line = trace(hem_line, mirror(hem_line)) - (0.0, 0.05)
    shape.seams.append(Seam(points=line, strength=0.4, dashed=True))
    for place in range(-waves, waves + 1):
        foot = place / (waves + 0.5)
        pleat = bend(
            (foot * _WAIST * 0.9, _BAND),
            (foot * (_WAIST + 0.05), hem * 0.25),
            (foot * width * 0.9, hem * 0.5),
        )
        shape.seams.append(Seam(points=pleat, strength=0.28))
    _add_band(shape)
    return shape


def _trousers(garment: Garment, scene: Scene) -> Silhouette:
    hem = _TROUSER_HEMS[garment.length]
    shape = Silhouette(
        waist=0.35, fall=0.25, top=-0.04, bottom=hem + 0.02, reach=2.12, span=0.28, clipped=True
    )
    down = (hem - 0.6) / 1.5
    spread = 0.025 + (0.09 + 0.05 * scene.bend) * down
    wide = 0.47 - 0.24 * down + 0.02 * scene.ease + 0.07 * scene.flare * down
    hip, crotch = 0.47, 0.70
    outer = trace(
        bend((_WAIST, _BAND), (hip - 0.02, 0.25), (hip, 0.52), 8),
        bend((hip, 0.52), (hip + 0.02, (hem + 0.5) / 2), (spread + wide, hem))[1:],
    )
    inner = bend((spread, hem + 0.015), (0.03, (hem + crotch) / 2), (0.0, crotch))
    cuff = bend((spread + wide, hem), (spread + wide / 2, hem + 0.03), (spread, hem + 0.015), 5)
    leg = trace([(0.0, _BAND)], outer, cuff, inner)
    for sign, tone in ((-1.0, 0.98), (1.0, 1.0)):
        flip = np.array([sign, 1.0])
        shape.parts.append(Part(outline=leg * flip, tone=tone, turn=-sign * spread * 0.4))
        shape.seams.append(Seam(points=(cuff - (0.0, 0.06)) * flip, strength=0.4, dashed=True))
        pocket = bend((_WAIST - 0.10, _BAND), (_WAIST - 0.06, 0.28), (0.43, 0.32))
        shape.seams.append(Seam(points=pocket * flip, strength=0.55))
        middle = (spread + wide / 2, hem - 0.06)
        crease = bend((0.22, 0.4), (0.25, (hem + 0.4) / 2), middle)
        shape.seams.append(Seam(points=crease * flip, strength=0.22))
    fly = bend((0.085, _BAND), (0.09, 0.42), (0.0, 0.5))
    shape.seams.append(Seam(points=fly, strength=0.45, dashed=True))
    _add_band(shape)
    shape.buttons.append((0.0, _BAND / 2))
    return shape


def _add_band(shape: Silhouette) -> None:
    """Lay the waistband over the top."""
    half = trace(
        [(0.0, 0.012), (_WAIST - 0.012, 0.0), (_WAIST + 0.008, _BAND), (0.0, _BAND + 0.015)]
    )
    shape.parts.append(Part(outline=trace(half, mirror(half)), tone=0.94, woven=False))
