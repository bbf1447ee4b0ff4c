"""Trainer, datasets, evaluation and the way from a checkpoint to a bundle."""
