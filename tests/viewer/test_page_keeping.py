"""What the page keeps, in a real Chromium: its address, steps that can be undone, files and exports."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Download, Page, expect

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.viewer import server
from tests.browser import cy, opened, place, settled

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(cats: Circuit, toy: Adapter) -> Iterator[str]:
    viewer = server.start([cats], adapters=[toy])
    yield viewer.url
    viewer.close()


def test_what_the_browser_has_stored_is_checked_like_an_address(browser: Browser, url: str, cats: Circuit) -> None:
    with opened(browser, url) as page:
        stored = {"at": "", "past": [{"by": {"0": {"pins": 3}}}, 7], "future": []}
        page.evaluate("() => localStorage.setItem('circuitlens-theme', 'purple')")
        page.evaluate("stored => sessionStorage.setItem('circuitlens-steps', stored)", json.dumps(stored))
        page.reload()
        page.wait_for_selector("#graph[data-drawn]")
        for _ in range(2):
            page.get_by_role("button", name="Undo").click()
        settled(page, "cy.nodes('[node]').length", len(cats.nodes))
        expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def test_nothing_is_lost_on_reload_and_steps_can_be_undone(page: Page) -> None:
    page.mouse.click(*place(page, "sae:0:4"))
    page.keyboard.press("p")
    settled(page, "cy.nodes('.pinned').length", 1)
    page.get_by_label("Your label").fill("plural verb")
    page.get_by_role("slider", name="Edges shown").press("Home")
    page.keyboard.press("Escape")
    page.mouse.click(*place(page, "hidden:0:3"))
    page.keyboard.press("o")
    expect(page.locator("#settings li")).to_have_count(1)
    page.wait_for_function("() => location.hash.includes('settings')")
    page.reload()
    page.wait_for_selector("#graph[data-drawn]")
    expect(page.locator("#settings li")).to_have_count(1)
    settled(page, "cy.nodes('.pinned').map(n => n.style('label'))", ["plural verb"])
    settled(page, "cy.nodes('.focused').map(n => n.data('node'))", ["hidden:0:3"])
    settled(page, "cy.edges().not('.off').length", 0)
    for _ in range(4):
        page.keyboard.press("Control+z")
    settled(page, "cy.nodes('.pinned, .intervened').length", 0)
    settled(page, "cy.edges().not('.off').length", 23)
    for _ in range(4):
        page.keyboard.press("Control+Shift+z")
    settled(page, "cy.nodes('.pinned, .intervened').length", 2)
    page.get_by_role("button", name="Undo").click()
    settled(page, "cy.nodes('.intervened').length", 0)
    page.get_by_role("button", name="Redo").click()
    settled(page, "cy.nodes('.pinned, .intervened').length", 2)
    expect(page.get_by_role("button", name="Redo")).to_be_disabled()


@pytest.mark.parametrize(("field", "kept"), [("Your label", "labels"), ("Your note", "notes")])
def test_what_is_written_of_a_node_stays_with_it_however_soon_the_next_is_in_focus(
    page: Page, field: str, kept: str
) -> None:
    page.mouse.click(*place(page, "sae:0:4"))
    page.get_by_label(field).fill("plural verb")
    page.evaluate("""() => {
        document.activeElement.blur();
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp", bubbles: true }));
    }""")
    page.wait_for_function("() => decodeURIComponent(location.hash).includes('logits:0:1')")
    mine = json.loads(unquote(urlsplit(page.url).fragment))["by"]["0"]
    assert mine["focus"] == "logits:0:1"
    assert mine[kept] == {{"labels": "hook_sae/4", "notes": "sae:0:4"}[kept]: "plural verb"}


@pytest.mark.parametrize(
    "address",
    [
        "%",
        "[1, 2]",
        "null",
        '{"by": {"0": {"labels": {"__proto__": "x"}, "notes": {"constructor": "y"}}, "__proto__": {"pins": []}}}',
        '{"by": [{}], "theme": "dark", "constructor": 1}',
        '{"circuit": 99, "by": {"7": {}, "x": 1}}',
        '{"other": "0", "view": "x", "tab": 3, "theme": {}}',
        '{"by": {"0": {"focus": "nothing", "pins": ["a", 3], "labels": [1], "groups": [{}], "settings": [["a"]]}}}',
        '{"by": {"0": {"pins": ["nothing"], "settings": [["nothing", 0]], "edges": -3, "nodes": 1e99}}}',
    ],
)
def test_no_address_breaks_the_page(browser: Browser, url: str, address: str, cats: Circuit) -> None:
    with opened(browser, f"{url}#{quote(address)}") as page:
        settled(page, "cy.nodes('[node]').length", len(cats.nodes))


def test_who_goes_elsewhere_is_not_turned_back_by_what_is_yet_to_be_written(page: Page) -> None:
    """The state is written into the address a quarter of a second late, and the page is told of a new address late."""
    address = quote(json.dumps({"by": {"0": {"pins": ["sae:0:4"]}}}))
    page.evaluate("to => { State.change({}, { focus: 'hidden:0:3' }); location.hash = to; State.remember(); }", address)
    settled(page, "cy.nodes('.pinned').map(n => n.data('node'))", ["sae:0:4"])
    page.wait_for_timeout(500)
    assert unquote(urlsplit(page.url).fragment).count("sae:0:4") == 1


def test_a_circuit_is_saved_to_its_file(browser: Browser, cats: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "cats.json"
    cats.save(path)
    viewer = server.start([circuitlens.open(path), cats], paths=[path, None])
    with opened(browser, viewer.url) as page:
        page.mouse.click(*place(page, "sae:0:4"))
        page.keyboard.press("p")
        page.get_by_label("Your note").fill("looked at twice")
        page.get_by_role("slider", name="Edges shown").press("ArrowLeft")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#status")).to_contain_text("Saved to cats.json.")
        notes = circuitlens.open(path).annotations
        assert notes is not None
        assert (notes.pins, notes.notes) == (("sae:0:4",), {"sae:0:4": "looked at twice"})
        page.locator("#circuit").click()
        page.get_by_role("option").nth(1).click()
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#status")).to_contain_text("not opened from a file: export it as JSON")
    viewer.close()
    again = server.start([circuitlens.open(path)], paths=[path])
    with opened(browser, again.url) as page:
        settled(page, "cy.nodes('.pinned').map(n => n.data('node'))", ["sae:0:4"])
        expect(page.locator("#edges-shown")).to_contain_text("23 of 23")  # how it is looked at is not kept
    again.close()


def export(page: Page, what: str) -> Download:
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=what).click()
    return download.value


def test_exports_can_be_read(page: Page, cats: Circuit, tmp_path: Path) -> None:
    page.mouse.click(*place(page, "sae:0:4"))
    page.get_by_label("Your label").fill("<b>plural</b> & verb")
    page.locator("#search").focus()
    settled(page, "cy.getElementById('node sae:0:4').style('label')", "<b>plural</b> & verb")
    page.evaluate("document.activeElement.blur()")
    export(page, "Picture (SVG)").save_as(tmp_path / "c.svg")
    root = ElementTree.parse(tmp_path / "c.svg").getroot()
    texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
    for text in ("<b>plural</b> & verb", "The cats", "hook_hidden", "logits", "raises the metric", "SAE error", "H4"):
        assert text in texts
    assert len([e for e in root.iter() if e.tag.endswith("}path")]) == cy(page, "cy.edges(':visible').length")
    export(page, "Picture (PNG)").save_as(tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    export(page, "Circuit (JSON)").save_as(tmp_path / "c.json")
    again = circuitlens.open(tmp_path / "c.json")
    assert again.nodes == cats.nodes
    assert again.annotations is not None
    assert again.annotations.labels == {"hook_sae/4": "<b>plural</b> & verb"}
    export(page, "Edges (CSV)").save_as(tmp_path / "e.csv")
    assert len((tmp_path / "e.csv").read_text().splitlines()) == len(cats.edges) + 1


def test_two_pages_of_one_process_are_apart(browser: Browser, cat: Circuit, cats: Circuit) -> None:
    one, two = server.start([cat]), server.start([cats])
    with opened(browser, one.url) as first, opened(browser, two.url) as second:
        settled(first, "cy.nodes('[node]').length", len(cat.nodes))
        settled(second, "cy.nodes('[node]').length", len(cats.nodes))
    one.close()
    two.close()
