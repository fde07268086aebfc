"""Reading a circuit in a real Chromium: what a person sees and does, without asking the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Edge, Output
from circuitlens.circuit.comparison import compare
from circuitlens.report.palette import PALETTES
from circuitlens.viewer import server
from tests.browser import cy, opened, overlaps, place, settled
from tests.helpers import luminance
from tests.tiny_transformer import TinyTransformer

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(cat: Circuit, cats: Circuit, toy: Adapter) -> Iterator[str]:
    viewer = server.start([cat, cats], adapters=[toy])
    yield viewer.url
    viewer.close()


def choose(page: Page, select: str, option: str | re.Pattern[str]) -> None:
    """Choose an option of one of the page's selects."""
    page.locator(f"#{select}").click()
    page.get_by_role("option", name=option).first.click()


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


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
    names = page.locator("#graph-pane .rows span")
    assert names.all_inner_texts() == ["hook_input", "hook_hidden", "hook_sae", "logits"]
    assert page.locator("#graph-pane .columns span").all_inner_texts() == ["The cat"]


def test_axes_follow_the_graph(page: Page, cat: Circuit) -> None:
    def gap() -> float:
        row = page.locator("#graph-pane .rows span", has_text="hook_sae").bounding_box()
        assert row is not None
        return row["y"] + row["height"] / 2 - place(page, "sae:0:1")[1]

    assert abs(gap()) < 40
    before = gap()
    cy(page, "void cy.panBy({ x: 30, y: -50 })")  # its value would be all of Cytoscape
    assert gap() == pytest.approx(before, abs=1.5)
    page.get_by_role("button", name="Fit").click()
    assert_in_pane(page, cat)


def test_nothing_overlaps_at_two_sizes(browser: Browser, url: str) -> None:
    for width, height in ((1280, 800), (1920, 1080)):
        with opened(browser, url, viewport={"width": width, "height": height}) as page:
            choose(page, "circuit", "The cats → run")
            expect(page.locator("#edges-shown")).to_have_text("23 of 23 · 100 % of weight")
            assert overlaps(page, ".feature, .neuron, .error, .chip") == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_clicking_a_node_shows_its_details(page: Page, cat: Circuit) -> None:
    expect(page.locator("#told")).to_contain_text("Click a node")
    feature = next(n for n in cat.strongest_path().nodes if n.kind == "feature")
    page.mouse.click(*place(page, feature.id))
    detail = page.locator("#detail")
    expect(page.locator("#node-name")).to_have_text(feature.label)
    for text in ("SAE feature", "hook_sae", f"{feature.activation:.3f}", signed(feature.attribution)):
        expect(detail).to_contain_text(text)
    weights = detail.locator("td.weight").all_inner_texts()
    expected = []
    for edges in (cat.in_edges(feature.id), cat.out_edges(feature.id)):
        for positive in (True, False):
            expected += [signed(e.weight) for e in edges if (e.weight >= 0) == positive]
    assert weights == expected
    near = {feature.id} | {e.source for e in cat.in_edges(feature.id)} | {e.target for e in cat.out_edges(feature.id)}
    assert set(cy(page, "cy.nodes('[node]').not('.faded').map(n => n.data('node'))")) == near
    expect(page.locator("#told")).to_contain_text("runs")  # what it promotes
    expect(page.locator("#told .strip li")).to_have_text(f"The cat{feature.activation:.2f}")
    page.keyboard.press("Escape")
    expect(page.locator("#told")).to_contain_text("Click a node")
    settled(page, "cy.elements('.faded').length", 0)


def test_a_neighbour_in_the_list_can_be_followed(page: Page, cat: Circuit) -> None:
    page.mouse.click(*place(page, "sae:0:1"))
    source = cat.node(cat.in_edges("sae:0:1")[0].source)
    expect(page.locator("#node-name")).to_have_text(cat.node("sae:0:1").label)
    page.locator("#detail table").get_by_role("button", name=source.label).first.click()
    expect(page.locator("#node-name")).to_have_text(source.label)


