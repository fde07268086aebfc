"""The page in a real Chromium: what a person sees and does, no page error, no request that leaves the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

import circuitlens
from circuitlens.circuit import Circuit, Output
from circuitlens.viewer import server
from circuitlens.viewer.elements import COLOURS
from tests.browser import chromium, find_chromium, place, wait_drawn
from tests.helpers import luminance
from tests.tiny_transformer import TinyTransformer

# What dash-cytoscape itself says on every page.
KNOWN_NOISE = "You have set a custom wheel sensitivity"

EXECUTABLE = find_chromium()
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if EXECUTABLE is None:
        reason = (
            "no Chromium or Chrome is installed (Debian: apt-get install chromium), or name one in CIRCUITLENS_CHROMIUM"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium(EXECUTABLE) as started:
        yield started


@pytest.fixture(scope="module")
def url(cat: Circuit, cats: Circuit) -> Iterator[str]:
    viewer = server.start([cat, cats])
    yield viewer.url
    viewer.close()


@pytest.fixture
def faults() -> list[str]:
    return []


@pytest.fixture
def page(browser: Browser, url: str, faults: list[str]) -> Iterator[Page]:
    yield from opened(browser, url, faults)


def opened(browser: Browser, url: str, faults: list[str], **context: Any) -> Iterator[Page]:
    """The page, drawn; afterwards there must have been no error and no foreign request."""
    made = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "color_scheme": "light", **context})
    page = made.new_page()

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and KNOWN_NOISE not in message.text:
            faults.append(f"console {message.type}: {message.text}")

    page.on("console", console)
    page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else faults.append(r.url))
    page.goto(url)
    wait_drawn(page)
    yield page
    made.close()
    assert faults == []


def cy(page: Page, expression: str) -> Any:
    """Evaluate an expression of the Cytoscape object `cy`."""
    return page.evaluate(f"(() => {{ const cy = document.getElementById('graph')._cyreg.cy; return {expression}; }})()")


def settled(page: Page, expression: str, expected: Any) -> None:
    """Wait until an expression of `cy` has a value."""
    page.wait_for_function(
        "([expression, expected]) => JSON.stringify(new Function('cy', 'return ' + expression)("
        "document.getElementById('graph')._cyreg.cy)) === JSON.stringify(expected)",
        arg=[expression, expected],
    )


def assert_in_pane(page: Page, circuit: Circuit) -> None:
    box = page.locator("#graph").bounding_box()
    assert box is not None
    for node in circuit.nodes:
        x, y = place(page, node.id)
        assert box["x"] < x < box["x"] + box["width"]
        assert box["y"] < y < box["y"] + box["height"]


def test_all_kinds_of_nodes_are_on_the_canvas(page: Page, cat: Circuit) -> None:
    for kind in ("input", "neuron", "feature", "error", "logit"):
        assert cy(page, f"cy.nodes('.{kind}').length") == sum(n.kind == kind for n in cat.nodes)
    assert_in_pane(page, cat)
    heights = {n.layer: place(page, n.id)[1] for n in cat.nodes}
    assert [heights[layer] for layer in sorted(heights)] == sorted(heights.values(), reverse=True)
    assert len({cy(page, f"cy.nodes('.{k}')[0].style('shape')") for k in ("neuron", "feature", "error", "logit")}) == 4


def overlaps(page: Page, selector: str) -> list[list[str]]:
    """Pairs of nodes that overlap with their labels."""
    return cy(
        page,
        f"""(() => {{
            const boxes = cy.nodes('{selector}').map(n => [n.id(), n.renderedBoundingBox()]), found = [];
            boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {{
                if (p.x1 < q.x2 && q.x1 < p.x2 && p.y1 < q.y2 && q.y1 < p.y2) found.push([a, b]);
            }}));
            return found;
        }})()""",
    )


def test_nothing_overlaps_at_two_sizes(browser: Browser, url: str, faults: list[str]) -> None:
    for width, height in ((1280, 800), (1920, 1080)):
        for page in opened(browser, url, faults, viewport={"width": width, "height": height}):
            page.get_by_text("The cats → run", exact=True).click()
            expect(page.locator("#edges-shown")).to_have_text("23 of 23 edges")
            assert overlaps(page, ".feature, .neuron, .error, .chip, .axis") == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_clicking_a_node_shows_its_details(page: Page, cat: Circuit) -> None:
    expect(page.locator("#detail")).to_contain_text("Click a node")
    feature = next(n for n in cat.strongest_path().nodes if n.kind == "feature")
    page.mouse.click(*place(page, feature.id))
    detail = page.locator("#detail")
    expect(detail.locator("h2")).to_have_text(feature.label)
    for text in ("SAE feature", "hook_sae", f"{feature.activation:.3f}", f"{feature.attribution:+.3f}"):
        expect(detail).to_contain_text(text)
    tables = detail.locator("table")
    for table, edges, end in (
        (tables.nth(0), cat.in_edges(feature.id), "source"),
        (tables.nth(1), cat.out_edges(feature.id), "target"),
    ):
        weights = [float(text.replace("−", "-")) for text in table.locator("td.weight").all_inner_texts()]
        assert weights == pytest.approx([e.weight for e in edges], abs=5e-4)
        assert [abs(w) for w in weights] == sorted(map(abs, weights), reverse=True)
        names = table.locator("tr td:first-child").all_inner_texts()
        assert names == [cat.node(getattr(e, end)).label for e in edges]
    near = {n.id for n in cat.nodes if n.id == feature.id}
    near |= {e.source for e in cat.in_edges(feature.id)} | {e.target for e in cat.out_edges(feature.id)}
    assert set(cy(page, "cy.nodes('[node]').not('.faded').map(n => n.data('node'))")) == near
    page.mouse.click(*(coordinate + 120 for coordinate in place(page, feature.id)))  # the ground: focus ends
    expect(detail).to_contain_text("Click a node")
    settled(page, "cy.elements('.faded').length", 0)


def test_the_slider_hides_weak_edges_without_a_request(page: Page, cat: Circuit) -> None:
    page.wait_for_load_state("networkidle")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    slider = page.get_by_role("slider", name="Edges shown")
    slider.focus()
    count = len(cat.edges)
    for shown in (count - 1, count - 2, count - 3):
        slider.press("ArrowLeft")
        expect(page.locator("#edges-shown")).to_have_text(f"{shown} of {count} edges")
        settled(page, "cy.edges(':visible').length", shown)
    hidden = cy(page, "cy.edges('.off').map(e => e.data('rank'))")
    assert sorted(hidden) == [count - 3, count - 2, count - 1]
    slider.press("Home")
    settled(page, "cy.edges(':visible').length", 0)
    slider.press("End")
    settled(page, "cy.edges(':visible').length", count)
    assert requests == []


def test_switching_circuits(page: Page, cat: Circuit, cats: Circuit) -> None:
    page.mouse.click(*place(page, cat.strongest_path().nodes[1].id))
    expect(page.locator("#detail h2")).to_be_visible()
    for circuit, name in ((cats, "The cats → run"), (cat, "The cat → runs"), (cats, "The cats → run")):
        page.get_by_text(name, exact=True).click()
        expect(page.locator("#about")).to_contain_text(str(circuit.strongest_path()))
        expect(page.locator("#about")).to_contain_text(f"{circuit.metric.value:+.3f}")
        settled(page, "cy.nodes('[node]').map(n => n.data('node')).sort()", sorted(n.id for n in circuit.nodes))
        ends = "cy.edges().map(e => e.source().data('node') + ' ' + e.target().data('node')).sort()"
        settled(page, ends, sorted(f"{e.source} {e.target}" for e in circuit.edges))
        expect(page.locator("#detail")).to_contain_text("Click a node")
        expect(page.locator("#edges-shown")).to_have_text(f"{len(circuit.edges)} of {len(circuit.edges)} edges")


def rgb(colour: str) -> str:
    return f"rgb({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_light_and_dark_follow_the_system_until_chosen(browser: Browser, url: str, faults: list[str]) -> None:
    band = "cy.nodes('.band')[0].style('background-color')"
    for system, other in (("light", "dark"), ("dark", "light")):
        for page in opened(browser, url, faults, color_scheme=system):
            settled(page, band, rgb(COLOURS[system]["band"]))
            page.get_by_role("button", name="Light or dark").click()
            settled(page, band, rgb(COLOURS[other]["band"]))
            page.reload()
            wait_drawn(page)
            settled(page, band, rgb(COLOURS[other]["band"]))


def test_muted_text_can_be_read(browser: Browser, url: str, faults: list[str]) -> None:
    """WCAG contrast of at least 4.5 as the browser computes it, light and dark."""
    for scheme in ("light", "dark"):
        for page in opened(browser, url, faults, color_scheme=scheme):
            for selector in ("#detail p", "#about dt", "#legend span", "#edges-shown"):
                colours = page.evaluate(
                    """selector => [getComputedStyle(document.querySelector(selector)).color,
                                    getComputedStyle(document.body).backgroundColor]""",
                    selector,
                )
                text, ground = (luminance([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in colours)
                assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5, (scheme, selector, colours)


def test_the_graph_follows_the_window(page: Page, cat: Circuit) -> None:
    before = place(page, cat.nodes[0].id)
    page.set_viewport_size({"width": 900, "height": 600})
    page.wait_for_function(
        "x => document.getElementById('graph')._cyreg.cy.nodes('[node]')[0].renderedPosition('x') < x - 50",
        arg=before[0],
    )
    assert_in_pane(page, cat)


HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


def test_hostile_labels_are_text(browser: Browser, cats: Circuit, faults: list[str]) -> None:
    renamed = tuple(n.model_copy(update={"label": HOSTILE if n.kind == "feature" else n.label}) for n in cats.nodes)
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    metric = cats.metric.model_copy(update={"distractors": (Output(text=HOSTILE, index=0),)})
    hostile = Circuit(**{**fields, "nodes": renamed, "prompt": HOSTILE, "tokens": (HOSTILE,), "metric": metric})
    viewer = server.start([hostile])
    try:
        for page in opened(browser, viewer.url, faults):
            feature = next(n for n in hostile.nodes if n.kind == "feature")
            page.mouse.click(*place(page, feature.id))
            expect(page.locator("#detail h2")).to_have_text(HOSTILE)
            expect(page.locator("#detail")).to_contain_text(f"0: “{HOSTILE}”")
            assert page.title() == "CircuitLens"
            assert page.locator("img[src=x]").count() == 0
    finally:
        viewer.close()


def test_a_circuit_of_many_positions(browser: Browser, faults: list[str]) -> None:
    """Chips and names keep to their places, and a selected node shows its strongest edges whatever the threshold."""
    found = circuitlens.find(TinyTransformer("components"), "a b c d e f g a b c d e f", "d", "e").prune(max_nodes=400)
    fields = {name: getattr(found, name) for name in Circuit.model_fields}
    tokens = ("<|endoftext|>", *(f" {token}xtraordinarily" for token in found.tokens[1:]))
    circuit = Circuit(**{**fields, "tokens": tokens})
    node = max(circuit.nodes, key=lambda n: len(circuit.in_edges(n.id)))
    viewer = server.start([circuit])
    try:
        for width, height in ((1280, 800), (1920, 1080)):
            for page in opened(browser, viewer.url, faults, viewport={"width": width, "height": height}):
                assert cy(page, "cy.nodes('.column').length") == 13
                assert overlaps(page, ".chip, .axis") == []
                assert_in_pane(page, circuit)
        for page in opened(browser, viewer.url, faults):
            page.get_by_role("slider", name="Edges shown").press("Home")
            settled(page, "cy.edges(':visible').length", 0)
            page.mouse.click(*place(page, node.id))
            expect(page.locator("#detail h2")).to_have_text(node.label)
            strongest = [e.source for e in circuit.in_edges(node.id)[:10]]
            settled(page, f"cy.edges(':visible[target = \"node {node.id}\"]').length", 10)
            shown = cy(page, "cy.edges(':visible').sources().map(n => n.data('node'))")
            assert set(shown) - {node.id} == set(strongest)
            assert page.locator("#detail tr").count() == 20 + min(20, len(circuit.out_edges(node.id)))
    finally:
        viewer.close()


def test_many_circuits_many_nodes_and_an_empty_one(browser: Browser, cats: Circuit, faults: list[str]) -> None:
    adapter = TinyTransformer("components")
    tall = circuitlens.find(adapter, "a b c", "d", "e", "a b f").prune(max_nodes=200, max_edges=600)
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    empty = Circuit(**{**fields, "nodes": (), "edges": (), "found": None, "prompt": "empty"})
    viewer = server.start([tall, cats, tall, empty, cats])
    try:
        for page in opened(browser, viewer.url, faults):
            expect(page.locator("#edges-shown")).to_have_text("80 of 600 edges")
            settled(page, "cy.edges(':visible').length", 80)
            page.locator("#circuit").click()
            options = page.get_by_role("option")
            expect(options).to_have_count(5)
            options.filter(has_text="empty").click()
            expect(page.locator("#about")).to_contain_text("0 nodes, 0 edges")
            settled(page, "cy.elements().length", 0)
    finally:
        viewer.close()
