"""The end of a visit: told in time, then nothing of it is left. The page's clock is the test's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Live

pytest.importorskip("playwright", reason="the extra `dev` is not installed")
from playwright.sync_api import Error, expect
from shopper import BEGIN, SIZES, Shopper

Enter = Callable[..., Shopper]

sizes = pytest.mark.parametrize("size", SIZES)


MORNING = 1_700_000_000  # seconds; what the page's clock says when a visit begins
TICK_MS = 1_200  # of real time, in which the page looks at its clock


def at(shopper: Shopper, seconds: float) -> None:
    """Let the page's clock stand at so many seconds, and the page look at it."""
    shopper.page.clock.set_fixed_time(MORNING + seconds)
    shopper.page.wait_for_timeout(TICK_MS)


def began(enter: Enter, size: str, url: str | None = None) -> Shopper:
    """Return a shopper before the page whose clock stands at 0 seconds."""
    shopper = enter(size, url) if url else enter(size)
    shopper.page.clock.set_fixed_time(MORNING)
    return shopper.visit()


def wished(enter: Enter, garments: Path, size: str) -> Shopper:
    """Return a shopper who uploaded a picture and chose a change."""
    shopper = began(enter, size)
    photo = sorted((garments / "images").glob("shirt-train-*.jpg"))[0]
    shopper.answered(lambda: shopper.upload(photo))
    shopper.answered(lambda: shopper.chip("in blue"))
    return shopper


@sizes
def test_a_visit_without_a_touch_is_forgotten(enter: Enter, garments: Path, size: str) -> None:
    shopper = wished(enter, garments, size)
    page, dialog = shopper.page, shopper.page.locator("#idle")
    shown = page.locator("#reference img").get_attribute("src")
    at(shopper, 69.9)
    expect(dialog).to_be_hidden()
    at(shopper, 70)
    expect(dialog).to_be_visible()
    expect(page.locator("#idle-count")).to_have_text("20 s")
    expect(page.locator("#idle-stay")).to_be_focused()
    shopper.screenshot("idle")
    assert shopper.violations() == ""
    at(shopper, 89.9)
    expect(page.locator("#idle-count")).to_have_text("1 s")
    at(shopper, 90)
    expect(dialog).to_be_hidden()
    shopper.expect_heading(BEGIN)
    for hidden in ("#reference", "#results", "#balance", "#chips"):
        expect(page.locator(hidden)).to_be_hidden()
    assert page.locator("#results .card").count() == 0
    expect(page.locator("#back")).to_be_disabled()
    expect(page.locator("#forward")).to_be_disabled()
    page.go_back()
    shopper.expect_heading(BEGIN)
    shopper.meant = ("ERR_FILE_NOT_FOUND",)
    gone = "async (url) => { const i = new Image(); i.src = url; await i.decode(); }"
    with pytest.raises(Error, match="cannot be decoded"):
        page.evaluate(gone, shown)
    assert page.evaluate("document.querySelector('#file').files.length") == 0


@sizes
def test_a_touch_keeps_the_visit(enter: Enter, garments: Path, size: str) -> None:
    shopper = wished(enter, garments, size)
    page, dialog, order = shopper.page, shopper.page.locator("#idle"), shopper.order()
    at(shopper, 80)
    expect(dialog).to_be_visible()
    shopper.touch("#idle-stay")
    expect(dialog).to_be_hidden()
    page.wait_for_timeout(TICK_MS)  # what follows from the touch comes to the page in its own time
    at(shopper, 149)
    expect(dialog).to_be_hidden()
    assert shopper.order() == order  # the touch was for the dialog, and for nothing below it
    at(shopper, 151)
    expect(dialog).to_be_visible()
    page.keyboard.press("Shift")  # any key says as much
    expect(dialog).to_be_hidden()


def test_typed_words_are_forgotten_and_an_untouched_screen_is_left_alone(enter: Enter) -> None:
    shopper = began(enter, "kiosk")
    at(shopper, 600)
    expect(shopper.page.locator("#idle")).to_be_hidden()
    shopper.page.locator("#words").press_sequentially("my secret")
    at(shopper, 675)
    expect(shopper.page.locator("#idle")).to_be_visible()
    at(shopper, 691)
    expect(shopper.page.locator("#words")).to_have_value("")


def test_an_open_camera_is_closed(enter: Enter) -> None:
    shopper = began(enter, "phone")
    shopper.touch("#shoot")
    expect(shopper.page.locator("#shutter")).to_be_enabled()
    at(shopper, 91)
    expect(shopper.page.locator("#camera")).to_be_hidden()
    assert shopper.page.evaluate("document.querySelector('#finder').srcObject") is None


@pytest.mark.parametrize(("seconds", "heading"), [(30, BEGIN), (0, "“a red dress”")])
def test_the_operator_sets_the_time(
    enter: Enter, shipped: Path, showroom: Path, seconds: int, heading: str
) -> None:
    live = Live(shipped, showroom, f"--idle-s={seconds}")
    try:
        shopper = began(enter, "phone", live.url)
        shopper.answered(lambda: shopper.say("a red dress"))
        at(shopper, seconds or 100_000)
        shopper.expect_heading(heading)
        shopper.page.close()
    finally:
        live.kill()
