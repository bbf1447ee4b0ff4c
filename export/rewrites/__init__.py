"""Graphs of a model that its PyTorch module computes otherwise: the same numbers, less work."""
