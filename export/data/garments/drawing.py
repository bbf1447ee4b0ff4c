"""Draw one garment in one scene."""

from __future__ import annotations

from colorsys import hsv_to_rgb, rgb_to_hsv
from dataclasses import dataclass, replace
from math import cos, radians, sin
from typing import Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from cir_rt.export.data.garments.attributes import COLOURS, NONE, Garment
from cir_rt.export.data.garments.backdrops import backdrop
from cir_rt.export.data.garments.bottoms import bottom
from cir_rt.export.data.garments.patterns import Cloth, Colour, shade
from cir_rt.export.data.garments.scenes import Scene
from cir_rt.export.data.garments.silhouettes import Silhouette
from cir_rt.export.data.garments.tops import top

_OVER: Final = 2  # the garment is drawn this many times larger, then reduced
_COARSE: Final = 4  # light and shadow are worked out on every so many pixels
_REPEAT: Final = 0.125  # of a pattern, in body units of a garment of usual height
_WOOD: Final = (168, 122, 78)
_SHADOW: Final = [round(0.42 * part) for part in range(256)]
_METAL: Final = (120, 122, 128)


@dataclass(frozen=True, kw_only=True)
class _Pose:
    """Map body units to pixels: a turn and a scale in `matrix`, an offset, and pixels a unit."""

    matrix: np.ndarray
    offset: np.ndarray
    unit: float

    def pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        """Map points, shape (n, 2)."""
        return [(x, y) for x, y in (points @ self.matrix.T + self.offset).tolist()]

    def units(self, extent: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Map every _COARSE-th pixel of a window back to body units; float32 x and y."""
        across, down = ((np.arange(0, side, _COARSE) + _COARSE / 2) for side in extent)
        inverse = np.linalg.inv(self.matrix).astype(np.float32)
        x = (across - self.offset[0]).astype(np.float32)[None, :]
        y = (down - self.offset[1]).astype(np.float32)[:, None]
        return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Bound the garment within the canvas, so that no work is done where there is none.

    Corner and extent are (x, y) in pixels, multiples of _COARSE; `pose` maps into the window.
    """

    corner: tuple[int, int]
    extent: tuple[int, int]
    pose: _Pose

    @classmethod
    def around(cls, shape: Silhouette, pose: _Pose, margin: int) -> _Window:
        """Bound all parts with `margin` pixels to spare."""
        corners = np.concatenate([part.outline for part in shape.parts]) @ pose.matrix.T
        low = np.floor((corners.min(axis=0) + pose.offset - margin) / _COARSE) * _COARSE
        high = np.ceil((corners.max(axis=0) + pose.offset + margin) / _COARSE) * _COARSE
        width, height = (high - low).astype(int).tolist()
        return cls(
            corner=(int(low[0]), int(low[1])),
            extent=(width, height),
            pose=replace(pose, offset=pose.offset - low),
        )


def draw(garment: Garment, scene: Scene, size: int = 192) -> Image.Image:
    """Draw a garment; an RGB picture, `size` pixels a side."""
    legs = garment.article in ("skirt", "trousers")
    shape = bottom(garment, scene) if legs else top(garment, scene)
    pose = _pose(shape, scene, size * _OVER)
    window = _Window.around(shape, pose, size // 8)
    base = _jittered(COLOURS[garment.colour], scene)
    cloth, mask = _cut_out(garment, shape, scene, (window, base))
    cloth = ImageChops.hard_light(cloth, _shading(mask, shape, scene, window))
    _stitch(cloth, shape, window.pose, base)
    small = (window.extent[0] // _OVER, window.extent[1] // _OVER)
    cloth = cloth.resize(small, Image.Resampling.LANCZOS)
    mask = mask.resize(small, Image.Resampling.LANCZOS)
    place = (window.corner[0] // _OVER, window.corner[1] // _OVER)
    picture = backdrop(scene, size)
    if scene.hanger:
        _hang(picture, shape, pose)
    _cast(picture, mask, place, scene)
    picture.paste(cloth, place, mask)
    return _lit(picture, scene)


def _pose(shape: Silhouette, scene: Scene, canvas: int) -> _Pose:
    """Fit the longest of the article into the canvas, so that lengths can be told apart."""
    unit = min(0.86 / (shape.reach + 0.24), 0.50) * canvas * scene.scale
    angle = radians(scene.tilt)
    flip = -1.0 if scene.mirrored else 1.0
    matrix = unit * np.array([[cos(angle) * flip, -sin(angle)], [sin(angle) * flip, cos(angle)]])
    middle = (shape.top + shape.bottom) / 2
    centre = canvas / 2 * (1.0 + np.array(scene.shift)) + (
        0.0,
        canvas * (0.03 if scene.hanger else 0.01),
    )
    return _Pose(matrix=matrix, offset=centre - matrix @ np.array([0.0, middle]), unit=unit)


def _jittered(colour: Colour, scene: Scene) -> Colour:
    hue, saturation, value = rgb_to_hsv(*(part / 255 for part in colour))
    parts = hsv_to_rgb((hue + scene.tint) % 1.0, saturation, min(1.0, value * (1.0 + scene.tone)))
    red, green, blue = (round(part * 255) for part in parts)
    return red, green, blue


def _cut_out(
    garment: Garment, shape: Silhouette, scene: Scene, frame: tuple[_Window, Colour]
) -> tuple[Image.Image, Image.Image]:
    """Cut all parts from the cloth, back to front, each outlined; give the cloth and its mask."""
    window, base = frame
    pose = window.pose
    accent = base if garment.accent == NONE else COLOURS[garment.accent]
    pitch = _REPEAT * (0.62 + 0.2 * shape.reach) * pose.unit * scene.weave
    phase = (scene.grain % 97) / 97
    pattern = Cloth(pattern=garment.pattern, colour=base, accent=accent, pitch=pitch, phase=phase)
    plain = Cloth(pattern="plain", colour=base, accent=accent, pitch=pitch)
    outline = _ink(base)
    layer = Image.new("RGB", window.extent, outline)
    mask = Image.new("L", window.extent)
    pen, stencil = ImageDraw.Draw(layer), ImageDraw.Draw(mask)
    for part in shape.parts:
        corners = pose.pixels(part.outline)
        xs, ys = zip(*corners, strict=True)
        left, upper = int(min(xs)) - 1, int(min(ys)) - 1
        extent = (int(max(xs)) + 2 - left, int(max(ys)) + 2 - upper)
        hole = Image.new("L", extent)
        ImageDraw.Draw(hole).polygon([(x - left, y - upper) for x, y in corners], fill=255)
        turn = radians(scene.tilt) + (-part.turn if scene.mirrored else part.turn)
        cut = (pattern if part.woven else plain).woven(extent, turn, part.tone)
        layer.paste(cut, (left, upper), hole)
        stencil.polygon(corners, fill=255)
        pen.line(
            [*corners, corners[0]],
            fill=outline,
            width=max(2, round(pose.unit * 0.018)),
            joint="curve",
        )
    return layer, mask


def _shading(mask: Image.Image, shape: Silhouette, scene: Scene, window: _Window) -> Image.Image:
    """Round the garment towards the light and let folds fall; 128 is neutral, RGB."""
    x, y = window.pose.units(window.extent)
    unit = window.pose.unit / _COARSE
    small = mask.reduce(_COARSE)
    near, wide = (
        np.asarray(small.filter(ImageFilter.GaussianBlur(unit * radius)), np.float32) / 255
        for radius in (0.05, 0.16)
    )
    step = max(1, round(unit * 0.07))
    side = np.roll(wide, step, axis=1) - np.roll(wide, -step, axis=1)
    above = np.roll(wide, -step, axis=0) - wide
    value = 0.24 * (near - 0.95) + 0.12 * (wide - 0.75) + 0.08 * above
    value = value + scene.light * (0.06 * x - 0.36 * side) + _folds(x, y, shape, scene)
    level = np.clip(128 + 255 * value, 48, 215).astype(np.uint8)
    flat = Image.fromarray(level).resize(window.extent, Image.Resampling.BILINEAR)
    return Image.merge("RGB", (flat, flat, flat))


def _folds(x: np.ndarray, y: np.ndarray, shape: Silhouette, scene: Scene) -> np.ndarray:
    """Raise folds that fan out from the waist, and a few soft creases above it."""
    rng = np.random.default_rng(scene.grain)
    below = np.clip((y - shape.waist) / 0.5, 0.0, 1.0)
    fan = x / (0.30 + 0.28 * np.clip(y - shape.waist, 0.0, None))
    count, phase = rng.uniform(1.4, 2.3), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * count * fan + phase + 0.5 * np.sin(3.1 * fan + phase))
    value = 0.085 * shape.fall * below * (wave - 0.15)
    for _ in range(5):
        cx, cy, turn = (
            rng.uniform(-0.5, 0.5),
            rng.uniform(0.2, shape.bottom),
            rng.uniform(-0.9, 0.9),
        )
        along = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        across = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        crease = np.sin(across / 0.055) * np.exp(-((across / 0.10) ** 2) - (along / 0.24) ** 2)
        value = value + 0.055 * crease
    return value


def _stitch(layer: Image.Image, shape: Silhouette, pose: _Pose, base: Colour) -> None:
    """Draw seams and buttons over the shaded cloth."""
    pen = ImageDraw.Draw(layer, "RGBA")
    ink = _ink(base)
    for seam in shape.seams:
        width = max(2, round(seam.width * pose.unit))
        fill = (*ink, round(255 * seam.strength))
        corners = pose.pixels(_dashes(seam.points, 0.035) if seam.dashed else seam.points)
        if seam.dashed:
            for start, end in zip(corners[::2], corners[1::2], strict=False):
                pen.line((start, end), fill=fill, width=width)
        else:
            pen.line(corners, fill=fill, width=width, joint="curve")
    bright = sum(base) > 380
    for x, y in pose.pixels(np.array(shape.buttons).reshape(-1, 2)):
        radius = max(3.0, 0.026 * pose.unit)
        rim = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(rim, fill=shade(base, 0.5) if bright else (236, 230, 220), outline=ink)
        spot = radius * 0.35
        pen.ellipse((x - spot, y - spot, x + spot, y + spot), fill=(255, 255, 255, 120))


def _dashes(points: np.ndarray, step: float) -> np.ndarray:
    """Place points evenly along a line, `step` body units apart."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    places = np.arange(0.0, along[-1], step)
    return np.stack([np.interp(places, along, points[:, axis]) for axis in (0, 1)], axis=1)


def _ink(base: Colour) -> Colour:
    """Choose the colour of lines: darker than the cloth, or lighter on black."""
    if sum(base) < 150:
        return shade(base, 0.35) if max(base) > 70 else (8, 8, 12)
    return shade(base, 0.52)


def _hang(picture: Image.Image, shape: Silhouette, pose: _Pose) -> None:
    """Draw a hanger behind the garment."""
    pen = ImageDraw.Draw(picture)
    rise = -0.16 if shape.clipped else -0.10
    rise = min(rise, shape.top + 0.02) if shape.top < -0.2 else rise
    points = np.array([(-shape.span, rise + 0.16), (0.0, rise), (shape.span, rise + 0.16)])
    angles = np.linspace(np.pi * 0.5, -np.pi * 0.9, 12)
    hook = np.stack([0.055 * np.cos(angles), rise - 0.15 + 0.055 * np.sin(angles)], axis=1)
    hook = np.concatenate([[(0.0, rise)], hook])
    width = max(2, round(0.02 * pose.unit))
    for line, fill in ((hook, _METAL), (points, _METAL if shape.clipped else _WOOD)):
        corners = [(x / _OVER, y / _OVER) for x, y in pose.pixels(line)]
        pen.line(corners, fill=fill, width=width if fill == _WOOD else max(1, width // 2))


def _cast(picture: Image.Image, mask: Image.Image, place: tuple[int, int], scene: Scene) -> None:
    """Throw the garment's soft shadow upon the backdrop, away from the light."""
    size = picture.width
    small = Image.new("L", (size // 2, size // 2))
    small.paste(mask.reduce(2), (place[0] // 2, place[1] // 2))
    small = small.filter(ImageFilter.GaussianBlur(size / 45))
    soft = small.resize(picture.size, Image.Resampling.BILINEAR).point(_SHADOW)
    shift = (round(-scene.light * size * 0.03), round(size * 0.03))
    picture.paste((52, 44, 60), shift, soft)


def _lit(picture: Image.Image, scene: Scene) -> Image.Image:
    """Warm and brighten the whole picture."""
    levels = np.arange(256)
    gains = (1 + scene.brightness) * (1 + scene.warmth * np.array([1.0, 0.15, -1.0]))
    table = np.clip(levels[None, :] * gains[:, None], 0, 255).round().astype(int)
    return picture.point(table.ravel().tolist())
