"""The command line; each file holds the commands of one errand."""

# ruff: noqa: F401  imported to register
from cir_rt.cli import facts, galleries, models, profile, serve, tour, upkeep
from cir_rt.cli.command import cli, main

__all__ = ["cli", "main"]
