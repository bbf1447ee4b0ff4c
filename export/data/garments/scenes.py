"""Describe what varies from picture to picture though the garment stays the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

BACKDROPS: Final = ("plain", "gradient", "spot", "floor", "panels", "stripes", "shelf", "arch")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Hold the pose, cut, backdrop and light of one picture.

    `tilt` and `arms` are in degrees; `shift` in halves of the picture; `flare`, `ease` and `bend`
    from -1 to 1 vary the cut; `hue`, `warmth`, `brightness`, `tint` and `tone` are small offsets
    around 0, `light` is where the light comes from (-1 left, 1 right), `grain` seeds the folds.
    """

    tilt: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False
    hanger: bool = False
    arms: float = 16.0
    flare: float = 0.0
    ease: float = 0.0
    bend: float = 0.0
    backdrop: str = "plain"
    hue: float = 0.1
    depth: float = 0.12
    light: float = -0.6
    warmth: float = 0.0
    brightness: float = 0.0
    tint: float = 0.0
    tone: float = 0.0
    weave: float = 1.0
    grain: int = 0

    def __post_init__(self) -> None:
        if self.backdrop not in BACKDROPS:
            raise ValueError(f"backdrop {self.backdrop!r}: expected one of {', '.join(BACKDROPS)}")

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Scene:
        """Draw a scene at random, independent of any garment."""
        spread = rng.uniform(-1.0, 1.0, 16)
        return cls(
            tilt=float(5.0 * spread[0]),
            scale=float(0.95 + 0.07 * spread[1]),
            shift=(float(0.06 * spread[2]), float(0.035 * spread[3])),
            mirrored=bool(rng.random() < 0.5),
            hanger=bool(rng.random() < 0.4),
            arms=float(16.0 + 9.0 * spread[4]),
            flare=float(spread[5]),
            ease=float(spread[6]),
            bend=float(spread[7]),
            backdrop=str(rng.choice(BACKDROPS)),
            hue=float(rng.random()),
            depth=float(0.095 + 0.045 * spread[8]),
            light=float(spread[9]),
            warmth=float(0.045 * spread[10]),
            brightness=float(0.05 * spread[11]),
            tint=float(0.010 * spread[12]),
            tone=float(0.05 * spread[13]),
            weave=float(1.0 + 0.15 * spread[14]),
            grain=int(rng.integers(2**32)),
        )
