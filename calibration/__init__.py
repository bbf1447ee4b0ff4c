"""Quantization: recipes, calibration samples, gates."""
