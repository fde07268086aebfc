"""A text continued from the page in a real Chromium, as it is and with nodes set otherwise."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.evaluation import continuation
from circuitlens.evaluation.continuation import Continuation
from circuitlens.report.text import percent, visible
from circuitlens.viewer import server
from tests.browser import opened
from tests.circuits import inner
from tests.saelens import wrapped

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def gpt2() -> Adapter:
    return wrapped("residual")


@pytest.fixture(scope="module")
def circuit(gpt2: Adapter) -> Circuit:
    return circuitlens.find(gpt2, "The cats", " run", " runs", "The cat", max_nodes=20, max_edges=40)


@pytest.fixture
def settings(circuit: Circuit) -> dict[str, float]:
    return {node.id: 0.0 for node in inner(circuit)}


@pytest.fixture
def asking(browser: Browser, circuit: Circuit, gpt2: Adapter, settings: dict[str, float]) -> Iterator[Page]:
    """The page with the nodes set."""
    viewer = server.start([circuit], adapters=[gpt2])
    state = {"tab": "ask", "by": {"0": {"settings": list(settings.items())}}}
    with opened(browser, f"{viewer.url}#{quote(json.dumps(state))}") as page:
        yield page
    viewer.close()


def shown(page: Page, told: Continuation) -> None:
    """The page has the tokens of both texts, and marks the first one that differs."""
    lines = [told.before, told.after] if told.nodes else [told.before]
    expect(page.locator(".continued")).to_have_count(len(lines))
    for number, tokens in enumerate(lines):
        cells = page.locator(".continued").nth(number).locator("li")
        expect(cells).to_have_text([visible(text) for text, _ in tokens])
        expect(cells.first).to_have_attribute("title", percent(tokens[0][1]))
        marked = [n for n in range(len(tokens)) if "differs" in (cells.nth(n).get_attribute("class") or "")]
        assert marked == ([] if told.differs_at is None else [told.differs_at])


def test_both_texts_stand_there_for_the_settings_that_they_are_of(
    asking: Page, gpt2: Adapter, circuit: Circuit, settings: dict[str, float]
) -> None:
    told = circuitlens.continue_text(gpt2, circuit, settings)
    assert told.differs_at is not None
    button = asking.get_by_role("button", name="Continue the text")
    button.click()
    shown(asking, told)
    expect(asking.locator("#outcome")).to_contain_text(f"The first token that differs is number {told.differs_at + 1}:")
    expect(button).to_have_count(0)
    # One node less is another question, whose answer is not known; taken back, it is known again.
    asking.locator("#settings").get_by_role("button", name="Take back").first.click()
    expect(asking.locator(".continued")).to_have_count(0)
    expect(button).to_be_visible()
    asking.keyboard.press("Control+z")
    shown(asking, told)


def test_with_nothing_set_there_is_the_models_own_text(
    browser: Browser, gpt2: Adapter, circuit: Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens are text, whatever is in them."""
    label = gpt2.output_label
    monkeypatch.setattr(gpt2, "output_label", lambda index: f"<b onclick=alert(1)>{label(index)}</b>")
    viewer = server.start([circuit], adapters=[gpt2])
    with opened(browser, f"{viewer.url}#{quote(json.dumps({'tab': 'ask'}))}") as page:
        page.get_by_role("button", name="Continue the text").click()
        shown(page, circuitlens.continue_text(gpt2, circuit))
        expect(page.locator("#outcome b")).to_have_count(0)
    viewer.close()


def test_it_is_told_of_and_cancelled(asking: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    continue_text = continuation.continue_text

    def slow(*given: Any, progress: Any) -> Continuation:
        progress("continuing the text", 10, 40)
        assert go.wait(60)
        return continue_text(*given, progress=progress)

    monkeypatch.setattr(continuation, "continue_text", slow)
    asking.get_by_role("button", name="Continue the text").click()
    expect(asking.locator(".job strong")).to_have_text("Continue “The cats”")
    expect(asking.get_by_role("progressbar")).to_have_js_property("value", 25)
    asking.get_by_role("button", name="Cancel", exact=True).click()
    go.set()
    expect(asking.locator(".job")).to_have_count(0)
    expect(asking.locator(".continued")).to_have_count(0)
    expect(asking.get_by_role("button", name="Continue the text")).to_be_visible()


def test_a_model_of_one_output_says_so(browser: Browser, cats: Circuit, toy: Adapter) -> None:
    viewer = server.start([cats], adapters=[toy])
    with opened(browser, f"{viewer.url}#{quote(json.dumps({'tab': 'ask'}))}") as page:
        expect(page.locator("#outcome")).to_contain_text("This model does not continue the text: it answers with one")
        expect(page.get_by_role("button", name="Continue the text")).to_have_count(0)
    viewer.close()
