"""What every command shares: errors, exit codes, --json, output."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from cir_rt import __version__
from cir_rt.errors import BackendMissing, CirRtError, UsageError

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
DEBUG = "cir_rt.debug"


class _Commands(click.Group):
    """Turns errors into one clear line and exit code 1; wrong usage stays 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except UsageError as error:
            raise click.UsageError(str(error)) from error
        except Exception as error:
            if ctx.meta.get(DEBUG):
                raise
            hint = "" if isinstance(error, CirRtError) else "  (--debug shows where)"
            message = " ".join(str(error).split())
            click.echo(f"{type(error).__name__}: {message}{hint}", err=True)
            ctx.exit(1)


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True


def _command(group: click.Group, example: str, **settings: Any) -> Callable[[Callable], Any]:
    """Register a command with --json and --debug, and an example at the end of its help."""

    def register(function: Callable) -> Any:
        debug = click.option(
            "--debug", is_flag=True, expose_value=False, callback=_set_debug,
            help="Show the traceback of an error.",
        )  # fmt: skip
        as_json = click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
        )
        epilog = f"\b\nExample:\n  {example}"
        return group.command(epilog=epilog, **settings)(as_json(debug(function)))

    return register


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="cir-rt")
def cli() -> None:
    """Composed image retrieval on the device: a picture and a sentence in, pictures out."""


command = functools.partial(_command, cli)


def subcommands(name: str, summary: str) -> Callable[..., Any]:
    """Return what registers commands below one name, as `command` does at the top."""
    group = click.Group(name, help=summary)
    cli.add_command(group)
    return functools.partial(_command, group)


def needs(package: str, extra: str) -> None:
    """Raise BackendMissing with the extra's name where a package is not installed."""
    if find_spec(package) is None:
        raise BackendMissing(
            f"{package} is not installed. Install it:  pip install 'cir-rt[{extra}]'"
        )


def needs_torch() -> None:
    """Raise BackendMissing where torch is not installed."""
    needs("torch", "export")


def bar(length: int, label: str) -> Any:
    """Return a progress bar on stderr, silent where that is no terminal."""
    return click.progressbar(
        length=length, label=label, file=sys.stderr, show_eta=True, hidden=not sys.stderr.isatty()
    )


def say(stage: str) -> None:
    """Name the stage on stderr, where that is a terminal."""
    if sys.stderr.isatty():
        click.echo(f"… {stage}", err=True)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(values))


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print a mapping as JSON, or as indented lines."""
    if as_json:
        return print_json(facts)
    for key, value in facts.items():
        click.echo(f"{key:<15} {_inline(value)}")
    return None


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_inline(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "none" if not value else "".join(f"\n  {_inline(v)}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the command line."""
    cli()
