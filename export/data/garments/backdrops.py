"""Paint what a garment hangs before."""

from __future__ import annotations

from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image, ImageDraw

from cir_rt.export.data.garments.patterns import Colour, shade
from cir_rt.export.data.garments.scenes import Scene


def backdrop(scene: Scene, size: int) -> Image.Image:
    """Paint the scene's backdrop, square, `size` pixels a side."""
    base = _pastel(scene.hue, scene.depth, 0.89 + 0.6 * scene.warmth)
    picture = _washed(scene, base, size)
    pen = ImageDraw.Draw(picture, "RGBA")
    line = (*shade(base, 0.80), 150)
    if scene.backdrop == "floor":
        _floor(pen, scene, size)
    elif scene.backdrop == "panels":
        for left in (0.06, 0.53):
            frame = tuple(round(size * part) for part in (left, 0.08, left + 0.41, 0.92))
            pen.rectangle(frame, outline=line, width=max(1, size // 96))
            pen.rectangle([edge + size // 64 for edge in frame], outline=(255, 255, 255, 90))
    elif scene.backdrop == "stripes":
        step = size / 12
        for band in range(12):
            left = (band + 0.5 * scene.hue) * step
            pen.rectangle((left, 0, left + step / 2, size), fill=(255, 255, 255, 60))
    elif scene.backdrop == "shelf":
        _shelf(pen, scene, size)
    elif scene.backdrop == "arch":
        left, right, top = size * 0.10, size * 0.90, size * 0.05
        fill = (*_pastel(scene.hue + 0.08, scene.depth + 0.12, 0.90), 170)
        pen.pieslice((left, top, right, top + right - left), 180, 360, fill=fill)
        pen.rectangle((left, top + (right - left) / 2, right, size), fill=fill)
    return picture


def _pastel(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (round(255 * part) for part in hsv_to_rgb(hue % 1.0, saturation, value))
    return red, green, blue


def _washed(scene: Scene, base: Colour, size: int) -> Image.Image:
    """Fill with the base colour, falling off away from the light."""
    edge = 24
    y, x = np.mgrid[0:edge, 0:edge] / (edge - 1) * 2 - 1
    strength = {"gradient": 0.13, "spot": 0.05}.get(scene.backdrop, 0.045)
    glow = 1.0 + strength * (x * scene.light - y) / 1.4
    if scene.backdrop == "spot":
        glow = glow + 0.07 - 0.16 * (x**2 + y**2)
    fill = np.clip(glow[..., None] * np.array(base), 0, 255).astype(np.uint8)
    return Image.fromarray(fill).resize((size, size), Image.Resampling.BILINEAR)


def _floor(pen: ImageDraw.ImageDraw, scene: Scene, size: int) -> None:
    """Lay boards below a skirting."""
    level = round(size * (0.80 + 0.04 * scene.light))
    wood = _pastel(0.08 + 0.03 * scene.light, 0.28, 0.80)
    pen.rectangle((0, level, size, size), fill=(*wood, 255))
    pen.rectangle((0, level - size // 24, size, level), fill=(255, 255, 255, 130))
    pen.line((0, level, size, level), fill=(*shade(wood, 0.7), 200))
    for board in range(-2, 12):
        foot = (board + scene.hue) * size / 8
        near = size / 2 + (foot - size / 2) * 1.5
        pen.line((foot, level, near, size), fill=(*shade(wood, 0.86), 160))


def _shelf(pen: ImageDraw.ImageDraw, scene: Scene, size: int) -> None:
    """Stand a shelf low beside the garment, with a few things upon it."""
    level = round(size * 0.86)
    wood = _pastel(0.08, 0.35, 0.72)
    pen.rectangle((0, level, size, level + size // 32), fill=(*wood, 255))
    pen.rectangle((0, level + size // 32, size, level + size // 22), fill=(60, 50, 40, 40))
    right = scene.light < 0
    for place in range(3):
        wide, high = size * (0.035, 0.05, 0.028)[place], size * (0.16, 0.11, 0.20)[place]
        left = size * (0.02 + 0.055 * place)
        left = size - left - wide if right else left
        fill = _pastel(scene.hue + 0.2 * place + 0.3, 0.35, 0.78)
        pen.rectangle((left, level - high, left + wide, level - 1), fill=(*fill, 230))
