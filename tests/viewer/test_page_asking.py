"""Asking the model in a real Chromium: interventions, new circuits, and work in the background."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

import circuitlens
from circuitlens import discovery
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.report.text import percent, signed
from circuitlens.viewer import server
from tests.browser import opened, place, settled

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def contrast(toy: Adapter) -> Circuit:
    return circuitlens.find(toy, "The cats", "run", "runs", "The cat")


@pytest.fixture
def url(cats: Circuit, contrast: Circuit, toy: Adapter) -> Iterator[str]:
    viewer = server.start([cats, contrast], adapters=[toy])
    yield viewer.url
    viewer.close()


def measured(page: Page, toy: Adapter, circuit: Circuit, settings: dict[str, float | str]) -> None:
    """The panel says what `circuitlens.intervene` does."""
    outcome = circuitlens.intervene(toy, circuit, settings)  # pyright: ignore[reportArgumentType]
    panel = page.locator("#outcome")
    expect(panel.locator("dd").nth(2)).to_have_text(signed(outcome.after))
    expect(panel.locator("dd").nth(3)).to_have_text(signed(outcome.after - outcome.before))
    if outcome.predicted_change is not None:
        expect(panel.locator("dd").nth(4)).to_have_text(signed(outcome.predicted_change))
    for output in outcome.outputs:
        row = panel.locator("tbody tr", has=page.get_by_role("rowheader", name=output.label, exact=True))
        expect(row.locator("td").first).to_have_text(percent(output.before))
        expect(row.locator("td").last).to_have_text(percent(output.after))


def test_features_are_switched_off_and_several_add_up(page: Page, toy: Adapter, cats: Circuit) -> None:
    page.mouse.click(*place(page, "sae:0:4"))
    expect(page.locator("#node-name")).to_have_text("F5")
    page.keyboard.press("o")
    measured(page, toy, cats, {"sae:0:4": 0.0})
    settled(page, "cy.nodes('.intervened').map(n => n.data('node'))", ["sae:0:4"])
    page.mouse.click(*place(page, "sae:0:5"))
    page.keyboard.press("o")
    measured(page, toy, cats, {"sae:0:4": 0.0, "sae:0:5": 0.0})
    page.get_by_role("combobox", name="What F5 is set to").select_option("Scaled")
    slider = page.get_by_role("slider", name="Factor of F5")
    slider.focus()
    slider.press("End")
    measured(page, toy, cats, {"sae:0:4": 3.0, "sae:0:5": 0.0})
    page.get_by_role("button", name="Take back F6").click()
    measured(page, toy, cats, {"sae:0:4": 3.0})
    page.get_by_role("button", name="Take back F5").click()
    expect(page.locator("#outcome thead")).to_contain_text("Probability")
    settled(page, "cy.nodes('.intervened').length", 0)


def test_a_feature_is_set_to_its_corrupted_value(page: Page, toy: Adapter, contrast: Circuit) -> None:
    page.locator("#circuit").click()
    page.get_by_role("option").nth(1).click()
    settled(page, "cy.edges().length", len(contrast.edges))
    feature = next(n for n in contrast.strongest_path().nodes if n.kind == "feature")
    page.mouse.click(*place(page, feature.id))
    page.locator("#off").click()
    page.get_by_role("combobox", name=f"What {feature.label} is set to").select_option("As corrupted")
    measured(page, toy, contrast, {feature.id: "corrupted"})


def test_a_feature_that_matters_by_its_absence(browser: Browser, contrast: Circuit, toy: Adapter) -> None:
    """The introduction leads to one that can be switched off, and the page says why nothing changes with the other."""
    features = sorted((n for n in contrast.nodes if n.kind == "feature"), key=lambda n: -abs(n.attribution))
    absent, active = features[0], next(n for n in features if n.activation != 0)
    assert absent.activation == 0
    viewer = server.start([contrast], adapters=[circuitlens.load("toy")])
    with opened(browser, viewer.url, introduced=False) as page:
        page.get_by_role("button", name="Show the feature that matters most").click()
        expect(page.locator("#node-name")).to_have_text(active.label)
        page.mouse.click(*place(page, absent.id))
        page.keyboard.press("o")
        measured(page, toy, contrast, {absent.id: 0.0})
        expect(page.locator("#outcome")).to_contain_text(f"{absent.label}: 0 on this prompt already")
        page.get_by_role("combobox", name=f"What {absent.label} is set to").select_option("As corrupted")
        measured(page, toy, contrast, {absent.id: "corrupted"})
        expect(page.locator("#outcome")).not_to_contain_text("already")
    viewer.close()


def test_a_group_is_switched_off_as_one(browser: Browser, url: str, toy: Adapter, cats: Circuit) -> None:
    state = {"tab": "pinned", "by": {"0": {"groups": [{"name": "verb", "nodes": ["sae:0:4", "sae:0:5"]}]}}}
    with opened(browser, f"{url}#{quote(json.dumps(state))}") as page:
        page.get_by_role("button", name="Switch off verb").click()
        expect(page.locator("#settings")).to_contain_text("verb")
        measured(page, toy, cats, {"sae:0:4": 0.0, "sae:0:5": 0.0})
        page.get_by_role("combobox", name="What verb is set to").select_option("Scaled")
        page.get_by_role("slider", name="Factor of verb").press("End")
        measured(page, toy, cats, {"sae:0:4": 3.0, "sae:0:5": 3.0})


def test_without_a_model_the_page_says_so(browser: Browser, cats: Circuit) -> None:
    elsewhere = cats.model_copy(update={"adapter": "elsewhere"})
    viewer = server.start([elsewhere, cats])
    with opened(browser, viewer.url) as page:
        page.mouse.click(*place(page, "sae:0:4"))
        expect(page.locator("#told .strip li")).to_have_text(re.compile(r"The cats\d"))
        page.get_by_role("tab", name="Intervene").click()
        expect(page.locator("#model-told")).to_contain_text("The adapter 'elsewhere' can't be loaded here")
        expect(page.get_by_role("button", name="Load the model")).to_be_hidden()
        page.locator("#circuit").click()
        page.get_by_role("option").nth(1).click()
        page.get_by_role("button", name="Load the model").click()
        expect(page.locator("#outcome")).to_contain_text("What the model answers")
    viewer.close()


def test_a_new_circuit_is_found(page: Page, toy: Adapter) -> None:
    page.get_by_role("button", name="New circuit").click()
    page.get_by_role("button", name="Find the circuit").click()
    expect(page.locator("#new-fault")).to_contain_text("Give a model, a prompt and an answer")
    page.locator("#examples button").first.click()
    example = toy.examples[0]
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(example.prompt)
    page.get_by_label("Corrupted prompt").fill("")
    page.get_by_label("Prompt", exact=True).fill("The dogs")
    page.get_by_role("button", name="Find the circuit").click()
    found = circuitlens.find(toy, "The dogs", example.answer, example.distractor)
    expect(page.locator("#circuit")).to_have_value(f"The dogs → {example.answer}")
    settled(page, "cy.nodes('[node]').map(n => n.data('node')).sort()", sorted(n.id for n in found.nodes))
    page.get_by_role("button", name="New circuit").click()
    page.get_by_label("Prompt", exact=True).fill("The <b>blorgs</b>")
    page.get_by_role("button", name="Find the circuit").click()
    expect(page.locator("#jobs")).to_contain_text("'The <b>blorgs</b>' is no sentence of two or three words.")
    page.get_by_role("button", name="Dismiss", exact=True).click()
    expect(page.locator(".job")).to_have_count(0)


def test_work_is_cancelled(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stage is shown while it runs; cancelled after that, it opens no circuit, and the next work is done."""
    go = threading.Event()
    find = discovery.find

    def slow(*given: Any, progress: discovery.ProgressCallback) -> Circuit:
        progress("measuring slowly", 1, 4)
        assert go.wait(60)
        return find(*given, progress=progress)

    monkeypatch.setattr(discovery, "find", slow)
    page.get_by_role("button", name="New circuit").click()
    page.locator("#examples button").first.click()
    page.get_by_role("button", name="Find the circuit").click()
    expect(page.locator(".job .stage")).to_have_text("measuring slowly")
    expect(page.get_by_role("progressbar")).to_have_js_property("value", 25)
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".job .stage")).to_have_text("cancelling")
    go.set()
    expect(page.locator(".job")).to_have_count(0)
    page.locator("#circuit").click()
    expect(page.get_by_role("option")).to_have_count(2)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New circuit").click()
    page.get_by_role("button", name="Find the circuit").click()
    expect(page.locator("#circuit")).to_have_value(re.compile(" → "))
    page.locator("#circuit").click()
    expect(page.get_by_role("option")).to_have_count(3)


def test_evidence_is_measured_from_the_page(page: Page) -> None:
    page.locator("#tools").get_by_text("Evidence", exact=True).click()
    page.locator("#verify").click()
    expect(page.locator("#evidence")).to_contain_text("Verdict:", timeout=60_000)
    expect(page.locator("#evidence .js-plotly-plot")).to_have_count(2)


def test_the_introduction_leads_to_what_matters(browser: Browser, url: str, toy: Adapter, cats: Circuit) -> None:
    with opened(browser, url, introduced=False) as page:
        expect(page.locator("#intro")).to_be_visible()
        page.get_by_role("button", name="Show the feature that matters most").click()
        strongest = max((n for n in cats.nodes if n.kind == "feature"), key=lambda n: abs(n.attribution))
        expect(page.locator("#node-name")).to_have_text(strongest.label)
        page.get_by_role("button", name="Switch it off").click()
        measured(page, toy, cats, {strongest.id: 0.0})
        page.get_by_role("button", name="Dismiss the introduction").click()
        page.reload()
        page.wait_for_selector("#graph[data-drawn]")
        expect(page.locator("#intro")).to_be_hidden()
        page.get_by_role("button", name="Introduction and keys").click()
        expect(page.locator("#intro")).to_be_visible()
