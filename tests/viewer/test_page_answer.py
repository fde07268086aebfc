"""The answer and the graph that it opens on, in a real Chromium: one page for all tests, each from its first state."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.evaluation.alone import AloneRuns
from circuitlens.report.answer import (
    answer_path,
    core_nodes,
    describe_alone,
    describe_answer,
    describe_carriers,
    describe_outcome,
    without_what,
)
from circuitlens.report.text import signed
from circuitlens.viewer import server
from circuitlens.viewer.app import create_app
from circuitlens.viewer.guard import Guard
from circuitlens.viewer.opening import layouts, opening
from circuitlens.viewer.session import Session
from tests.browser import cy, opened, place, settled, wait_drawn

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def verified() -> Circuit:
    model = circuitlens.load("toy")
    found = circuitlens.find(model, "The cats", "run", "runs", "The cat")
    return circuitlens.verify(model, found, prompts=4, draws=8)


@pytest.fixture(scope="module")
def session(verified: Circuit, cat: Circuit) -> Iterator[Session]:
    made = Session([verified, cat], adapters=[circuitlens.load("toy")])
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(browser: Browser, session: Session) -> Iterator[Page]:
    app = create_app(session)
    viewer = server.Viewer(Guard(app.server, app.csp_hashes()), 0)
    with opened(browser, viewer.url) as page:
        yield page
    viewer.close()


@pytest.fixture
def page(shared: Page) -> Page:
    # The page reads it at once, so that nothing of the state before is written into the address any more.
    shared.evaluate("location.hash = ''; State.fromAddress(); Widgets.publish()")
    shared.reload()
    wait_drawn(shared)
    return shared


def ids(nodes: Any) -> list[str]:
    return [node.id for node in nodes]


def test_the_answer_stands_where_nothing_is_in_focus(page: Page, verified: Circuit, session: Session) -> None:
    detail = page.locator("#detail")
    expect(page.get_by_role("tab", name="Answer")).to_be_visible()
    expect(detail).to_contain_text("".join((*describe_answer(verified), " ", *describe_carriers(verified))))
    expect(detail.locator("strong").first).to_have_text("run")
    expect(detail.locator(".verdict")).to_have_class(re.compile("supported"))
    path = answer_path(verified)
    assert path is not None
    expect(detail.locator(".path button")).to_have_text([n.label for n in path.nodes])
    detail.locator(".path button").nth(1).click()
    expect(page.locator("#node-name")).to_have_text(path.nodes[1].label)
    page.keyboard.press("Escape")
    off = {n.id: 0.0 for n in without_what(verified)[0]}
    outcome = session.intervene(0, off)
    expect(page.locator("#told")).to_contain_text("".join(describe_outcome(verified, outcome, off)))
    page.get_by_role("button", name="Switch these off").click()
    expect(page.locator("#settings li")).to_have_count(len(off))
    expect(page.locator("#outcome dd").nth(2)).to_have_text(signed(outcome.after))


def test_what_was_not_measured_can_be(page: Page) -> None:
    page.evaluate("State.change({ circuit: 1 })")
    expect(page.locator("#detail .verdict")).to_contain_text("Not measured.")
    expect(page.locator("#detail .verdict").get_by_role("button", name="Measure the evidence")).to_be_visible()


def test_it_opens_on_the_core_and_all_is_a_click_away(page: Page, verified: Circuit) -> None:
    first = opening(verified)[0]
    outputs = {n.id for n in verified.nodes if n.is_logit}
    assert {*ids(core_nodes(verified))} <= {*ids(first)} < {*ids(verified.nodes)} - outputs
    settled(page, "cy.nodes('[node]:visible').map(n => n.data('node')).sort()", sorted({*ids(first), *outputs}))
    count = len(verified.nodes) - len(outputs)
    expect(page.locator("#nodes-shown")).to_contain_text(f"{len(first)} of {count} · ")
    inside = [e for e in verified.edges if {e.source, e.target} <= {*ids(first), *outputs}]
    settled(page, "cy.edges(':visible').length", len(inside))
    page.get_by_role("button", name="Show all").click()
    settled(page, "cy.nodes('[node]:visible').length", len(verified.nodes))
    page.wait_for_function("() => location.hash.includes('nodes')")
    page.reload()
    wait_drawn(page)
    settled(page, "cy.nodes('[node]:visible').length", len(verified.nodes))
    page.get_by_role("button", name="Show the core").click()
    settled(page, "cy.nodes('[node]:visible').length", len(first) + len(outputs))


def test_fewer_nodes_are_laid_out_anew(page: Page, verified: Circuit) -> None:
    """With so many that there is a layout of them, each stands where that says; a hidden one in focus is shown."""
    wanted = next(one for one in layouts(verified, verified) if not one["what"] and len(one["ids"]) == 4)
    slider = page.get_by_role("slider", name="Nodes shown")
    slider.press("Home")
    for _ in range(4):
        slider.press("ArrowRight")
    outputs = [n.id for n in verified.nodes if n.is_logit]
    settled(page, "cy.nodes('[node]:visible').map(n => n.data('node')).sort()", sorted([*wanted["ids"], *outputs]))
    for name, (x, y, *_) in wanted["places"].items():
        assert cy(
            page, f"[cy.getElementById('node {name}').data('x'), cy.getElementById('node {name}').data('y')]"
        ) == [
            pytest.approx(x),
            pytest.approx(y),
        ]
    assert page.locator("#graph-pane .rows span").all_inner_texts() == [row["label"] for row in wanted["rows"]]
    (weakest,) = sorted((n for n in verified.nodes if not n.is_logit), key=lambda n: abs(n.attribution))[:1]
    page.evaluate("id => Actions.focus(id)", weakest.id)
    settled(page, "cy.nodes('[node]:visible').length", len(verified.nodes))
    page.keyboard.press("Escape")
    settled(page, "cy.nodes('[rank >= 0]:visible').length", 4)


def test_the_answer_and_the_distractor_are_told_apart(page: Page) -> None:
    sides = "cy.nodes('.logit').map(n => [n.data('label'), n.hasClass('answer'), n.hasClass('distractor')]).sort()"
    assert cy(page, sides) == [["run", True, False], ["runs", False, True]]
    assert place(page, "logits:0:1")[0] < place(page, "logits:0:0")[0]
    arrows = "cy.edges('[target = \"node logits:0:{}\"].positive').map(e => e.style('target-arrow-shape'))"
    assert set(cy(page, arrows.format(1))) == {"triangle"}
    assert set(cy(page, arrows.format(0))) == {"tee"}  # it raises the metric, and does not promote the distractor
    expect(page.locator("#legend")).to_contain_text("holds an output back")


def test_an_edge_tells_what_it_is(page: Page, verified: Circuit) -> None:
    end = verified.answer().id
    edge = verified.in_edges(end)[0]
    x, y = (sum(pair) / 2 for pair in zip(place(page, edge.source), place(page, end), strict=True))
    source, target = verified.node(edge.source), verified.node(end)
    page.mouse.move(x, y)
    expect(page.locator("#tip")).to_have_text(f"{source.label} → {target.label}: {signed(edge.weight)}, {edge.basis}")
    page.mouse.click(x, y)
    detail = page.locator("#detail")
    expect(page.get_by_role("tab", name="Edge")).to_be_visible()
    expect(detail.locator("h2")).to_have_text(f"{source.label} → {target.label}")
    expect(detail).to_contain_text(signed(edge.weight))
    expect(detail).to_contain_text("it promotes the answer")
    settled(page, "cy.nodes('[node]:visible').not('.faded').map(n => n.data('node')).sort()", sorted([source.id, end]))
    page.wait_for_function("() => location.hash.includes('edge')")
    detail.get_by_role("button", name=source.label).click()
    expect(page.locator("#node-name")).to_have_text(source.label)
    page.keyboard.press("Escape")
    expect(detail).to_contain_text("the model prefers")


def test_keys_go_on_after_a_tab_or_a_slider(page: Page, verified: Circuit) -> None:
    page.get_by_role("tab", name="Intervene").click()
    page.keyboard.press("ArrowUp")
    strongest = opening(verified)[0][0]
    settled(page, "cy.nodes('.focused').map(n => n.data('node'))", [strongest.id])
    page.evaluate("Actions.intervene('sae:0:4', 2)")
    slider = page.locator("#settings input[type=range]")
    slider.focus()
    page.keyboard.press("Control+z")
    expect(page.locator("#settings li")).to_have_count(0)


def test_pinned_nodes_are_measured_alone(page: Page, verified: Circuit, session: Session) -> None:
    """One question at a time, and the newest next; old numbers are dimmed."""
    core = ids(core_nodes(verified))
    runs = AloneRuns(circuitlens.load("toy"), verified)
    page.get_by_role("tab", name="Pinned").click()
    page.evaluate("id => Actions.pin(id)", core[0])
    panel = page.locator("#alone")
    expect(panel).to_contain_text("".join(describe_alone(verified, runs(core[:1]), 1)))
    asked: list[int] = []
    go, alone = threading.Event(), session.alone

    def slow(number: int, node_ids: Sequence[str]) -> Any:
        asked.append(len(node_ids))
        assert go.wait(60)
        return alone(number, node_ids)

    session.alone = slow
    for name in core[1:5]:
        page.evaluate("id => Actions.pin(id)", name)
        page.wait_for_timeout(90)
        assert panel.get_attribute("aria-busy") == "true"
    go.set()
    expect(panel).to_contain_text("".join(describe_alone(verified, runs(core[:5]), 5)))
    expect(panel).to_have_attribute("aria-busy", "false")
    assert asked == [2, 5]
    session.alone = alone
