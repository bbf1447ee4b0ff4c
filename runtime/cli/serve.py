"""A bundle and a gallery behind HTTP: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cir_rt.cli.command import FILE, FOLDER, command, needs, print_json

PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client")


@command("cir-rt serve shoes.cir shoes.gallery --port 8080 --token-file tokens.txt")
@click.argument("bundle", type=FOLDER)
@click.argument("gallery", type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True, help="Others need a token file.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--token-file", type=FILE, help="Who may ask: a line of scopes and a token each.")
@click.option("--tls-cert", type=FILE, help="PEM certificate chain.")
@click.option("--tls-key", type=FILE, help="Its PEM key.")
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda[:N]")
@click.option("--threads", type=click.IntRange(min=1), help="Of one engine; all cores unless said.")
@click.option("--batch", type=click.IntRange(min=1), help="Searches answered together, at most.")
@click.option("--queue", type=click.IntRange(min=1), help="Searches waiting, at most.")
@click.option("--budget-ms", type=click.FloatRange(min=1), help="Longest wait of a search.")
@click.option(
    "--rate", type=click.FloatRange(min=0), help="Requests a second of one client; 0: any."
)
@click.option("--chips", type=FILE, help="The page's frequent changes, one a line.")
@click.option(
    "--speech", is_flag=True, help="A microphone on the page; browsers send the sound on."
)
@click.option(
    "--idle-s", type=click.IntRange(min=0), help="The page forgets a visit then; 0: never."
)
@click.option("--max-body-mb", type=click.IntRange(min=1), help="Largest request.")
@click.option("--max-megapixels", type=click.FloatRange(min=0.01), help="Largest picture.")
@click.option("--max-memory-mb", type=click.IntRange(min=1), help="Of all requests in progress.")
def serve(
    bundle: Path,
    gallery: Path,
    batch: int | None,
    queue: int | None,
    budget_ms: float | None,
    rate: float | None,
    max_body_mb: int | None,
    max_megapixels: float | None,
    max_memory_mb: int | None,
    chips: Path | None,
    speech: bool,
    idle_s: int | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Answer HTTP requests on a bundle and a gallery, until stopped.

    /openapi.json says what may be asked. Without --token-file, everybody on this machine may ask
    and change the gallery, and nobody else. SIGHUP takes a new release.
    """
    for package in PACKAGES:
        needs(package, "serve")
    from cir_rt.serve.kiosk import Kiosk, read_chips
    from cir_rt.serve.server import serve as run
    from cir_rt.serve.settings import MIB, Batching, Limits, ServeSettings

    limits = {
        "rate": rate,
        "body_bytes": max_body_mb and max_body_mb * MIB,
        "memory_bytes": max_memory_mb and max_memory_mb * MIB,
        "pixels": max_megapixels and int(max_megapixels * 1e6),
    }
    kiosk = {"chips": chips and read_chips(chips), "speech": speech, "idle_s": idle_s}
    batching = {"batch": batch, "queue": queue, "budget_ms": budget_ms}
    settings = ServeSettings(
        bundle=bundle,
        gallery=gallery,
        limits=Limits(**_said(limits)),
        batching=Batching(**_said(batching)),
        kiosk=Kiosk(**_said(kiosk)),
        **where,
    )

    def opened(url: str, service: Any) -> None:
        facts = {"url": url, "device": service.retriever.device}
        if as_json:
            print_json(facts)
        else:
            click.echo(f"{url} answers on {facts['device']}. Stop it with ^C.")

    run(settings, opened)


def _said(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given; the others keep their defaults."""
    return {name: value for name, value in options.items() if value is not None}
