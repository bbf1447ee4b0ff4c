"""Weave a piece of cloth: plain, striped, dotted, checked or floral."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
_PETALS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Cloth:
    """Hold what a piece is cut from; `pitch` is the pattern's repeat in pixels."""

    pattern: str
    colour: Colour
    accent: Colour
    pitch: float
    phase: float = 0.0

    def woven(self, size: tuple[int, int], turn: float, tone: float) -> Image.Image:
        """Weave a piece of `size` (width, height) with its pattern turned by `turn` radians."""
        piece = Image.new("RGB", size, shade(self.colour, tone))
        if self.pattern == "plain":
            return piece
        pen = ImageDraw.Draw(piece, "RGBA")
        ink = shade(self.accent, tone)
        if self.pattern == "striped":
            self._stripe(pen, size, turn, (*ink, 255), 0.38)
        elif self.pattern == "checked":
            for angle in (turn, turn + pi / 2):
                self._stripe(pen, size, angle, (*ink, 125), 0.36)
        else:
            self._scatter(pen, size, turn, ink)
        return piece

    def _stripe(
        self,
        pen: ImageDraw.ImageDraw,
        size: tuple[int, int],
        turn: float,
        ink: tuple[int, int, int, int],
        share: float,
    ) -> None:
        """Lay bands across the piece, `share` of the repeat wide."""
        middle = np.array(size) / 2
        along, down = np.array([cos(turn), sin(turn)]), np.array([-sin(turn), cos(turn)])
        reach = float(np.hypot(*size)) / 2 + self.pitch
        starts = np.arange(-reach, reach, self.pitch) + self.phase * self.pitch
        for start in starts:
            near = middle + down * start
            far = near + down * self.pitch * share
            corners = (
                near - along * reach,
                near + along * reach,
                far + along * reach,
                far - along * reach,
            )
            pen.polygon([(float(x), float(y)) for x, y in corners], fill=ink)

    def _scatter(
        self, pen: ImageDraw.ImageDraw, size: tuple[int, int], turn: float, ink: Colour
    ) -> None:
        """Set dots or flowers on a staggered grid."""
        floral = self.pattern == "floral"
        pitch = self.pitch * (1.75 if floral else 1.0)
        reach = float(np.hypot(*size)) / 2 + pitch
        steps = np.arange(-reach, reach, pitch)
        x, y = np.meshgrid(steps, np.arange(-reach, reach, pitch * 0.75))
        x = x + (np.arange(len(y)) % 2)[:, None] * pitch / 2 + self.phase * pitch
        places = np.stack([x.ravel(), y.ravel()], axis=1)
        spin = np.array([[cos(turn), sin(turn)], [-sin(turn), cos(turn)]])
        places = places @ spin + np.array(size) / 2
        inside = ((places > -pitch) & (places < np.array(size) + pitch)).all(axis=1)
        for number, (left, top) in enumerate(places[inside].tolist()):
            if floral:
                self._flower(pen, (left, top), number, ink)
            else:
                radius = pitch * 0.23
                pen.ellipse((left - radius, top - radius, left + radius, top + radius), fill=ink)

    def _flower(
        self, pen: ImageDraw.ImageDraw, middle: tuple[float, float], number: int, ink: Colour
    ) -> None:
        """Draw one blossom with its heart and a leaf."""
        size = self.pitch * (0.30, 0.22, 0.26)[number % 3]
        leaf = (70, 130, 80) if sum(self.colour) > 240 else (110, 170, 115)
        x, y = middle
        start = number * 0.7
        lx, ly = x + cos(start + 0.6) * size * 1.9, y + sin(start + 0.6) * size * 1.9
        tip = size * 0.42
        pen.ellipse((lx - tip, ly - tip, lx + tip, ly + tip), fill=leaf)
        for petal in range(_PETALS):
            angle = start + petal * 2 * pi / _PETALS
            px, py, r = x + cos(angle) * size, y + sin(angle) * size, size * 0.72
            pen.ellipse((px - r, py - r, px + r, py + r), fill=ink)
        heart = size * 0.5
        pen.ellipse((x - heart, y - heart, x + heart, y + heart), fill=_heart(ink))


def shade(colour: Colour, tone: float) -> Colour:
    """Darken or brighten a colour by a factor, kept within 0..255."""
    red, green, blue = (min(255, max(0, round(part * tone))) for part in colour)
    return red, green, blue


def _heart(ink: Colour) -> Colour:
    return (244, 190, 60) if ink[2] > 90 or sum(ink) < 200 else (120, 60, 40)
