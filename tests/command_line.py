"""Running the command line in tests, and reading what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cir_rt.cli import cli

OWN, TEXT = "dress-val-00000", "the same but in red"
THREADS = "--threads=1"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="cir-rt")


def json_of(result: Result) -> dict[str, Any]:
    """Return the one object on stdout; there must be nothing else."""
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    values = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert isinstance(values, dict)
    return values


def refused(result: Result, code: int, *said: str) -> None:
    """Check that a command failed by one clear line on stderr, with nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert code == 2 or len(lines) == 1, result.stderr
    for words in said:
        assert words in result.stderr


def shell(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cir_rt.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)
