"""A real Chromium for the page's tests and pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
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
    page.wait_for_selector("#graph[data-drawn]")
    page.wait_for_function("document.getElementById('graph')._cyreg.cy.nodes().length > 0")


def place(page: Page, node_id: str) -> tuple[float, float]:
    """Where a node stands in the page, in pixels."""
    x, y = page.evaluate(
        """id => {
            const cy = document.getElementById('graph')._cyreg.cy;
            const at = cy.getElementById('node ' + id).renderedPosition();
            const pane = cy.container().getBoundingClientRect();
            return [pane.x + at.x, pane.y + at.y];
        }""",
        node_id,
    )
    return x, y
