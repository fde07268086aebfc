"""A circuit as one file of HTML: opened as a file, in a real browser, it shows the circuit and asks nobody anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dash import html
from playwright.sync_api import Browser, Page, expect

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Annotations, Circuit
from circuitlens.viewer.sharing import page as sharing
from circuitlens.viewer.sharing import share
from circuitlens.viewer.sharing.markup import markup
from tests.browser import cy, place, wait_drawn

HOSTILE = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 2'>\u2028{{data}}"

Shown = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Shown:
    """Opens a circuit's page as a file; afterwards there must have been no word in the console, and no request."""

    @contextmanager
    def show(circuit: Circuit, scheme: str = "light") -> Iterator[Page]:
        file = tmp_path / "shared page.html"
        file.write_bytes(share(circuit))
        faults: list[str] = []
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme="dark" if scheme == "dark" else "light"
        )
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("request", lambda request: faults.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        wait_drawn(page)
        yield page
        context.close()
        assert faults == []

    return show


@pytest.fixture(scope="module")
def verified(toy: Adapter) -> Circuit:
    circuit = circuitlens.find(toy, prompt="The cats", answer="run", distractor="runs", corrupted="The cat")
    return circuitlens.verify(toy, circuit, prompts=4, draws=8)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_shows_the_answer_the_graph_and_the_evidence(verified: Circuit, shown: Shown, scheme: str) -> None:
    with shown(verified, scheme) as page:
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(36, 36, 36)"}[scheme]
        assert cy(page, "cy.nodes('[node]').map(n => n.data('node')).sort()") == sorted(n.id for n in verified.nodes)
        assert (
            cy(page, "cy.nodes('.feature')[0].style('color')")
            == {
                "light": "rgb(33,37,41)",
                "dark": "rgb(241,243,245)",
            }[scheme]
        )
        expect(page.locator("#answer")).to_contain_text("After “The cats” the model prefers run over runs")
        expect(page.locator("#answer .path")).to_contain_text("plural")
        expect(page.locator("#evidence")).to_be_hidden()
        page.get_by_role("button", name="Evidence", exact=True).click()
        assert verified.evidence is not None
        expect(page.locator("#evidence .verdict")).to_have_text(f"Verdict: {verified.evidence.word}")
        assert page.locator("#evidence .checks tbody tr").count() == len(verified.evidence.checks)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
def test_a_click_on_a_node_or_an_edge_says_what_is_known_of_it(verified: Circuit, shown: Shown) -> None:
    path = verified.strongest_path()
    feature = next(node for node in path.nodes if node.kind == "feature")
    with shown(verified) as page:
        page.mouse.click(*place(page, feature.id))
        detail = page.locator("#detail")
        expect(detail.locator("h2")).to_have_text(feature.label)
        expect(detail).to_contain_text(f"{feature.attribution:+.3f}".replace("-", "−"))
        expect(page.locator("#answer")).to_be_hidden()
        before = path.nodes[path.nodes.index(feature) - 1]
        detail.get_by_role("button", name=before.label, exact=True).first.click()
        expect(detail.locator("h2")).to_have_text(before.label)
        one, other = place(page, before.id), place(page, feature.id)
        page.keyboard.press("Escape")
        expect(page.locator("#answer")).to_be_visible()
        page.mouse.click(*((a + b) / 2 for a, b in zip(one, other, strict=True)))
        expect(detail.locator("h2")).to_have_text(f"{before.label} → {feature.label}")
        expect(detail).to_contain_text("raises the metric")
        page.get_by_role("button", name="← The answer").click()
        expect(page.locator("#answer")).to_be_visible()


@pytest.mark.browser
def test_the_arrow_keys_go_along_edges_and_the_slider_shows_fewer_nodes(verified: Circuit, shown: Shown) -> None:
    with shown(verified) as page:
        page.locator("#graph-pane").focus()
        page.keyboard.press("ArrowDown")
        first = max((n for n in verified.nodes if not n.is_logit), key=lambda n: abs(n.attribution))
        expect(page.locator("#detail h2")).to_have_text(first.label)
        page.keyboard.press("ArrowUp")
        after = max((e for e in verified.edges if e.source == first.id), key=lambda e: abs(e.weight)).target
        expect(page.locator("#detail h2")).to_have_text(verified.node(after).label)
        page.keyboard.press("Escape")
        page.locator("#nodes").fill("2")
        assert cy(page, "cy.nodes('[rank >= 0]').not('.away').length") == 2
        expect(page.locator("#nodes-shown")).to_have_text(f"2 of {sum(not n.is_logit for n in verified.nodes)}")


@pytest.mark.browser
def test_what_others_wrote_is_text(verified: Circuit, shown: Shown) -> None:
    node = next(node for node in verified.nodes if node.kind == "feature")
    written = Annotations(labels={node.label_key: HOSTILE}, notes={node.id: HOSTILE}, pins=(node.id,))
    with shown(verified.model_copy(update={"annotations": written})) as page:
        page.mouse.click(*place(page, node.id))
        expect(page.locator("#detail h2")).to_contain_text("<img src=x onerror='window.hit = 2'>")
        expect(page.locator("#detail .claim")).to_contain_text("</script><script>window.hit = 1</script>")
        expect(page.locator("#detail .claim")).to_contain_text("{{data}}")
        assert page.evaluate("[window.hit, document.images.length]") == [None, 0]
        assert cy(page, f"cy.getElementById('node {node.id}').hasClass('pinned')")


@pytest.mark.browser
def test_the_policy_of_the_file_lets_no_other_script_run(verified: Circuit, browser: Browser, tmp_path: Path) -> None:
    """Were a text not escaped, its script would not run, and what it asks for would not be fetched."""
    file = tmp_path / "changed.html"
    injected = b"<script>window.hit = 1</script><img src='https://example.org/x.png' onerror='window.hit = 2'></body>"
    file.write_bytes(share(verified).replace(b"</body>", injected))
    context = browser.new_context()
    page = context.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(file.as_uri())
    wait_drawn(page)
    assert page.evaluate("window.hit") is None
    assert len([told for told in refused if "Content Security Policy" in told]) >= 2
    context.close()


def test_of_a_large_circuit_it_has_the_strongest(verified: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "NODES", 4)
    monkeypatch.setattr(sharing, "EDGES", 5)
    page = share(verified).decode()
    told = re.search(r"Drawn are the strongest (\d+) of (\d+) nodes and (\d+) of (\d+) edges; the circuit", page)
    assert told is not None
    nodes, all_nodes, edges, all_edges = map(int, told.groups())
    logits = sum(node.is_logit for node in verified.nodes)
    assert (nodes, all_nodes, all_edges) == (4, len(verified.nodes) - logits, len(verified.edges))
    assert 0 < edges <= 5
    assert len(re.findall("<template data-node=", page)) == nodes + logits
    assert len(re.findall("<template data-source=", page)) == edges
    assert "<span>" in page  # a node that is not drawn is named, and no button


def test_of_a_circuit_without_evidence_it_says_so(cats: Circuit) -> None:
    page = share(cats).decode()
    assert "Nothing was measured of this circuit yet" in page
    assert "<code>circuitlens verify FILE</code>" in page


def test_parts_become_escaped_html() -> None:
    class Parsed(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[object] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.append((tag, dict(attrs)))

        def handle_data(self, data: str) -> None:
            self.seen.append(data)

    parsed = Parsed()
    style = {"--share": "4%", "backgroundColor": "red"}
    parsed.feed(markup([html.Li(['<b>"&', None, 3], title='"><i>', className="a b", style=style, hidden=True), "<u>"]))
    attributes = {"title": '"><i>', "class": "a b", "style": "--share: 4%; background-color: red", "hidden": None}
    assert parsed.seen[0] == ("li", attributes)
    assert "".join(map(str, parsed.seen[1:])) == '<b>"&3<u>'


def test_buttons_stay_that_need_no_server() -> None:
    def button(do: str, on: str) -> html.Button:
        return html.Button("x", **{"data-do": do, "data-on": on})  # pyright: ignore[reportArgumentType]

    assert markup(button("focus", "a"), {"a"}) == '<button data-do="focus" data-on="a">x</button>'
    assert markup(button("focus", "b"), {"a"}) == "<span>x</span>"
    assert markup(button("offs", "a"), {"a"}) == ""
