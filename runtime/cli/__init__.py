"""The command line; each file holds the commands of one errand."""

from cir_rt.cli import facts, galleries, models, tour  # noqa: F401  they register themselves
from cir_rt.cli.command import cli, main

__all__ = ["cli", "main"]