def test_arrow_keys_follow_the_strongest_edges(page: Page, cat: Circuit) -> None:
    page.locator("#graph-pane").focus()
    page.keyboard.press("ArrowUp")
    inner = [n for n in cat.nodes if n.kind != "logit"]
    here = max(inner, key=lambda n: abs(n.attribution))
    expect(page.locator("#node-name")).to_have_text(here.label)
    for key, edges, end in (("ArrowUp", cat.out_edges, "target"), ("ArrowDown", cat.in_edges, "source")):
        here = cat.node(getattr(edges(here.id)[0], end))
        page.keyboard.press(key)
        expect(page.locator("#node-name")).to_have_text(here.label)
    row = [n for n in cat.nodes if n.hook == here.hook]
    page.mouse.click(*place(page, row[0].id))
    names = sorted(row, key=lambda n: place(page, n.id)[0])
    for node in names[names.index(row[0]) + 1 :]:
        page.keyboard.press("ArrowRight")
        expect(page.locator("#node-name")).to_have_text(node.label)


def test_search_by_label_token_and_id(browser: Browser) -> None:
    circuit = circuitlens.find(TinyTransformer("components"), "a b c", "d", "e", "a b f").prune(max_nodes=60)
    feature = next(n for n in circuit.nodes if n.kind == "feature")
    viewer = server.start([circuit])
    with opened(browser, viewer.url) as page:
        for text in (feature.id, f"{feature.label} L{feature.layer} '{circuit.tokens[feature.pos]}'"):
            page.keyboard.press("Escape")
            page.evaluate("document.activeElement.blur()")
            page.keyboard.press("/")
            expect(page.locator("#search")).to_be_focused()
            expect(page.locator("[role=option]:visible").first).to_be_visible()
            page.locator("#search").press_sequentially(text)
            expect(page.locator("[role=option]:visible").first).to_contain_text(feature.id)
            page.keyboard.press("Enter")
            expect(page.locator("#node-name")).to_have_text(feature.label)
            settled(page, "cy.nodes('.focused').map(n => n.data('node'))", [feature.id])
    viewer.close()


def test_sliders_ask_the_server_nothing(page: Page, cat: Circuit) -> None:
    page.wait_for_load_state("networkidle")
    requests: list[str] = []
    # All but what asks how the work in the background goes, and the icon that a browser fetches when it likes.
    idle = ("tick.n_intervals", "favicon")
    page.on(
        "request", lambda r: None if any(w in r.url + (r.post_data or "") for w in idle) else requests.append(r.url)
    )
    slider = page.get_by_role("slider", name="Edges shown")
    slider.focus()
    count = len(cat.edges)
    weights = sorted((e.weight for e in cat.edges), key=lambda w: -abs(w))
    for shown in (count - 1, count - 2, count - 3):
        slider.press("ArrowLeft")
        share = 100 * sum(map(abs, weights[:shown])) / sum(map(abs, weights))
        expect(page.locator("#edges-shown")).to_have_text(f"{shown} of {count} · {int(share)} % of weight")
        settled(page, "cy.edges(':visible').length", shown)
    assert sorted(cy(page, "cy.edges('.off').map(e => e.data('rank'))")) == [count - 3, count - 2, count - 1]
    slider.press("Home")
    settled(page, "cy.edges(':visible').length", 0)
    slider.press("End")
    settled(page, "cy.edges(':visible').length", count)
    nodes = page.get_by_role("slider", name="Nodes shown")
    nodes.press("Home")
    settled(page, "cy.nodes('[node]:visible').map(n => n.data('node'))", [n.id for n in cat.nodes if n.kind == "logit"])
    nodes.press("ArrowRight")
    strongest = max((n for n in cat.nodes if n.kind != "logit"), key=lambda n: abs(n.attribution))
    settled(page, "cy.nodes('[rank >= 0]:visible').map(n => n.data('node'))", [strongest.id])
    assert requests == []


def test_switching_circuits(page: Page, cat: Circuit, cats: Circuit) -> None:
    page.get_by_role("tab", name="Circuit").click()
    for circuit, name in ((cats, "The cats → run"), (cat, "The cat → runs"), (cats, "The cats → run")):
        choose(page, "circuit", name)
        expect(page.locator("#about")).to_contain_text(str(circuit.strongest_path()))
        expect(page.locator("#about")).to_contain_text(signed(circuit.metric.value))
        settled(page, "cy.nodes('[node]').map(n => n.data('node')).sort()", sorted(n.id for n in circuit.nodes))
        ends = "cy.edges().map(e => e.source().data('node') + ' ' + e.target().data('node')).sort()"
        settled(page, ends, sorted(f"{e.source} {e.target}" for e in circuit.edges))
        expect(page.locator("#edges-shown")).to_have_text(
            f"{len(circuit.edges)} of {len(circuit.edges)} · 100 % of weight"
        )


