"""Inference engines behind one protocol."""

from cir_rt.engines.protocol import Engine, TensorSpec

__all__ = ["Engine", "TensorSpec"]
