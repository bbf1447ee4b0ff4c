"""The reference trainer: recipes, losses, batches."""