def test_pins_groups_and_their_sums(page: Page, cat: Circuit) -> None:
    path = [n for n in cat.strongest_path().nodes if n.kind != "input"]
    for node in path:
        page.keyboard.down("Control")
        page.mouse.click(*place(page, node.id))
        page.keyboard.up("Control")
    settled(page, "cy.nodes('.pinned').length", len(path))
    page.get_by_role("tab", name="Pinned").click()
    hidden, feature, answer = path
    for node in (feature, answer):
        page.get_by_role("checkbox", name=f"Tick {node.label}", exact=True).check()
    page.locator("#group-name").fill("verb")
    page.get_by_role("button", name="Group the ticked").click()
    expect(page.get_by_role("textbox", name="Name of the group")).to_have_value("verb")
    total = sum(e.weight for e in cat.edges if e.source == hidden.id and e.target in (feature.id, answer.id))
    other = next(n for n in cat.nodes if n.is_logit and n.id != answer.id)  # outputs are there also where not pinned
    across = sum(e.weight for e in cat.edges if e.source == feature.id and e.target == other.id)
    rows = [(total, f"{hidden.label} → verb{signed(total)}"), (across, f"verb → {other.label}{signed(across)}")]
    rows.sort(key=lambda row: -abs(row[0]))
    # A list waits for the rows to be these; a single text fails at once while there are others.
    expect(page.locator("#sums tr")).to_have_text([text for _, text in rows])
    settled(
        page, "cy.nodes().map(n => n.data('label')).sort()", sorted([hidden.label, other.label, "verb"]), "subgraph"
    )
    page.get_by_role("textbox", name="Name of the group").fill("agreement")
    page.keyboard.press("Enter")
    expect(page.locator("#sums tr", has_text=f"{hidden.label} → agreement")).to_be_visible()
    page.get_by_role("button", name="Ungroup agreement").click()
    expect(page.locator("#pins li")).to_have_count(3)
    page.get_by_role("button", name=f"Unpin {hidden.label}", exact=True).click()
    expect(page.locator("#pins li")).to_have_count(2)


def test_own_labels_and_notes(page: Page) -> None:
    page.mouse.click(*place(page, "sae:0:1"))
    page.get_by_label("Your label").fill("singular verb")
    page.get_by_label("Your note").fill("looked at twice")
    page.locator("#search").focus()
    expect(page.locator("#node-name")).to_have_text("singular verb")
    settled(page, "cy.getElementById('node sae:0:1').style('label')", "singular verb")
    page.locator("#tools").get_by_text("Table", exact=True).click()
    row = page.locator("#node-table .ag-row", has_text="singular verb")
    expect(row).to_be_visible()


def test_a_label_is_that_of_the_feature_at_each_of_its_positions(browser: Browser, cats: Circuit) -> None:
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    again = cats.node("sae:0:4").model_copy(update={"id": "sae:1:4", "pos": 1})
    viewer = server.start([Circuit(**{**fields, "tokens": ("The", " cats"), "nodes": (*cats.nodes, again)})])
    with opened(browser, viewer.url) as page:
        page.mouse.click(*place(page, "sae:1:4"))
        page.get_by_label("Your label").fill("plural verb")
        page.get_by_label("Your note").fill("here")
        page.locator("#search").focus()
        for name in ("sae:0:4", "sae:1:4"):
            settled(page, f"cy.getElementById('node {name}').style('label')", "plural verb")
        page.mouse.click(*place(page, "sae:0:4"))
        expect(page.locator("#node-name")).to_have_text("plural verb")
        expect(page.get_by_label("Your note")).to_have_value("")
    viewer.close()


