"""A shopper before the page: a browser window, what its hands do, and what the page then sends."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parents[3]
SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = {"phone": (360, 740), "kiosk": (1080, 1920)}
# A camera that shows a moving drawing, and a person who allows it.
ARGUMENTS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
BEGIN = "Pick what comes close, then say what to change."

# Notes what a form takes along, object URLs, and what the browser blocks; changes nothing.
_WITNESS = """
window.sent = [];
window.urls = {made: 0, revoked: 0};
const {fetch: send} = window, {createObjectURL: make, revokeObjectURL: revoke} = URL;
const coded = async (blob) => {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
};
window.fetch = (path, options) => {
  if (options?.body instanceof FormData) {
    window.sent.push(Promise.all(Array.from(options.body, async ([name, value]) =>
      [name, typeof value === "string" ? value : {base64: await coded(value)}])));
  }
  return send(path, options);
};
URL.createObjectURL = (blob) => { window.urls.made += 1; return make.call(URL, blob); };
URL.revokeObjectURL = (url) => { window.urls.revoked += 1; revoke.call(URL, url); };
addEventListener("securitypolicyviolation", (e) => console.error("CSP", e.violatedDirective));
"""


def launch(playwright: Any) -> Browser:
    """Start Debian's Chromium."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has none
    return playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *sandbox])


class Shopper:
    """One window at a size, in front of a server."""

    def __init__(self, browser: Browser, url: str, size: str, **context: Any) -> None:
        """Open a window; `visit` goes to the page."""
        self.url, self.size = url, size
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, has_touch=size == "phone", **context
        )
        self.context.set_default_timeout(10_000)
        self.page: Page = self.context.new_page()
        self.page.add_init_script(_WITNESS)
        self.asked: list[str] = []  # every URL
        self.faults: list[str] = []  # what the console says, but for refusals that are meant
        self.meant: tuple[str, ...] = ()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def visit(self) -> Shopper:
        """Go to the page and wait for the collection."""
        self.page.goto(self.url)
        expect(self.page.locator("#browse .card").first).to_be_visible()
        return self

    def leave(self) -> None:
        """Close the window; fail where it asked elsewhere, or its console complained."""
        self.context.close()
        strangers = [u for u in self.asked if not u.startswith((f"{self.url}/", "blob:"))]
        faults = [f for f in self.faults if not any(meant in f for meant in self.meant)]
        assert (strangers, faults) == ([], [])

    def answered(self, act: Callable[[], object]) -> dict[str, Any]:
        """Do something that searches; return the server's answer once it is shown."""
        with self.page.expect_response(f"{self.url}/v1/search") as found:
            act()
        answer = found.value.json()
        self.expect_order([hit["id"] for hit in answer["hits"]])
        return answer

    def sent(self) -> dict[str, Any]:
        """Return the fields of the last search; a file as bytes."""
        fields = dict(self.page.evaluate("window.sent.at(-1)"))
        if "image" in fields:
            fields["image"] = base64.b64decode(fields["image"]["base64"])
        return fields

    def searches(self) -> int:
        """Count the searches that were sent."""
        return self.page.evaluate("window.sent.length")

    def order(self) -> list[str]:
        """Return the ids of the results from the first."""
        cards = self.page.locator("#results .card")
        return cards.evaluate_all("cards => cards.map((card) => card.dataset.id)")

    def expect_order(self, ids: list[str]) -> None:
        """Wait until the results are these."""
        self.page.wait_for_function(
            """ids => JSON.stringify(ids) === JSON.stringify(Array.from(
                document.querySelectorAll("#results .card"), (card) => card.dataset.id))
                && document.querySelector("#stage").ariaBusy === "false" """,
            arg=ids,
        )

    def expect_heading(self, text: str) -> None:
        """Wait until the heading says this."""
        expect(self.page.locator("h1")).to_have_text(text)

    def upload(self, file: Path | dict[str, Any]) -> None:
        """Choose a file of one's own."""
        self.page.set_input_files("#file", file)  # type: ignore[arg-type]

    def touch(self, selector: str) -> None:
        """Touch something, or click it where there is no touch."""
        found = self.page.locator(selector)
        found.tap() if self.size == "phone" else found.click()

    def chip(self, name: str) -> None:
        """Touch a chip."""
        self.touch(f'#chips button:text-is("{name}")')

    def say(self, words: str) -> None:
        """Type words and press Enter."""
        self.page.fill("#words", words)
        self.page.press("#words", "Enter")

    def share(self) -> int:
        """Return how much of a hundred the slider gives to the words."""
        return int(self.page.input_value("#weight"))

    def drag(self, to: int) -> None:
        """Drag the slider's thumb to a share of the words, by finger or by mouse."""
        box = self.page.locator("#weight").bounding_box()
        assert box
        thumb = self.page.evaluate("1.75 * parseFloat(getComputedStyle(document.body).fontSize)")

        def x(share: float) -> float:
            return box["x"] + thumb / 2 + share / 100 * (box["width"] - thumb)

        y, start = box["y"] + box["height"] / 2, self.share()
        path = [x(start + (to - start) * k / 8) for k in range(9)]
        if self.size == "phone":
            wire = self.context.new_cdp_session(self.page)

            def touched(kind: str, *at: float) -> None:
                points = [{"x": px, "y": y} for px in at]
                wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

            touched("touchStart", path[0])
            for px in path[1:]:
                touched("touchMove", px)
            touched("touchEnd")
            wire.detach()
        else:
            self.page.mouse.move(path[0], y)
            self.page.mouse.down()
            for px in path[1:]:
                self.page.mouse.move(px, y)
            self.page.mouse.up()

    def lean(self, to: int) -> float:
        """Drag the slider there; return the weight that is asked for in the end."""
        self.drag(to)
        assert abs(self.share() - to) <= 3
        weight = 1 - self.share() / 100
        for _ in range(50):
            if float(self.sent().get("weight", "nan")) == pytest.approx(weight, abs=1e-9):
                return weight
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{self.sent()} was sent last, not weight {weight}")

    def settle(self) -> None:
        """Wait until every picture in sight is there."""
        self.page.wait_for_function(
            """() => Array.from(document.images).every((image) =>
                !image.checkVisibility() || image.naturalWidth > 0
                || image.getBoundingClientRect().top > innerHeight)"""
        )

    def screenshot(self, name: str) -> None:
        """Leave a picture of the window for a person to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{self.size}-{name}.png")

    def violations(self) -> str:
        """Return what axe finds wrong, contrast too; nothing where all is well."""
        found = Axe().run(self.page)
        ran = {rule["id"] for kind in ("passes", "violations") for rule in found.response[kind]}
        assert ran >= {"color-contrast", "button-name"}
        return found.generate_report() if found.violations_count else ""


def problem(kind: str, status: int, **headers: str) -> dict[str, Any]:
    """Return what a route is fulfilled with to refuse a request."""
    body = {"type": f"urn:cir-rt:problem:{kind}", "title": "T", "status": status, "detail": "D"}
    return {
        "status": status,
        "body": json.dumps(body),
        "headers": {"content-type": "application/problem+json", **headers},
    }
