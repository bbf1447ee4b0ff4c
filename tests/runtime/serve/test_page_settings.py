"""What the operator tells the page: chips, the microphone, and what is refused of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from serving import Live, Shop

from cir_rt.errors import UsageError
from cir_rt.serve.kiosk import CHIPS, LONGEST_CHIP, MOST_CHIPS, Kiosk, read_chips

OpenShop = Callable[..., AbstractContextManager[Shop]]
POLICY = "permissions-policy"

# A browser that hears "a red dress", for Chromium without a network hears nothing.
_EARS = """
globalThis.SpeechRecognition = globalThis.webkitSpeechRecognition = class {
  start() { setTimeout(() => {
    this.onresult({results: [[{transcript: " a red dress "}]]});
    this.onend();
  }, 50); }
  abort() { this.onend(); }
  stop() {}
};
"""


def test_the_page_is_told_and_the_microphone_closed_unless_asked_for(shop: OpenShop) -> None:
    with shop() as (client, _):
        answer = client.get("/page/settings.json")
        assert answer.json() == {
            "chips": list(CHIPS),
            "speech": False,
            "idle_s": 90,
            "token": False,
            "text_characters": 500,
        }
        assert "microphone=()" in answer.headers[POLICY]
    with shop(kiosk=Kiosk(speech=True, chips=("in teal",), idle_s=0)) as (client, _):
        answer = client.get("/page/settings.json")
        assert (answer.json()["speech"], answer.json()["chips"]) == (True, ["in teal"])
        assert answer.json()["idle_s"] == 0
        assert "microphone=(self)" in answer.headers[POLICY]


def test_chips_are_read_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "chips.txt"
    file.write_text("# our own\n\n in teal \nwith a heel\nin teal\n", encoding="utf-8")
    assert read_chips(file) == ("in teal", "with a heel")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"chips\.txt.*UTF-8"):
        read_chips(file)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"chips": ("x" * (LONGEST_CHIP + 1),)}, "1 to 40 characters"),
        ({"chips": ("a\tb",)}, "1 to 40 characters"),
        ({"chips": tuple(f"c{k}" for k in range(MOST_CHIPS + 1))}, "25 chips"),
        ({"idle_s": 20}, "--idle-s 20"),
    ],
)
def test_what_does_not_fit_the_page_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Kiosk(**wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def operated(
    shipped: Path, showroom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Return a server with an operator's chips and a microphone."""
    chips = tmp_path_factory.mktemp("operated") / "chips.txt"
    chips.write_text("in navy\n<b>bold</b>\n", encoding="utf-8")
    found = Live(shipped, showroom, "--rate=0", "--speech", "--chips", str(chips))
    yield found
    found.kill()


def test_the_page_has_the_operators_chips_and_a_microphone(
    enter: Callable[..., object], operated: Live, store: Live
) -> None:
    pytest.importorskip("playwright", reason="the extra `dev` is not installed")
    from playwright.sync_api import expect
    from shopper import Shopper

    shopper = enter("phone", operated.url)
    assert isinstance(shopper, Shopper)
    shopper.page.add_init_script(_EARS)
    shopper.visit()
    shopper.answered(lambda: shopper.touch("#speak"))
    assert shopper.sent()["text"] == "a red dress"
    expect(shopper.page.locator("#speak")).to_have_attribute("aria-pressed", "false")
    shopper.answered(lambda: shopper.touch("#results li:first-child .card"))
    expect(shopper.page.locator("#chips button")).to_have_text(["in navy", "<b>bold</b>"])
    shopper.screenshot("speech")
    assert shopper.violations() == ""
    allowed = "document.featurePolicy.allowsFeature('microphone')"
    assert shopper.page.evaluate(allowed) is True
    plain = enter("phone", store.url)
    assert isinstance(plain, Shopper)
    plain.page.add_init_script(_EARS)
    plain.visit()
    expect(plain.page.locator("#speak")).to_be_hidden()
    assert plain.page.evaluate(allowed) is False


def test_wrong_options_end_before_any_work(bundle: Path, gallery: Path, tmp_path: Path) -> None:
    from command_line import run

    chips = tmp_path / "chips.txt"
    chips.write_text("x" * 99)
    for options in (("--chips", str(chips)), ("--idle-s=5",)):
        result = run("serve", bundle, gallery, "--port=0", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "expected" in result.stderr.lower()


def test_settings_are_json_that_a_page_can_trust(shop: OpenShop) -> None:
    """A chip is text wherever it goes, never markup."""
    with shop(kiosk=Kiosk(chips=("</script>",))) as (client, _):
        answer = client.get("/page/settings.json")
        assert json.loads(answer.content)["chips"] == ["</script>"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
