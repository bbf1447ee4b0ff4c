"""What is there: inspect, doctor."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from cir_rt.cli.command import FOLDER, command, print_facts, print_json


@command("cir-rt inspect shoes.cir --verify")
@click.argument("path", type=FOLDER)
@click.option(
    "--verify", is_flag=True, help="Check every checksum; exit code 1 where one is wrong."
)
@click.option(
    "--repair", is_flag=True, help="Keep what is whole in a damaged gallery; name what is lost."
)
def inspect(path: Path, verify: bool, repair: bool, as_json: bool) -> None:
    """Say what a bundle, gallery or checkpoint holds."""
    from cir_rt.inspection import inspect as run

    facts = run(path, verify=verify, repair=repair)
    if as_json or facts["kind"] != "bundle":
        return print_facts(facts, as_json)
    roles, quality = facts.pop("roles"), facts.pop("quality")
    print_facts({k: v for k, v in facts.items() if k not in ("files", "precisions")}, False)
    _print_table("engines", ["role", "precision", "MB", "file", "layers"], _engines(roles))
    _print_table("gates", ["gate", "limit", "measured", "passed"], _gates(quality.pop("gates", [])))
    click.echo("")
    return print_facts(quality, False)


@command("cir-rt doctor shoes.cir")
@click.argument("bundle", type=FOLDER, required=False)
@click.pass_context
def doctor(ctx: click.Context, bundle: Path | None, as_json: bool) -> None:
    """Run one real query per backend of this machine; say what is missing and how to get it.

    On the model that ships with cir-rt and, for the backend that it was built for, on BUNDLE.
    Exit code 1 where ONNX Runtime on the CPU does not answer.
    """
    from cir_rt.doctor import examine
    from cir_rt.export.trial import trial_encoder

    with tempfile.TemporaryDirectory(prefix="cir-rt-doctor-") as scratch:
        found = examine(
            lambda backend, device: trial_encoder(backend, device, Path(scratch)), bundle
        )
    if as_json:
        print_json(found.to_json())
    else:
        print_facts(found.machine, False)
        states = [[b.name, _state(b.answered, b.query_ms), b.package] for b in found.backends]
        _print_table("backends", ["backend", "query", "package"], states)
        packages = [[p.name, p.version, p.serves] for p in found.packages]
        _print_table("packages", ["package", "version", "serves"], packages)
        _print_repairs(found)
    if not found.healthy:
        ctx.exit(1)


def _engines(roles: dict[str, Any]) -> list[list[Any]]:
    rows = []
    for name, role in roles.items():
        layers = role.get("layers", {})
        shown = [f"{kind} {_counted(counts)}" for kind, counts in layers.items()]
        if "plan" in role:
            shown = [role["plan"]["package"], *role["plan"]["capabilities"]]
            shown += [f"{count} {kind}" for kind, count in role["plan"]["layers"].items()]
        size = None if role["size_bytes"] is None else round(role["size_bytes"] / 1e6, 2)
        rows.append([name, role["precision"], size, role["file"], "; ".join(shown)])
    return rows


def _counted(counts: dict[str, int]) -> str:
    """Return the total, and the operators that do the work."""
    work = [f"{n} {op}" for op, n in counts.items() if op in ("MatMul", "Gemm", "Conv")]
    return f"{sum(counts.values())}" + (f" ({', '.join(work)})" if work else "")


def _gates(gates: list[dict[str, Any]]) -> list[list[Any]]:
    return [[gate.get(key) for key in ("what", "limit", "measured", "passed")] for gate in gates]


def _state(answered: bool, query_ms: float | None) -> str:
    return f"{query_ms:.1f} ms" if answered and query_ms is not None else "no answer"


def _print_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    from cir_rt.report import table

    if rows:
        click.echo(f"\n{title}\n{table(header, rows)}")


def _print_repairs(found: Any) -> None:
    """Print what is wrong and what to type, of backends and then of packages."""
    troubles: dict[tuple[str, str], list[str]] = {}
    for backend in found.backends:
        if backend.problem:
            troubles.setdefault((backend.problem, backend.repair), []).append(backend.name)
    for package in found.packages:
        if package.repair:
            troubles[f"not installed (for {package.serves})", package.repair] = [package.name]
    for (problem, repair), names in troubles.items():
        click.echo(f"\n{', '.join(names)}: {problem}" + (f"\n    {repair}" if repair else ""))