def test_the_table_says_what_the_canvas_shows(page: Page, cat: Circuit) -> None:
    page.locator("#tools").get_by_text("Table", exact=True).click()
    rows = page.locator("#node-table .ag-center-cols-container .ag-row")
    expect(rows).to_have_count(len(cat.nodes))
    header = page.locator("#node-table").get_by_role("columnheader", name="Attribution")
    header.click()
    header.click()
    strongest = max(cat.nodes, key=lambda n: n.attribution)
    expect(page.locator("#node-table .ag-row[row-index='0']")).to_contain_text(strongest.label)
    page.locator("#node-table .ag-row", has_text="F2").first.click()
    expect(page.locator("#node-name")).to_have_text("F2")
    page.get_by_role("tab", name="Edges").click()
    expect(page.locator("#edge-table .ag-center-cols-container .ag-row")).to_have_count(len(cat.edges))
    first = cat.edges[0]
    expect(page.locator("#edge-table .ag-row[row-index='0']")).to_contain_text(signed(first.weight))


def test_the_table_is_sorted_and_filtered_by_keys(page: Page, cat: Circuit) -> None:
    page.locator("#tools").get_by_text("Table", exact=True).click()
    table = page.locator("#node-table")
    rows = table.locator(".ag-center-cols-container .ag-row")
    expect(rows).to_have_count(len(cat.nodes))
    page.get_by_role("tab", name="Nodes").focus()
    header = table.locator(".ag-header-cell:focus")
    for _ in range(5):
        page.keyboard.press("Tab")
        if header.count():
            break
    for _ in range(10):
        if "Attribution" in header.inner_text():
            break
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", "ascending")
    weakest = min(cat.nodes, key=lambda n: n.attribution)
    expect(table.locator(".ag-row[row-index='0']")).to_contain_text(weakest.label)
    page.keyboard.press("Control+Enter")
    page.keyboard.type(str(weakest.attribution - 1))
    expect(rows).to_have_count(0)
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type(repr(weakest.attribution))
    expect(rows).to_have_count(1)
    page.keyboard.press("Escape")
    expect(header).to_contain_text("Attribution")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator("#node-name")).to_have_text(weakest.label)


def test_two_circuits_side_by_side_and_their_difference(page: Page, cat: Circuit, cats: Circuit) -> None:
    choose(page, "other", "The cats → run")
    compared = compare(cat, cats)
    settled(page, "cy.nodes('[node]').map(n => n.data('node')).sort()", sorted(n.id for n in cats.nodes), "graph2")
    settled(page, "cy.nodes('[node]').map(n => n.data('node')).sort()", sorted(n.id for n in cat.nodes))
    expect(page.locator("#graph2-title")).to_have_text("The cats → run")
    page.locator("#tools").get_by_text("Difference", exact=True).click()
    settled(page, "cy.edges().length", len(compared.difference.edges))
    shared = next(a for a, b in compared.shared if a.kind == "error")
    page.mouse.click(*place(page, shared.id))
    for value in (cat.node(shared.id).attribution, cats.node(shared.id).attribution):
        expect(page.locator("#detail")).to_contain_text(f"attribution {signed(value)}")
    difference = cat.node(shared.id).attribution - cats.node(shared.id).attribution
    expect(page.locator("#detail dd").last).to_have_text(f"attribution {signed(difference)}")
    expect(page.locator("#legend")).to_contain_text("more in the first")
    page.locator(".mantine-Select-root:has(#other) button").click()
    settled(page, "cy.edges().length", len(cat.edges))


