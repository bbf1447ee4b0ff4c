"""Draw garments with known attributes, and the queries that lead from one to another."""

from cir_rt.export.data.garments.attributes import Garment
from cir_rt.export.data.garments.dataset import write
from cir_rt.export.data.garments.drawing import draw
from cir_rt.export.data.garments.scenes import Scene

__all__ = ["Garment", "Scene", "draw", "write"]
