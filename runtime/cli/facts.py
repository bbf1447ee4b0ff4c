"""What is there: inspect."""

from __future__ import annotations

from pathlib import Path

import click

from cir_rt.cli.command import FOLDER, command, print_facts


@command("cir-rt inspect shoes.cir --verify")
@click.argument("path", type=FOLDER)
@click.option(
    "--verify", is_flag=True, help="Check every checksum; exit code 1 where one is wrong."
)
def inspect(path: Path, verify: bool, as_json: bool) -> None:
    """Say what a bundle, gallery or checkpoint holds."""
    from cir_rt.inspection import inspect as run

    print_facts(run(path, verify=verify), as_json)
