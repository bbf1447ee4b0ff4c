"""The page for everybody: axe's rules, the keyboard alone, room for a finger, little motion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the extra `dev` is not installed")
from playwright.sync_api import expect
from shopper import BEGIN, SIZES, Shopper

Enter = Callable[..., Shopper]
LEAST = 44  # pixels that a finger needs (WCAG 2.5.5)

sizes = pytest.mark.parametrize("size", SIZES)

# What can be touched and is smaller, also where it only pokes out of the window.
_SMALL = """(least) => [...document.querySelectorAll("button, input, a.skip:focus")]
  .filter((one) => one.checkVisibility())
  .map((one) => [one.id || one.textContent.trim(), one.getBoundingClientRect()])
  .filter(([name, box]) => Math.min(box.width, box.height) < least - 0.01)
  .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""
_WIDE = """() => [document.documentElement, document.querySelector("#stage"),
    document.querySelector("#dock")].some((one) => one.scrollWidth > one.clientWidth)"""
_CUT = """() => [...document.querySelectorAll(".bar *, .source, .field *, .share, .balance *")]
  .filter((one) => one.checkVisibility() && one.clientWidth > 1)
  .filter((one) => one.tagName !== "INPUT" && one.scrollWidth > one.clientWidth + 1)
  .map((one) => one.id || one.textContent)"""


def examined(shopper: Shopper, name: str) -> None:
    """Hold a state of the page to all that holds for each, and take its picture."""
    shopper.settle()
    shopper.screenshot(name)
    assert shopper.violations() == ""
    assert shopper.page.evaluate(_SMALL, LEAST) == []
    assert shopper.page.evaluate(_WIDE) is False
    assert shopper.page.evaluate(_CUT) == []


@sizes
def test_each_state_is_accessible_and_has_room(enter: Enter, garments: Path, size: str) -> None:
    shopper = enter(size).visit()
    page = shopper.page
    examined(shopper, "start")
    photo = sorted((garments / "images").glob("shirt-train-*.jpg"))[2]
    shopper.answered(lambda: shopper.upload(photo))
    examined(shopper, "similar")
    shopper.answered(lambda: shopper.chip("in blue"))
    shopper.drag(20)
    expect(page.locator("#own")).to_be_enabled()
    examined(shopper, "results")
    shopper.meant = ("422",)
    shopper.say("blue " * 90)
    expect(page.locator("#problem strong")).to_be_visible()
    examined(shopper, "refused")
    shopper.touch("#over")
    shopper.answered(lambda: shopper.say("a long blue dress"))
    examined(shopper, "words")
    shopper.touch("#shoot")
    expect(page.locator("#shutter")).to_be_enabled()
    examined(shopper, "camera")


@sizes
def test_what_is_on_its_way_has_its_place(enter: Enter, size: str) -> None:
    shopper = enter(size)
    held: list[object] = []
    shopper.page.route("**/v1/items?**", lambda route: held.append(route))
    shopper.page.goto(shopper.url)
    expect(shopper.page.locator("#browse .skeleton")).to_have_count(16)
    examined(shopper, "loading")
    box = shopper.page.locator(".skeleton").first.bounding_box()
    assert box is not None
    assert box["width"] == pytest.approx(box["height"], abs=1)


def test_a_narrow_phone_loses_nothing(enter: Enter) -> None:
    """320 pixels are a wide page at 400 % (WCAG 1.4.10)."""
    shopper = enter("phone").visit()
    shopper.page.set_viewport_size({"width": 320, "height": 640})
    assert shopper.page.evaluate(_WIDE) is False
    shopper.answered(lambda: shopper.say("a red dress"))
    shopper.answered(lambda: shopper.touch("#results li:first-child .card"))
    shopper.answered(lambda: shopper.chip("in red"))
    assert shopper.page.evaluate(_WIDE) is False
    assert shopper.page.evaluate(_SMALL, LEAST) == []


@sizes
def test_the_keyboard_does_it_all(enter: Enter, size: str) -> None:
    """From nothing but Tab, Enter, Space and arrows; what has the focus can be seen to have it."""
    shopper = enter(size).visit()
    page = shopper.page
    focused = page.locator(":focus")

    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(80):
            page.keyboard.press(key)
            assert focused.evaluate("one => getComputedStyle(one).outlineStyle") != "none"
            if focused.evaluate("(one, selector) => one.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} is not reached")

    page.keyboard.press("Tab")
    expect(focused).to_have_text("Skip to the words")
    page.keyboard.press("Enter")
    expect(focused).to_have_id("words")
    page.keyboard.type("a red dress")
    shopper.answered(lambda: page.keyboard.press("Enter"))
    expect(focused).to_have_id("heading")
    expect(page.locator("#status")).to_have_text("24 pictures for “a red dress”")
    page.keyboard.press("Tab")
    expect(focused).to_have_attribute("data-id", shopper.order()[0])
    page.keyboard.press("Tab")
    second = shopper.order()[1]
    shopper.answered(lambda: page.keyboard.press("Enter"))
    assert shopper.sent()["id"] == second
    expect(focused).to_have_id("heading")
    tab_to("#chips button")
    shopper.answered(lambda: page.keyboard.press("Space"))
    assert shopper.sent()["text"] == "in red"
    expect(focused).to_have_id("heading")
    tab_to("#weight")
    own = shopper.share()
    shopper.answered(lambda: [page.keyboard.press("ArrowRight") for _ in range(5)])
    assert float(shopper.sent()["weight"]) == pytest.approx(1 - (own + 5) / 100, abs=1e-9)
    expect(focused).to_have_id("weight")  # it stays where it is used
    expect(focused).to_have_attribute("aria-valuetext", f"{95 - own} % picture, {own + 5} % words")
    tab_to("#back", "Shift+Tab")
    page.keyboard.press("Enter")
    shopper.expect_heading("More like this")
    expect(focused).to_have_id("heading")
    tab_to("#over", "Shift+Tab")
    page.keyboard.press("Enter")
    shopper.expect_heading(BEGIN)


def test_a_change_of_the_weights_is_said_and_moves_no_focus(enter: Enter) -> None:
    shopper = enter("kiosk").visit()
    shopper.answered(lambda: shopper.touch("#browse li:first-child .card"))
    shopper.answered(lambda: shopper.chip("darker"))
    shopper.page.focus("#weight")
    shopper.answered(lambda: shopper.page.keyboard.press("End"))
    assert shopper.sent()["weight"] == "0"
    expect(shopper.page.locator("#status")).to_have_text("24 pictures for “darker”")
    expect(shopper.page.locator(":focus")).to_have_id("weight")


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_little_motion_where_it_is_asked_for(enter: Enter, motion: str, moves: bool) -> None:
    shopper = enter("phone", reduced_motion=motion)
    shopper.page.route("**/v1/items?**", lambda route: None)
    shopper.page.goto(shopper.url)
    place = shopper.page.locator(".skeleton").first
    expect(place).to_be_visible()
    name = place.evaluate("one => getComputedStyle(one).animationName")
    assert (name != "none") is moves
