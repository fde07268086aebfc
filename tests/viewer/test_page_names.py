"""Names at the graph's nodes with what features stand for, in a real Chromium: they fit, and none overlap."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

import circuitlens
from circuitlens.circuit import Circuit, Meaning, Node
from circuitlens.viewer import server
from tests.browser import cy, opened, settled
from tests.tiny_transformer import TinyTransformer

pytestmark = pytest.mark.browser

LABEL = "{ includeNodes: false, includeEdges: false, includeOverlays: false, includeLabels: true }"
BODY = "{ includeNodes: true, includeEdges: false, includeOverlays: false, includeLabels: false }"


def told(nodes: Iterable[Node], text: str) -> list[Meaning]:
    """One meaning for all features."""
    features = {(n.hook, n.index) for n in nodes if n.kind in ("feature", "neuron")}
    return [Meaning(hook=hook, index=index, text=text, source="file") for hook, index in sorted(features)]


def boxes(page: Page, selector: str, part: str) -> list[tuple[str, float, float, float, float]]:
    found = cy(
        page,
        f"cy.nodes('{selector}').filter(n => n.visible()).map(n => {{ const b = n.boundingBox({part});"
        " return [n.id(), b.x1, b.x2, b.y1, b.y2]; })",
    )
    return [tuple(one) for one in found]


def overlapping(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[1] < other[2] and other[1] < one[2] and one[3] < other[4] and other[3] < one[4]


def test_large_nodes_say_inside_what_they_stand_for(browser: Browser, cats: Circuit) -> None:
    """As wide as that needs, at most as wide as there is room; the reader's own label is said instead."""
    long = "plural subjects of a sentence in the present tense, whatever the noun"
    viewer = server.start([cats.with_meanings(told(cats.nodes, long))])
    with opened(browser, viewer.url) as page:
        settled(page, "cy.nodes('.feature').every(n => n.hasClass('roomy'))", True)
        for name, label, text in cy(page, "cy.nodes('.feature').map(n => [n.id(), n.data('label'), n.style('label')])"):
            first, second = text.split("\n")
            assert first == label, name
            assert second.endswith("…")
            assert long.startswith(second[:-1].rstrip())
        bodies = {one[0]: one for one in boxes(page, ".feature, .neuron", BODY)}
        for label in boxes(page, ".feature, .neuron", LABEL):
            body = bodies[label[0]]
            assert body[1] <= label[1] + 2  # the box of a text has a margin
            assert label[2] - 2 <= body[2]
        assert not [pair for pair in combinations(bodies.values(), 2) if overlapping(*pair)]
        page.evaluate("State.change({}, { labels: { 'hook_sae/4': 'mine' } })")
        settled(page, "cy.getElementById('node sae:0:4').style('label')", "mine")
        page.evaluate("State.change({}, { labels: {} })")
        settled(page, "cy.getElementById('node sae:0:4').style('label').split('\\n').length", 2)
    viewer.close()


def test_names_beside_small_nodes_never_overlap_and_who_zooms_in_reads_more(browser: Browser) -> None:
    made = circuitlens.find(TinyTransformer("components"), "a b c", "d", "e", "a b f", method="gradient")
    made = made.with_meanings(told(made.nodes, "what is told of it"))
    viewer = server.start([made])
    meanings = "cy.nodes('.named').filter(n => n.visible() && n.data('told').includes('\\n')).length"
    with opened(browser, viewer.url) as page:
        page.evaluate("State.change({}, { nodes: 60 })")
        settled(page, "cy.nodes('[rank >= 0]').filter(n => n.visible()).length", 60)
        settled(page, "cy.nodes('.crowded.named').nonempty()", True)
        for zoomed in (False, True):
            if zoomed:
                page.evaluate("State.change({}, { nodes: 381 })")
                settled(page, "cy.nodes('[rank >= 0]').filter(n => n.visible()).length", 381)
                assert cy(page, meanings) == 0  # so many say what they are called, at most
                page.evaluate("void circuitlens.cy('graph').zoom(5)")  # what zoom returns is the whole graph
                page.wait_for_function(f"() => {{ const cy = circuitlens.cy('graph'); return {meanings} > 0; }}")
            assert cy(page, meanings) > 0
            names = boxes(page, ".crowded.named", LABEL)
            # Cytoscape's margin, at any zoom, and what it rounds widths up to.
            inner = [(n, a + 2.5, b - 2.5, c + 2, d - 2) for n, a, b, c, d in names]
            assert not [pair for pair in combinations(inner, 2) if overlapping(*pair)]
        sizes = cy(page, "cy.nodes('.crowded.named').map(n => n.style('font-size'))")
        assert {round(float(size.removesuffix("px")), 3) for size in sizes} == {11 / 5}
        page.evaluate("Graphs.fit()")
        settled(page, "cy.zoom()", 1)
        page.wait_for_function("() => circuitlens.cy('graph').nodes('.named').every(n => n.data('font') === 11)")
    viewer.close()
