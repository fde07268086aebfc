"""How quick the page is in a headless Chromium: `python -m tests.benchmarks.page`, medians of five.

The circuits are made up (layers of nodes with random weights, fixed seed), except the toy's: what is timed is the page.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable
from contextlib import contextmanager

from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.table import Table

import circuitlens
from circuitlens.circuit import Circuit, Edge, MetricRecord, Node, Output
from circuitlens.viewer import server
from tests.browser import INTRODUCED, chromium, find_chromium, place

TIMES = 5
PAINTED = (
    "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
)


def made_up(nodes: int, edges: int, layers: int = 12, tokens: int = 8) -> Circuit:
    """A circuit of that size, of no model."""
    draw = random.Random(0)
    inner = [
        Node(
            id=f"f{k}", kind="feature", hook=f"blocks.{k % layers}.hook_resid_pre", layer=k % layers,
            pos=k // layers % tokens, index=k, label=f"F{k}", activation=draw.random(), attribution=draw.gauss(0, 1),
        )
        for k in range(nodes - 2)
    ]  # fmt: skip
    inner.sort(key=lambda node: node.layer)
    ends = [
        Node(
            id=f"logits:{k}", kind="logit", hook="logits", layer=layers, pos=tokens - 1, index=k, label=f"out{k}",
            activation=0.0, attribution=0.0,
        )
        for k in range(2)
    ]  # fmt: skip
    every = [*inner, *ends]
    joined: set[tuple[str, str]] = set()
    while len(joined) < edges:
        a, b = sorted(draw.sample(every, 2), key=lambda node: node.layer)
        if a.layer < b.layer:
            joined.add((a.id, b.id))
    weighed = sorted(((draw.gauss(0, 1), ends) for ends in sorted(joined)), key=lambda one: -abs(one[0]))
    return Circuit(
        created_by="benchmark", adapter="none", prompt="made up", corrupted=None, tokens=tuple("abcdefgh"[:tokens]),
        metric=MetricRecord(name="logit", answers=(Output(text="out0", index=0),), distractors=(), value=1.0),
        method="gradient", conservation_residual=0.0, nodes=tuple(every),
        edges=tuple(Edge(source=a, target=b, weight=weight) for weight, (a, b) in weighed),
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    executable = find_chromium()
    if executable is None:
        sys.exit("There is no Chromium or Chrome: install one, or name it in CIRCUITLENS_CHROMIUM.")
    table = Table("what", "median", "least – most", "aim")

    def row(what: str, aim: str, seconds: list[float]) -> None:
        ms = [1000 * value for value in seconds]
        table.add_row(what, f"{statistics.median(ms):.1f} ms", f"{min(ms):.1f} – {max(ms):.1f}", aim)

    with chromium(executable) as browser:
        for nodes, edges, aim in ((300, 1500, "3 s"), (1000, 5000, "5 s"), (1000, 100_000, "")):
            viewer = server.start([made_up(nodes, edges)])
            row(
                f"first paint, {nodes} nodes, {edges} edges",
                aim,
                [first_paint(browser, viewer.url) for _ in range(TIMES)],
            )
            viewer.close()
        circuit = made_up(300, 1500)
        viewer = server.start([circuit])
        with drawn(browser, viewer.url) as page:
            strongest = sorted(circuit.nodes, key=lambda node: -abs(node.attribution))
            row(
                "focus, the 30 nodes that it opens on, to paint",
                "120 ms",
                [focus(page, node.id) for node in strongest[:TIMES]],
            )
            page.get_by_role("button", name="Show all").click()
            page.wait_for_function("() => circuitlens.cy('graph').nodes('.away').empty()")
            near = [circuit.nodes[k].id for k in range(TIMES)]
            row("focus, 80 of 1500 edges on show, to paint", "150 ms", [focus(page, node) for node in near])
            page.get_by_role("slider", name="Edges shown").press("End")
            row("focus, all 1500 edges on show, to paint", "150 ms", [focus(page, node) for node in near])
            script, paint = zip(*(slide(page) for _ in range(TIMES)), strict=True)
            row("slider at 1500 edges, script", "5 ms", list(script))
            row("slider at 1500 edges, to paint", "120 ms", list(paint))
        viewer.close()
        toy = circuitlens.load("toy")
        viewer = server.start([circuitlens.find(toy, "The cats", "run", "runs")], adapters=[toy])
        with drawn(browser, viewer.url) as page:
            page.mouse.click(*place(page, "sae:0:4"))
            switch_off(page)  # the first imports what it needs
            row("intervention on the toy, round trip", "300 ms", [switch_off(page) for _ in range(TIMES)])
        viewer.close()
    Console().print(table)


@contextmanager
def drawn(browser: Browser, url: str):
    """A page of its own, drawn."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(INTRODUCED)
    page.goto(url)
    page.wait_for_selector("#graph[data-drawn]")
    yield page
    context.close()


