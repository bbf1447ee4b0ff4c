"""`cir-rt demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cir_rt.cli.command import FOLDER, command, needs, print_json, say


@command("cir-rt demo --out tour")
@click.option("--out", type=FOLDER, default=Path("demo"), show_default=True)
def demo(out: Path, as_json: bool) -> None:
    """Show the whole way on the built-in pictures: engines, gallery, answers."""
    for package, extra in (("onnxruntime", "cpu"), ("onnx", "build"), ("matplotlib", "plots")):
        needs(package, extra)
    from cir_rt.export.demo import PICTURES, tour
    from cir_rt.report import table

    result = tour(out, say=say)
    figures = result.to_json()
    if as_json:
        return print_json(figures)
    engines = ", ".join(f"{k} {v}" for k, v in result.build.precisions.items())
    race = result.build.latency_ms()
    click.echo(f"\n{result.queries} queries, each ranks its article's {PICTURES} drawn pictures")
    click.echo(
        f"engines: {engines}; image and text take {race['after']:.2f} ms together, "
        f"in FP32 {race['before']:.2f} ms\n"
    )
    header = ["asked with", *next(iter(result.recall.values()))]
    click.echo(table(header, [[name, *r.values()] for name, r in result.recall.items()]))
    click.echo()
    for title, key in (("stage (ms)", "stages"), ("not re-ranked (ms)", "stages_pruned")):
        if figures[key]:
            rows = [[stage, *values.values()] for stage, values in figures[key].items()]
            click.echo(table([title, "p50", "p90", "p99"], rows) + "\n")
    click.echo(f"contact sheet  {out / 'contact-sheet.png'}\nlatency        {out / 'latency.png'}")
    click.echo(f"{result.seconds:.0f} s in all. Ask it yourself:\n")
    click.echo(
        f"  {sys.argv[0]} search {out / 'garments.cir'} {out / 'garments.gallery'} "
        '--image dress-val-00007 --text "the same but in red" --sheet answer.png'
    )
    return None
