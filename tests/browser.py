"""A real Chromium for the page's tests and pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, ViewportSize, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
expect.set_options(timeout=30_000)  # a busy machine is no failure
INTRODUCED = "localStorage.setItem('circuitlens-introduction-seen', 'yes')"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def find_chromium() -> str | None:
    """The installed Chromium or Chrome: `$CIRCUITLENS_CHROMIUM`, or one on the path."""
    named = os.environ.get("CIRCUITLENS_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), MAC if Path(MAC).exists() else None)


@contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


def wait_drawn(page: Page) -> None:
    """Wait until the graph's elements are drawn and placed."""
    page.wait_for_selector("#graph[data-drawn]", state="attached")
    page.wait_for_function("() => circuitlens.cy('graph').nodes().length > 0")


def place(page: Page, node_id: str) -> tuple[float, float]:
    """Where a node stands in the page, in pixels."""
    x, y = page.evaluate(
        """id => {
            const cy = circuitlens.cy('graph');
            const at = cy.getElementById('node ' + id).renderedPosition();
            const pane = cy.container().getBoundingClientRect();
            return [pane.x + at.x, pane.y + at.y];
        }""",
        node_id,
    )
    return x, y


@cache
def _profile(browser: Browser) -> BrowserContext:
    """What all pages of a browser share: its cache, as reading the page's scripts anew is much of what a page costs."""
    return browser.new_context()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    introduced: bool = True,
    viewport: ViewportSize | None = None,
    color_scheme: str = "light",
) -> Iterator[Page]:
    """The page, drawn, with nothing stored of an earlier one; afterwards there must have been no error, and no request
    that left the machine.
    """
    faults: list[str] = []
    profile = _profile(browser)
    page = profile.new_page()
    page.set_viewport_size(viewport or {"width": 1280, "height": 800})
    page.emulate_media(color_scheme="dark" if color_scheme == "dark" else "light")
    here = url.split("?")[0]
    origin = {"origin": here.rstrip("/"), "storageTypes": "local_storage"}
    profile.new_cdp_session(page).send("Storage.clearDataForOrigin", origin)
    if introduced:
        page.add_init_script(INTRODUCED)

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"console {message.type}: {message.text}")

    page.on("console", console)
    page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    page.on("request", lambda r: None if r.url.startswith((here, "data:", "blob:")) else faults.append(r.url))
    try:
        page.goto(url)
        wait_drawn(page)
        yield page
    finally:
        page.close()
    assert faults == []


def cy(page: Page, expression: str) -> Any:
    """Evaluate an expression of the Cytoscape object `cy`."""
    return page.evaluate(f"(() => {{ const cy = circuitlens.cy('graph'); return {expression}; }})()")


def settled(page: Page, expression: str, expected: Any, graph: str = "graph") -> None:
    """Wait until an expression of `cy` has a value."""
    page.wait_for_function(  # the page's own policy forbids it to evaluate a text
        f"""([graph, expected]) => {{
            const cy = circuitlens.cy(graph);
            return Boolean(cy) && JSON.stringify({expression}) === JSON.stringify(expected);
        }}""",
        arg=[graph, expected],
    )


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
