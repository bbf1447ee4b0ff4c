"""What the page does where the server refuses, is busy, wants a token, or cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Live

pytest.importorskip("playwright", reason="the extra `dev` is not installed")
from playwright.sync_api import expect
from shopper import SIZES, Shopper, problem

from cir_rt.client import Client

Enter = Callable[..., Shopper]
TOKEN, OTHER = "search-token-0123456789", "change-token-0123456789"

sizes = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(scope="module")
def guarded(
    shipped: Path, showroom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Return a server that asks for a token."""
    tokens = tmp_path_factory.mktemp("guarded") / "tokens"
    tokens.write_text(f"search {TOKEN}\ngallery {OTHER}\n")
    found = Live(shipped, showroom, "--rate=0", "--token-file", str(tokens))
    yield found
    found.kill()


def refuse(shopper: Shopper, path: str, answers: list[dict[str, Any]]) -> None:
    """Let the next requests of a path be answered by these, the ones behind by the server."""

    def answer(route: Any) -> None:
        if answers:
            route.fulfill(**answers.pop(0))
        else:
            route.continue_()

    shopper.page.route(path, answer)
    shopper.meant = ("503", "429")


@pytest.mark.parametrize(("kind", "status"), [("busy", 503), ("too-often", 429)])
def test_busy_is_waited_for_once(enter: Enter, store: Live, kind: str, status: int) -> None:
    shopper = enter("phone").visit()
    refuse(shopper, "**/v1/search", [problem(kind, status, **{"retry-after": "1"})])
    shopper.say("a red dress")
    expect(shopper.page.locator("#status")).to_have_text("Busy. It is tried again in 1 s.")
    with Client(store.url) as client:
        shopper.expect_order([hit.id for hit in client.search(text="a red dress", k=24)])
    assert shopper.searches() == 2
    expect(shopper.page.locator("#problem")).to_be_empty()


def test_busy_twice_is_told_and_tried_again_by_hand(enter: Enter) -> None:
    shopper = enter("kiosk").visit()
    refuse(shopper, "**/v1/search", [problem("busy", 503, **{"retry-after": "1"})] * 2)
    shopper.say("a red dress")
    expect(shopper.page.locator("#problem")).to_contain_text("Very busy right now")
    assert shopper.searches() == 2
    shopper.answered(lambda: shopper.touch('#problem button:text-is("Try again")'))
    shopper.expect_heading("“a red dress”")


def test_a_long_wait_is_told_at_once(enter: Enter) -> None:
    shopper = enter("phone").visit()
    refuse(shopper, "**/v1/search", [problem("too-often", 429, **{"retry-after": "60"})])
    shopper.say("a red dress")
    expect(shopper.page.locator("#problem")).to_contain_text("That was a lot at once")
    assert shopper.searches() == 1


def test_refused_words_stay_to_be_changed(enter: Enter) -> None:
    shopper = enter("phone").visit()
    shopper.answered(lambda: shopper.say("a red dress"))
    shown = shopper.order()
    shopper.meant = ("422",)
    shopper.say("red " * 100)
    expect(shopper.page.locator("#problem")).to_contain_text("say it in fewer words")
    assert shopper.page.input_value("#words") == "red " * 100
    assert shopper.order() == shown
    shopper.answered(lambda: shopper.say("a red skirt"))
    expect(shopper.page.locator("#problem")).to_be_empty()


def test_nothing_that_fits_is_said(enter: Enter) -> None:
    shopper = enter("phone").visit()
    empty = {"hits": [], "weights": None, "timing_ms": {"total": 1.0}}
    body = {**empty, "empty_because": "The gallery is empty."}
    shopper.page.route("**/v1/search", lambda route: route.fulfill(json=body))
    shopper.say("a red dress")
    shopper.expect_heading("Nothing fits")
    expect(shopper.page.locator("#told")).to_have_text("The gallery is empty.")


@sizes
def test_offline_is_told_and_ends_by_itself(enter: Enter, size: str) -> None:
    shopper = enter(size).visit()
    shopper.meant = ("ERR_INTERNET_DISCONNECTED",)
    shopper.settle()
    shopper.context.set_offline(True)
    expect(shopper.page.locator("#banner")).to_contain_text("No connection to the server")
    shopper.say("a red dress")
    shopper.page.wait_for_function("window.sent.length === 1")
    expect(shopper.page.locator("#browse .card").first).to_be_visible()
    shopper.screenshot("offline")
    assert shopper.violations() == ""
    shopper.context.set_offline(False)
    shopper.expect_heading("“a red dress”")  # what was wished for meanwhile
    expect(shopper.page.locator("#banner")).to_be_hidden()
    assert len(shopper.order()) == 24


@sizes
def test_a_token_is_typed_once(enter: Enter, guarded: Live, size: str) -> None:
    shopper = enter(size, guarded.url)
    shopper.meant = ("401", "403")
    page = shopper.page
    page.goto(guarded.url)
    dialog = page.locator("#token")
    for wrong, said in (("nonsense", "Send  Authorization"), (OTHER, "not for search")):
        expect(dialog).to_be_visible()
        page.fill("#token-value", wrong)
        page.press("#token-value", "Enter")
        expect(page.locator("#token-told")).to_contain_text(said)
    assert shopper.violations() == ""
    shopper.screenshot("token")
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    page.fill("#token-value", TOKEN)
    shopper.touch('#token button:text-is("Open")')
    expect(page.locator("#browse .card")).to_have_count(48)
    shopper.answered(lambda: shopper.touch("#browse li:first-child .card"))
    page.wait_for_function(
        """() => [...document.querySelectorAll("#results img, #reference img")].every(
            (image) => image.src.startsWith("blob:") && image.naturalWidth > 0)"""
    )
    page.wait_for_function("urls.made >= 48 + 24 + 1 && urls.made === urls.revoked")
    page.reload()
    expect(page.locator("#browse .card")).to_have_count(48)
    expect(dialog).to_be_hidden()
    assert TOKEN not in "".join(shopper.asked)
    stranger = enter(size, guarded.url)
    stranger.meant = ("401",)
    stranger.page.goto(guarded.url)
    expect(stranger.page.locator("#token")).to_be_visible()
    expect(stranger.page.locator("#token-told")).to_contain_text("operator")