def rgb(colour: str) -> str:
    return f"rgb({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_light_and_dark_follow_the_system_until_chosen(browser: Browser, url: str) -> None:
    """Muted text has a WCAG contrast of at least 4.5 in both, as the browser computes it."""
    band = "cy.nodes('.band')[0].style('background-color')"
    for system, other in (("light", "dark"), ("dark", "light")):
        with opened(browser, url, color_scheme=system) as page:
            settled(page, band, rgb(PALETTES[system]["raised"]))
            for selector in ("#detail p", "#legend span", "#edges-shown"):
                colours = page.evaluate(
                    """selector => [getComputedStyle(document.querySelector(selector)).color,
                                    getComputedStyle(document.body).backgroundColor]""",
                    selector,
                )
                text, ground = (luminance([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in colours)
                assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5, (system, selector, colours)
            page.get_by_role("button", name="Light or dark").click()
            settled(page, band, rgb(PALETTES[other]["raised"]))
            page.reload()
            page.wait_for_selector("#graph[data-drawn]")
            settled(page, band, rgb(PALETTES[other]["raised"]))


def test_axe_finds_nothing_serious(browser: Browser, toy: Adapter) -> None:
    circuit = circuitlens.find(toy, "The cats", "run", "runs", "The cat")
    viewer = server.start([circuitlens.verify(toy, circuit), circuit], adapters=[toy])

    def check(page: Page, where: str) -> None:
        found = Axe().run(page).response["violations"]
        assert [(where, v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []

    for scheme in ("light", "dark"):
        with opened(browser, viewer.url, introduced=False, color_scheme=scheme) as page:
            check(page, "introduction")
            page.get_by_role("button", name="Show the feature that matters most").click()
            expect(page.locator("#told")).to_contain_text("Promotes")
            check(page, "node")
            page.locator("#off").click()
            expect(page.locator("#outcome table")).to_be_visible()
            check(page, "intervene")
            for tab in ("Pinned", "Circuit"):
                page.get_by_role("tab", name=tab).click()
                check(page, tab)
            page.locator("#tools").get_by_text("Table", exact=True).click()
            expect(page.locator("#node-table .ag-row").first).to_be_visible()
            check(page, "table")
            page.locator("#tools").get_by_text("Evidence", exact=True).click()
            expect(page.locator("#evidence .js-plotly-plot")).to_have_count(2)
            check(page, "evidence")
            page.get_by_role("button", name="New circuit").click()
            expect(page.get_by_role("dialog")).to_be_visible()
            page.wait_for_function("() => document.getAnimations().every((one) => one.playState !== 'running')")
            check(page, "new circuit")
    viewer.close()


def test_the_graph_follows_the_window(page: Page, cat: Circuit) -> None:
    before = place(page, cat.nodes[0].id)
    page.set_viewport_size({"width": 900, "height": 600})
    page.wait_for_function(
        "x => circuitlens.cy('graph').nodes('[node]')[0].renderedPosition('x') < x - 50",
        arg=before[0],
    )
    assert_in_pane(page, cat)


HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


def test_hostile_labels_are_text(browser: Browser, cats: Circuit) -> None:
    renamed = tuple(n.model_copy(update={"label": HOSTILE if n.kind == "feature" else n.label}) for n in cats.nodes)
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    metric = cats.metric.model_copy(update={"distractors": (Output(text=HOSTILE, index=0),)})
    hostile = Circuit(**{**fields, "nodes": renamed, "prompt": HOSTILE, "tokens": (HOSTILE,), "metric": metric})
    viewer = server.start([hostile])
    with opened(browser, viewer.url) as page:
        feature = next(n for n in hostile.nodes if n.kind == "feature")
        page.mouse.move(*place(page, feature.id))
        expect(page.locator("#tip")).to_contain_text(HOSTILE)
        page.mouse.click(*place(page, feature.id))
        expect(page.locator("#node-name")).to_have_text(HOSTILE)
        expect(page.locator("#detail")).to_contain_text(f"0: “{HOSTILE}”")
        page.keyboard.press("p")
        page.get_by_role("tab", name="Pinned").click()
        expect(page.locator("#pins")).to_contain_text(HOSTILE)
        page.locator("#tools").get_by_text("Table", exact=True).click()
        expect(page.locator("#node-table")).to_contain_text(HOSTILE)
        page.locator("#tools").get_by_text("Evidence", exact=True).click()
        expect(page.locator("#evidence")).to_contain_text(HOSTILE)
        assert page.title() == "CircuitLens"
        assert page.locator("img[src=x]").count() == 0
    viewer.close()


def test_a_circuit_of_many_positions(browser: Browser) -> None:
    """Chips and names keep to their places, and a focused node shows its strongest edges whatever the threshold."""
    found = circuitlens.find(TinyTransformer("components"), "a b c d e f g a b c d e f", "d", "e").prune(max_nodes=400)
    fields = {name: getattr(found, name) for name in Circuit.model_fields}
    tokens = ("<|endoftext|>", *(f" {token}xtraordinarily" for token in found.tokens[1:]))
    circuit = Circuit(**{**fields, "tokens": tokens})
    node = max(circuit.nodes, key=lambda n: len(circuit.in_edges(n.id)))
    viewer = server.start([circuit])
    with opened(browser, viewer.url) as page:
        page.get_by_role("button", name="Show all").click()
        columns = page.locator("#graph-pane .columns span")
        for width, height in ((1280, 800), (1920, 1080)):
            page.set_viewport_size({"width": width, "height": height})
            settled(page, "cy.width() > innerWidth / 2 && cy.width() === cy.container().clientWidth", True)
            expect(columns).to_have_count(13)
            ends = [box["x"] + box["width"] for span in columns.all() if (box := span.bounding_box())]
            assert all(b - a >= 14 for a, b in pairwise(ends))  # slanting, a line's height apart
            assert columns.evaluate_all("spans => spans.every(span => span.clientWidth > 60)")  # more than a letter
            assert overlaps(page, ".chip") == []
            assert_in_pane(page, circuit)
        page.get_by_role("slider", name="Edges shown").press("Home")
        settled(page, "cy.edges(':visible').length", 0)
        page.mouse.click(*place(page, node.id))
        expect(page.locator("#node-name")).to_have_text(node.label)
        strongest = [e.source for e in circuit.in_edges(node.id)[:10]]
        settled(page, f"cy.edges(':visible[target = \"node {node.id}\"]').length", 10)
        shown = cy(page, "cy.edges(':visible').sources().map(n => n.data('node'))")
        assert set(shown) - {node.id} == set(strongest)
    viewer.close()


def test_a_hundred_thousand_edges_are_cut_and_it_says_so(browser: Browser, cats: Circuit) -> None:
    template = next(n for n in cats.nodes if n.kind == "feature")
    nodes = tuple(
        template.model_copy(update={"id": f"n{k}", "layer": k // 50, "hook": f"h{k // 50}", "attribution": k / 700})
        for k in range(700)
    )
    pairs = [(a, b) for a in range(700) for b in range(700) if a // 50 < b // 50][:100_000]
    edges = tuple(Edge(source=f"n{a}", target=f"n{b}", weight=(a * b % 997 + 1) / 7) for a, b in pairs)
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    viewer = server.start([Circuit(**{**fields, "nodes": nodes, "edges": edges, "found": None})])
    with opened(browser, viewer.url) as page:
        expect(page.locator("#left-out")).to_contain_text("the strongest 5\u202f000 of 100\u202f000 edges")
        page.get_by_role("button", name="Show all").click()
        settled(page, "cy.edges(':visible').length", 80)
    viewer.close()


def test_many_circuits_and_an_empty_one(browser: Browser, cats: Circuit) -> None:
    tall = circuitlens.find(TinyTransformer("components"), "a b c", "d", "e", "a b f").prune(
        max_nodes=200, max_edges=600
    )
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    empty = Circuit(**{**fields, "nodes": (), "edges": (), "found": None, "prompt": "empty"})
    viewer = server.start([tall, cats, tall, empty, cats])
    with opened(browser, viewer.url) as page:
        page.get_by_role("button", name="Show all").click()
        expect(page.locator("#edges-shown")).to_contain_text("80 of 600")
        settled(page, "cy.edges(':visible').length", 80)
        choose(page, "circuit", re.compile("empty"))
        settled(page, "cy.elements().length", 0)
        page.get_by_role("tab", name="Circuit").click()
        expect(page.locator("#about")).to_contain_text("0 nodes, 0 edges")
    viewer.close()


def test_evidence_is_shown_or_how_to_measure_it(browser: Browser, toy: Adapter) -> None:
    circuit = circuitlens.find(toy, "The cats", "run", "runs", "The cat")
    verified = circuitlens.verify(toy, circuit)
    assert verified.evidence is not None
    viewer = server.start([verified, circuit])
    with opened(browser, viewer.url) as page:
        page.locator("#tools").get_by_text("Evidence", exact=True).click()
        panel = page.locator("#evidence")
        expect(panel).to_contain_text(f"Verdict: {verified.evidence.verdict}")
        expect(panel.locator("tbody tr")).to_have_count(len(verified.evidence.checks))
        expect(panel.locator(".js-plotly-plot")).to_have_count(2)
        expect(page.locator("#verify")).to_be_hidden()
        effect = verified.evidence.effects[0]
        panel.get_by_role("button", name=verified.node(effect.node).label, exact=True).click()
        exact = f"{signed(effect.measured)} (how far the metric falls with it alone as in the corrupted prompt)"
        expect(page.locator("#detail")).to_contain_text(exact)
        choose(page, "circuit", "The cats → run (2)")
        expect(panel).to_contain_text("Nothing was measured of this circuit yet")
        expect(panel).to_contain_text("circuitlens.verify(adapter, circuit)")
        expect(page.locator("#verify")).to_be_visible()
    viewer.close()
