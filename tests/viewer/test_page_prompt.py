"""Long prompts, comparisons, the form that answers, and small windows, in a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.viewer import server
from tests.browser import cy, opened, overlaps, settled
from tests.circuits import inner
from tests.tiny_transformer import TinyTransformer

pytestmark = pytest.mark.browser

WORDS = 40


@pytest.fixture(scope="module")
def long() -> Circuit:
    """A prompt of forty tokens, a few of which have nodes."""
    letters = " ".join("abcdefg"[k % 7] for k in range(14))
    kept = circuitlens.find(TinyTransformer("components"), letters, "d", "e", letters.replace("c", "f", 1)).prune(
        max_nodes=40
    )
    fields = {name: getattr(kept, name) for name in Circuit.model_fields}
    nodes = tuple(node.model_copy(update={"pos": 3 * node.pos}) for node in kept.nodes)
    tokens = ("<|endoftext|>", *(f" {'abcdefg'[k % 7]}word{k}" for k in range(1, WORDS)))
    prompt = "".join(tokens[1:])
    changed = {"nodes": nodes, "tokens": tokens, "prompt": prompt, "corrupted": prompt.replace("cword2", "fword2", 1)}
    return Circuit(**{**fields, **changed, "found": None})


@pytest.fixture(scope="module")
def page(browser: Browser, long: Circuit, cats: Circuit, cat: Circuit, toy: Adapter) -> Iterator[Page]:
    """One page for all: each test begins with a state of its own."""
    viewer = server.start([long, cats, cat], adapters=[toy])
    with opened(browser, viewer.url) as page:
        yield page
    viewer.close()


def begin(page: Page, state: str = "{}") -> None:
    if page.get_by_role("dialog").is_visible():
        page.keyboard.press("Escape")
    page.evaluate("state => { location.hash = encodeURIComponent(state) || '{}' }", state)
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_whole_prompt_is_there(page: Page, long: Circuit) -> None:
    begin(page)
    tokens = page.locator("#prompt li")
    expect(tokens).to_have_count(WORDS)
    expect(page.locator("#prompt del")).to_have_text(["fword2"])
    strip, pane = page.locator("#prompt").bounding_box(), page.locator("#graph").bounding_box()
    assert strip is not None
    assert pane is not None
    assert pane["height"] > 400  # at 1280 × 800
    assert page.locator("#prompt").evaluate("e => e.scrollHeight <= e.clientHeight && e.scrollWidth <= e.clientWidth")
    used = {node.pos for node in inner(long)}
    assert page.locator("#prompt button").count() == len(used)
    assert page.locator("#prompt li.empty").count() == WORDS - len(used)


def test_a_token_has_its_column_stand_out(page: Page, long: Circuit) -> None:
    begin(page)
    pos = max(inner(long), key=lambda node: abs(node.attribution)).pos
    button = page.locator(f"#prompt button[data-on='{pos}']")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("() => circuitlens.cy('graph').nodes('.faded').length > 0")
    assert cy(page, f"cy.nodes('.faded').some(n => n.data('pos') === {pos} && !n.hasClass('logit'))") is False
    button.click()
    settled(page, "cy.nodes('.faded').length", 0)
    button.click()
    page.keyboard.press("Escape")
    expect(button).to_have_attribute("aria-pressed", "false")


def test_answers_have_their_full_text_and_the_axis_names_each_column(page: Page, long: Circuit) -> None:
    begin(page)
    page.get_by_role("button", name="Show all").click()
    spans = page.locator("#graph-pane .columns span:not(.gap)")
    expect(spans).to_have_count(len({node.pos for node in long.nodes}))
    assert "…" not in spans.all_inner_texts()
    gaps = page.locator("#graph-pane .columns span.gap")
    assert "Without nodes: " in str(gaps.first.get_attribute("title"))
    assert overlaps(page, ".logit") == []
    rooms = cy(page, "cy.nodes('.logit').map(n => n.data('text') >= 7 * n.data('label').length)")
    assert rooms == [True, True]


def test_circuits_of_different_models_are_refused_with_the_reason(page: Page) -> None:
    begin(page)
    page.locator("#other").click()
    page.get_by_role("option", name="The cats → run").click()
    expect(page.locator("#status")).to_contain_text("can't be compared: they are of different models or SAEs")
    expect(page.locator("#other")).to_have_value("")
    expect(page.locator("#graph2-pane")).to_be_hidden()


def test_back_goes_to_the_circuit_before(page: Page) -> None:
    begin(page, '{"circuit":1}')
    expect(page.locator("#circuit")).to_have_value("The cats → run")
    page.wait_for_function("() => location.hash.includes('circuit')")
    page.locator("#circuit").click()
    page.get_by_role("option", name="The cat → runs").click()
    page.wait_for_function("() => decodeURIComponent(location.hash).includes('\"circuit\":2')")
    page.go_back()
    expect(page.locator("#circuit")).to_have_value("The cats → run")
    page.go_forward()
    expect(page.locator("#circuit")).to_have_value("The cat → runs")


def test_the_table_begins_with_the_strongest(page: Page, cats: Circuit) -> None:
    begin(page, '{"circuit":1,"view":"table"}')
    strongest = max(cats.nodes, key=lambda node: abs(node.attribution))
    expect(page.locator("#node-table .ag-row[row-index='0']")).to_contain_text(
        f"{strongest.attribution:+.3f}".replace("-", "−")
    )
    expect(page.locator("#node-table").get_by_role("columnheader", name="Attribution")).to_be_visible()
    expect(page.locator("#node-table").get_by_role("columnheader", name="± error")).to_have_count(0)


def test_the_form_answers_while_one_types(page: Page) -> None:
    begin(page, '{"circuit":1}')
    page.get_by_role("button", name="New circuit").click()
    expect(page.locator("#new-adapter")).to_have_value("toy")  # the model of the page's circuits
    page.locator("#new-adapter").click()
    page.get_by_role("option", name="toy").click()
    expect(page.locator("#new-adapter")).to_have_value("toy")
    page.get_by_label("Prompt", exact=True).fill("The dogs")
    page.get_by_label("Corrupted prompt", exact=True).fill("The dog")
    preview = page.locator("#new-preview")
    expect(preview).to_contain_text("As long as each other; 1 of 1 tokens differ.")
    expect(preview).to_contain_text("It will take a second or two.")
    preview.locator(".likely").first.get_by_role("button", name=re.compile("^run ")).click()
    expect(page.get_by_label("Answer", exact=True)).to_have_value("run")
    preview.locator(".likely").last.get_by_role("button", name=re.compile("^runs ")).click()
    expect(page.get_by_label("Distractor", exact=True)).to_have_value("runs")
    page.get_by_label("Prompt", exact=True).fill("xyzzy")
    expect(preview.get_by_role("alert")).to_be_visible()
    page.get_by_role("button", name="Close").click()


def test_a_long_prompt_is_one_line_of_the_work_under_way(page: Page, long: Circuit) -> None:
    begin(page)
    job = {"id": 1, "title": f"Find the circuit of “{long.prompt}”", "stage": "nodes", "share": 30, "warnings": []}
    page.evaluate("job => Jobs.render([job])", {**job, "ended": False})
    row = page.locator(".job")
    assert row.evaluate("e => e.offsetHeight") < 50
    expect(row.locator("strong")).to_have_attribute("title", job["title"])
    page.evaluate("() => Jobs.render([])")


def test_many_pins_have_room_and_outputs(page: Page, long: Circuit) -> None:
    pins = [node.id for node in inner(long)]
    begin(page, json.dumps({"tab": "pinned", "by": {"0": {"pins": pins}}}))
    settled(page, "cy.nodes().length", len(pins) + 2, "subgraph")
    height = page.locator("#subgraph-pane").evaluate("e => e.clientHeight")
    places = page.evaluate(
        "() => circuitlens.cy('subgraph').nodes().map(n => [n.position('x'), n.position('y'), n.width(), n.height()])"
    )
    assert all(y + h / 2 <= height for _, y, _, h in places)
    for k, (x, y, w, h) in enumerate(places):
        assert all(abs(x - x2) >= (w + w2) / 2 or abs(y - y2) >= (h + h2) / 2 for x2, y2, w2, h2 in places[:k])
    assert page.locator("#pins").evaluate("e => e.clientHeight") <= 0.31 * 800


def test_a_small_window_scrolls(page: Page) -> None:
    begin(page)
    page.set_viewport_size({"width": 700, "height": 500})
    page.wait_for_function("() => document.querySelector('#graph').clientHeight >= 280")
    lowest = cy(page, "Math.max(...cy.nodes('.band').map(n => n.position('y') + n.data('h') / 2))")
    axis = page.evaluate(
        "() => document.querySelector('#graph-pane .columns').getBoundingClientRect().top"
        " - document.querySelector('#graph').getBoundingClientRect().top"
    )
    assert lowest <= axis + 1
    page.set_viewport_size({"width": 1280, "height": 800})


def test_marks_that_turn_text_are_spelled_out(browser: Browser, cats: Circuit) -> None:
    turned = tuple(
        node.model_copy(update={"label": f"\u202e{node.label}"}) if node.kind == "feature" else node
        for node in cats.nodes
    )
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    viewer = server.start(
        [Circuit(**{**fields, "nodes": turned, "prompt": "The \u202ecats", "tokens": ("The \u202ecats",)})]
    )
    state = quote('{"view":"table","by":{"0":{"pins":["sae:0:4"],"labels":{"sae:0:5":"my\\u202elabel"}}}}')
    with opened(browser, f"{viewer.url}#{state}") as page:
        for view in ("Table", "Graph"):
            page.locator("#tools").get_by_text(view, exact=True).click()
            expect(page.locator("#circuit")).to_have_value("The \\u202ecats → run")
            assert "\u202e" not in page.locator("body").inner_text()
        assert not cy(page, "cy.nodes().some(n => String(n.style('label')).includes('\\u202e'))")
    viewer.close()
