"""The page as a shopper uses it, held against what the server answers to the same questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Live

pytest.importorskip("playwright", reason="the extra `dev` is not installed")
from playwright.sync_api import expect
from shopper import BEGIN, SIZES, Shopper

from cir_rt.client import Client

Enter = Callable[..., Shopper]
COUNT = 24

sizes = pytest.mark.parametrize("size", SIZES)


@pytest.fixture
def oracle(store: Live) -> Iterator[Callable[..., list[str]]]:
    """Return what asks the server itself, for ids from the first."""
    with Client(store.url) as client:
        yield lambda **asked: [hit.id for hit in client.search(**{"k": COUNT, **asked})]


def photo_of(garments: Path) -> Path:
    """Return a picture that the gallery does not hold."""
    return sorted((garments / "images").glob("dress-train-*.jpg"))[1]


@sizes
def test_a_photo_a_change_and_a_lean_on_the_words(
    enter: Enter, garments: Path, oracle: Callable[..., list[str]], size: str
) -> None:
    shopper = enter(size).visit()
    page = shopper.page
    shopper.answered(lambda: shopper.upload(photo_of(garments)))
    photo = shopper.sent()["image"]
    assert shopper.order() == oracle(image=photo)
    expect(page.locator("#balance")).to_be_hidden()  # nothing to weigh a picture against
    answer = shopper.answered(lambda: shopper.chip("in red"))
    assert shopper.sent() == {"k": "24", "image": photo, "text": "in red"}
    assert shopper.order() == oracle(image=photo, text="in red")
    assert shopper.share() == round(100 * answer["weights"]["text"])
    shopper.answered(lambda: shopper.say("longer"))
    own, chosen = shopper.order(), shopper.share()
    assert shopper.sent()["text"] == "in red and longer"
    assert own == oracle(image=photo, text="in red and longer")

    weight = shopper.lean(90)
    leaning = oracle(image=photo, text="in red and longer", weight=weight)
    shopper.expect_order(leaning)
    assert leaning != own
    shopper.answered(lambda: shopper.touch("#own"))
    assert "weight" not in shopper.sent()
    assert (shopper.order(), shopper.share()) == (own, chosen)


@sizes
def test_on_from_a_result_and_back_and_forward(
    enter: Enter, oracle: Callable[..., list[str]], size: str
) -> None:
    shopper = enter(size).visit()
    page = shopper.page
    shopper.answered(lambda: shopper.touch("#browse li:nth-child(4) .card"))
    shopper.answered(lambda: shopper.chip("in red"))
    shopper.answered(lambda: shopper.say("longer"))
    weight = shopper.lean(80)
    asked = {"id": shopper.sent()["id"], "text": "in red and longer", "weight": weight}
    leaning = oracle(**asked)
    shopper.expect_order(leaning)
    third = leaning[2]
    shopper.answered(lambda: shopper.touch(f'#results [data-id="{third}"]'))
    assert shopper.sent() == {"k": "24", "id": third}
    assert shopper.order() == oracle(id=third)
    assert third not in shopper.order()
    expect(page.locator("#chips [aria-pressed=true]")).to_have_count(0)

    searches = shopper.searches()
    shopper.touch("#back")
    shopper.expect_order(leaning)
    assert (shopper.share(), page.input_value("#words")) == (round(100 - 100 * weight), "longer")
    expect(page.locator("#chips [aria-pressed=true]")).to_have_text("in red")
    shopper.touch("#forward")
    shopper.expect_order(oracle(id=third))
    expect(page.locator("#forward")).to_be_disabled()
    page.go_back()
    shopper.expect_order(leaning)
    assert shopper.searches() == searches  # what was answered is shown, not asked again
    shopper.answered(lambda: shopper.say("shorter"))  # what lay ahead is forgotten
    expect(page.locator("#forward")).to_be_disabled()
    shopper.touch("#over")
    shopper.expect_heading(BEGIN)
    page.go_back()
    shopper.expect_heading(BEGIN)  # nothing of the visit comes back


@sizes
def test_words_alone(enter: Enter, oracle: Callable[..., list[str]], size: str) -> None:
    shopper = enter(size).visit()
    shopper.answered(lambda: shopper.say("a red striped shirt"))
    assert shopper.sent() == {"k": "24", "text": "a red striped shirt"}
    assert shopper.order() == oracle(text="a red striped shirt")
    shopper.expect_heading("“a red striped shirt”")
    for hidden in ("#balance", "#chips", "#reference", "#browse"):
        expect(shopper.page.locator(hidden)).to_be_hidden()
    first = shopper.order()[0]
    shopper.answered(lambda: shopper.touch("#results li:first-child .card"))
    assert shopper.sent() == {"k": "24", "id": first}


@sizes
def test_the_collection_is_shown_page_by_page(enter: Enter, store: Live, size: str) -> None:
    shopper = enter(size).visit()
    page, seen = shopper.page, []
    with Client(store.url) as client:
        ids = [item_id for item_id, _ in client.items()]
    for shown in (48, 96, 144):
        expect(page.locator("#browse .card")).to_have_count(shown)
        cards = page.locator("#browse .card")
        seen = cards.evaluate_all("cards => cards.map((card) => card.dataset.id)")
        assert seen == ids[:shown]
        if shown < 144:
            shopper.touch("#more")
    expect(page.locator("#more")).to_be_hidden()
    expect(page.locator('#browse [data-id="shirt-val-00000"] span')).to_contain_text("shirt")
    page.locator('#browse [data-id="shirt-val-00003"]').scroll_into_view_if_needed()
    before = page.evaluate("document.querySelector('#stage').scrollTop")
    shopper.answered(lambda: shopper.touch('#browse [data-id="shirt-val-00003"]'))
    assert page.evaluate("document.querySelector('#stage').scrollTop") == 0
    shopper.touch("#back")
    expect(page.locator("#browse .card")).to_have_count(144)
    assert page.evaluate("document.querySelector('#stage').scrollTop") == before


def test_the_last_answer_wins(enter: Enter, oracle: Callable[..., list[str]]) -> None:
    """The first search is held up while a second one is answered."""
    shopper = enter("kiosk").visit()
    held: list[Any] = []

    def hold(route: Any) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    shopper.page.route("**/v1/search", hold)
    shopper.say("a red dress")
    shopper.page.wait_for_function("window.sent.length === 1")
    shopper.answered(lambda: shopper.say("a blue skirt"))
    held[0].continue_()
    shopper.page.wait_for_timeout(300)
    assert shopper.order() == oracle(text="a blue skirt")
    shopper.expect_heading("“a blue skirt”")
    expect(shopper.page.locator("#stage")).to_have_attribute("aria-busy", "false")


def test_a_way_back_overtakes_a_search(enter: Enter) -> None:
    shopper = enter("phone").visit()
    shopper.answered(lambda: shopper.say("a red dress"))
    held: list[Any] = []
    shopper.page.route("**/v1/search", lambda route: held.append(route))
    shopper.say("a blue skirt")
    expect(shopper.page.locator("#results .skeleton").first).to_be_visible()
    shopper.touch("#back")
    shopper.expect_heading(BEGIN)
    held[0].continue_()
    shopper.page.wait_for_timeout(300)
    shopper.expect_heading(BEGIN)
    shopper.touch("#forward")
    shopper.expect_heading("“a red dress”")