def first_paint(browser: Browser, url: str) -> float:
    """Seconds from navigation to the graph on the screen, nothing cached."""
    with drawn(browser, url) as page:
        return page.evaluate(PAINTED) / 1000


def timed(page: Page, act: Callable[[], object], ready: str) -> float:
    """Seconds, on the page's own clock, from the key or button of an act to the frame after that in which a condition
    holds.
    """
    page.evaluate(
        """(ready) => {
            const holds = new Function("return " + ready);
            const listening = new AbortController();
            window.took = new Promise((done) => {
                const begin = () => {
                    listening.abort();
                    const start = performance.now();
                    const look = () => {
                        if (holds()) requestAnimationFrame(() => done((performance.now() - start) / 1000));
                        else requestAnimationFrame(look);
                    };
                    look();
                };
                const how = { capture: true, signal: listening.signal };
                for (const what of ["keydown", "mouseup"]) addEventListener(what, begin, how);
            });
        }""",
        ready,
    )
    act()
    return page.evaluate("window.took")


def slide(page: Page) -> tuple[float, float]:
    """Seconds of script for a tenth fewer edges, and from a key on the slider to its paint."""
    script = page.evaluate(
        """() => {
            const plain = { focus: null, edge: null, pins: new Set(), labels: {}, settings: new Map() };
            const view = { nodes: 298, ...plain };
            Marks.apply({ ...view, edges: 1500 });
            const start = performance.now();
            Marks.apply({ ...view, edges: 1350 });
            const took = performance.now() - start;
            Marks.apply({ ...view, edges: 1500 });
            return took / 1000;
        }"""
    )
    slider = page.get_by_role("slider", name="Edges shown")
    slider.press("End")
    whole = "document.getElementById('edges-shown').textContent.includes('100 %')"
    page.wait_for_function(f"() => {whole}")
    took = timed(page, lambda: slider.press("ArrowLeft"), f"!{whole}")
    slider.press("End")
    page.wait_for_function(f"() => {whole}")
    return script, took


def focus(page: Page, node: str) -> float:
    """Seconds from a click on a node to the faded rest."""
    at = place(page, node)
    page.mouse.move(*at)
    ready = f"circuitlens.cy('graph').nodes('.focused').some((one) => one.data('node') === {node!r})"
    took = timed(page, lambda: page.mouse.click(*at), ready)
    page.keyboard.press("Escape")
    page.wait_for_function("() => circuitlens.cy('graph').nodes('.focused').empty()")
    return took


def switch_off(page: Page) -> float:
    """Seconds from a key to the measured change beside the predicted one."""
    took = timed(page, lambda: page.keyboard.press("o"), "document.querySelectorAll('#outcome dt').length === 5")
    page.keyboard.press("o")
    page.wait_for_function("() => document.querySelectorAll('#outcome dt').length === 2")
    return took


if __name__ == "__main__":
    main()
