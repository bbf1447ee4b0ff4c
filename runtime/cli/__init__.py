"""The command line; each file holds the commands of one errand."""

from cir_rt.cli import facts, galleries, models, tour, upkeep  # noqa: F401  registering
from cir_rt.cli.command import cli, main

__all__ = ["cli", "main"]
