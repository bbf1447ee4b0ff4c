"""Datasets: what they give, the layouts that are recognised, and the built-in drawn garments."""
