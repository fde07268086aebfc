"""The documentation as a site: made without a warning and a network, every link leads somewhere, nothing is fetched."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, expect

import circuitlens

ROOT = Path(__file__).parent.parent
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.environ.get("CI") != "true":
        pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    nowhere = {"HTTP_PROXY": NOBODY, "HTTPS_PROXY": NOBODY, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Page(HTMLParser):
    """What a page leads to (`links`), what a browser fetches for it (`fetched`), and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (tag == "link" and name == "href"):
                self.fetched.add(value or "")
            elif tag == "a" and name == "href":
                self.links.add(value or "")
            elif name in ("id", "name"):
                self.anchors.add(value or "")


def test_every_link_leads_somewhere_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 20
    for path, page in pages.items():
        for target in page.links | page.fetched:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                assert target not in page.fetched, f"{path.name} fetches {target}"
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{path.name} leads to {target}"
            if url.fragment and file.suffix == ".html":
                assert unquote(url.fragment) in pages[file].anchors, f"{path.name} leads to {target}"
    documented = pages[site / "reference.html"].anchors
    assert {f"circuitlens.{name}" for name in (*circuitlens.__all__, "open")} <= documented


@pytest.mark.browser
def test_a_browser_asks_nobody_else_and_the_search_finds_a_page(site: Path, browser: Browser) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/"
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        for name in ("reference", "evidence", "index"):
            page.goto(f"{home}{name}.html", wait_until="networkidle")
        page.keyboard.press("/")
        page.keyboard.type("conservation")
        expect(page.locator(".md-search-result__link").first).to_be_visible()
    finally:
        page.close()
        server.shutdown()
        server.server_close()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []
