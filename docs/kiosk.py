"""Take the README's picture of the page, docs/kiosk.png: a phone, a kiosk, a phone.

    python docs/kiosk.py demo/garments.cir demo/garments.gallery

Needs Chromium, and reads best with the typeface that the page prefers
(apt-get install chromium fonts-inter).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

OUT = Path(__file__).with_name("kiosk.png")
REFERENCE, CHIP, WORDS = "dress-val-00027", "in red", "a red striped shirt"
HEIGHT, GAP, GROUND, ROUND = 860, 36, "#d9d3ca", 14  # pixels
COLOURS = 256  # a palette, for a small file


def shots(url: str) -> list[Image.Image]:
    """Return the start and a search by words on a phone, and a change on a kiosk between them."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)

        def window(width: int, height: int, scale: float) -> Any:
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, device_scale_factor=scale, has_touch=True)
            page.goto(url)
            page.wait_for_selector("#browse .card")
            return page

        def found(page: Any, act: Any) -> None:
            with page.expect_response("**/v1/search"):
                act()

        def shot(page: Any) -> Image.Image:
            page.evaluate("document.activeElement.blur()")
            page.wait_for_timeout(800)  # for the thumbnails
            return Image.open(io.BytesIO(page.screenshot())).convert("RGB")

        start, words, kiosk = (
            window(*size) for size in ((412, 860, 2), (412, 860, 2), (1080, 1920, 1))
        )
        found(kiosk, lambda: kiosk.tap(f'#browse [data-id="{REFERENCE}"]'))
        found(kiosk, lambda: kiosk.tap(f'#chips button:text-is("{CHIP}")'))
        words.fill("#words", WORDS)
        found(words, lambda: words.press("#words", "Enter"))
        return [shot(page) for page in (start, kiosk, words)]


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Return pictures at one height, their corners round, on a ground of one colour."""
    scaled = [
        p.resize((p.width * HEIGHT // p.height, HEIGHT), Image.Resampling.LANCZOS) for p in pictures
    ]
    width = sum(p.width for p in scaled) + GAP * (len(scaled) + 1)
    sheet = Image.new("RGB", (width, HEIGHT + 2 * GAP), GROUND)
    x = GAP
    for picture in scaled:
        mask = Image.new("L", picture.size, 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, *picture.size), ROUND, fill=255)
        sheet.paste(picture, (x, GAP), mask)
        x += picture.width + GAP
    return sheet


@click.command()
@click.argument("bundle")
@click.argument("gallery")
def main(bundle: str, gallery: str) -> None:
    """Serve a bundle and a gallery, and write the picture."""
    command = [sys.executable, "-m", "cir_rt.cli", "serve", bundle, gallery]
    server = subprocess.Popen(
        [*command, "--port=0", "--rate=0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        sheet = side_by_side(shots(json.loads(server.stdout.readline())["url"]))
    finally:
        server.terminate()
        server.wait()
    sheet.quantize(COLOURS, kmeans=4).save(OUT, optimize=True)
    click.echo(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
