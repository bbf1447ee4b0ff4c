"""What the page makes of a shopper's photo: small, upright, bare of what a camera notes in it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the extra `dev` is not installed")
from playwright.sync_api import expect
from shopper import Shopper

Enter = Callable[..., Shopper]

ORIENTATION, GPS = 0x0112, 0x8825
REFUSED_CAMERA = """
navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", "NotAllowedError"); }
"""


def jpeg_of(turned: bool) -> bytes:
    """Return a large JPEG, red at the top and blue at the bottom; turned on its side if so said.

    Turned, it is blue at the right, and its EXIF says to turn it by 90 degrees.
    """
    upright = np.zeros((3000, 2000, 3), np.uint8)
    upright[:1500], upright[1500:] = (200, 30, 30), (30, 30, 200)
    image = Image.fromarray(upright)
    exif = Image.Exif()
    exif[GPS] = {1: "N", 2: (52.0, 31.0, 0.0)}
    if turned:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[ORIENTATION] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, exif=exif)
    return out.getvalue()


def upload(shopper: Shopper, name: str, data: bytes) -> bytes:
    """Upload a file; return what the page sends of it."""
    shopper.answered(lambda: shopper.upload({"name": name, "mimeType": "", "buffer": data}))
    return shopper.sent()["image"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_large_photo_is_made_small_upright_and_bare(enter: Enter, turned: bool) -> None:
    shopper = enter("phone").visit()
    photo = jpeg_of(turned)
    assert b"Exif" in photo
    sent = upload(shopper, "photo.jpg", photo)
    assert b"Exif" not in sent
    image = Image.open(io.BytesIO(sent))
    assert (image.format, image.size) == ("JPEG", (683, 1024))
    pixels = np.asarray(image, np.int16)
    assert np.abs(pixels[20, 340] - (200, 30, 30)).max() < 12
    assert np.abs(pixels[1000, 340] - (30, 30, 200)).max() < 12


def test_a_small_picture_keeps_its_size_and_stands_on_white(enter: Enter) -> None:
    shopper = enter("phone").visit()
    out = io.BytesIO()
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(out, "PNG")
    image = Image.open(io.BytesIO(upload(shopper, "a.png", out.getvalue())))
    assert image.size == (60, 40)
    assert np.asarray(image).min() > 250


def test_what_the_browser_cannot_read_is_refused_in_the_servers_words(enter: Enter) -> None:
    shopper = enter("phone").visit()
    shopper.meant = ("422",)
    shopper.upload({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    refused = shopper.page.locator("#problem")
    expect(refused).to_contain_text("That picture cannot be used")
    expect(refused).to_contain_text("of 10 bytes: not a picture that can be read")
    assert shopper.sent()["image"] == b"no picture"
    expect(shopper.page.locator("#browse .card").first).to_be_visible()  # nothing is lost
    expect(shopper.page.locator("#reference")).to_be_hidden()
    expect(shopper.page.locator("#back")).to_be_disabled()
    assert shopper.page.evaluate("urls.made") == 0  # it is not held to be shown
    shopper.touch("#problem button")
    expect(refused).to_be_empty()


@pytest.mark.parametrize("size", ["phone", "kiosk"])
def test_the_camera_takes_a_picture_and_is_let_go(enter: Enter, size: str) -> None:
    shopper = enter(size).visit()
    page = shopper.page
    shopper.touch("#shoot")
    expect(page.locator("#shutter")).to_be_enabled()
    page.evaluate("window.tracks = document.querySelector('#finder').srcObject.getTracks()")
    shopper.answered(lambda: shopper.touch("#shutter"))
    image = Image.open(io.BytesIO(shopper.sent()["image"]))
    assert max(image.size) <= 1024
    assert np.asarray(image).std() > 20  # the drawing of the browser's own camera, no black frame
    expect(page.locator("#camera")).to_be_hidden()
    assert page.evaluate("window.tracks.map((track) => track.readyState)") == ["ended"]


def test_a_camera_that_is_not_lent_is_told(enter: Enter) -> None:
    shopper = enter("phone")
    shopper.page.add_init_script(REFUSED_CAMERA)
    shopper.visit()
    shopper.touch("#shoot")
    expect(shopper.page.locator("#camera-problem")).to_contain_text("may not use the camera")
    expect(shopper.page.locator("#shutter")).to_be_disabled()
    shopper.touch("#camera-close")
    expect(shopper.page.locator("#camera")).to_be_hidden()


def test_without_a_camera_for_pages_the_phone_is_asked_for_a_photo(enter: Enter) -> None:
    """Off this machine and without TLS, a browser lends no camera to a page."""
    shopper = enter("phone")
    shopper.page.add_init_script("delete Navigator.prototype.mediaDevices")
    shopper.visit()
    with shopper.page.expect_file_chooser() as chooser:
        shopper.touch("#shoot")
    assert chooser.value.element.get_attribute("capture") == "environment"
    desk = enter("kiosk")
    desk.page.add_init_script("delete Navigator.prototype.mediaDevices")
    desk.visit()
    expect(desk.page.locator("#shoot")).to_be_hidden()
    expect(desk.page.locator("#upload")).to_be_visible()


def test_pictures_are_released_with_the_steps_that_show_them(enter: Enter, garments: Path) -> None:
    shopper = enter("kiosk").visit()
    photos = sorted((garments / "images").glob("shirt-train-*.jpg"))[:2]
    held: Any = "urls.made - urls.revoked"
    for photo in photos:
        shopper.answered(lambda photo=photo: shopper.upload(photo))
        shopper.answered(lambda: shopper.chip("in blue"))
        shopper.touch("#back")
        shopper.expect_heading("More like this")
        shopper.touch("#back")
        shopper.expect_heading("Pick what comes close, then say what to change.")
    assert shopper.page.evaluate(held) == 1  # of the steps that lie ahead
    shopper.touch("#over")
    assert shopper.page.evaluate(held) == 0
