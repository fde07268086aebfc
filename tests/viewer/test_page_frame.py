"""The page in a frame, in a real Chromium: of the notebook that was given its address, and of nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, expect

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.viewer import server
from circuitlens.viewer.guard import NO_TOKEN

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def viewer(cats: Circuit, toy: Adapter) -> Iterator[server.Viewer]:
    made = server.start([cats], adapters=[toy])
    yield made
    made.close()


@contextmanager
def site(html: str) -> Iterator[int]:
    """A page of another server of this machine, by its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<!doctype html><meta charset=utf-8>{html}".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made.server_address[1]
    made.shutdown()
    thread.join()
    made.server_close()


@contextmanager
def shown(browser: Browser, address: str) -> Iterator[Page]:
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    page = made.new_page()
    page.goto(address)
    yield page
    made.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_notebook_shows_the_page(browser: Browser, viewer: server.Viewer, host: str) -> None:
    """Under both names of the machine: to a browser they are two sites, and a frame of another site has no cookie."""
    with site(viewer._repr_html_()) as port, shown(browser, f"http://{host}:{port}") as page:
        frame = page.frame_locator("iframe")
        for _ in range(2):
            expect(frame.locator("#graph[data-drawn]")).to_be_visible()
            frame.get_by_role("tab", name="Intervene").click()
            expect(frame.locator("#outcome")).to_contain_text("What the model answers")
            page.frames[1].evaluate("location.reload()")  # its address keeps the token
        assert page.frames[1].url.startswith(viewer.url.replace("127.0.0.1", host))


def test_another_page_of_the_machine_can_not_frame_it(browser: Browser, viewer: server.Viewer) -> None:
    """Not even in the browser that has the cookie, where a click could be led into it."""
    bare = viewer.url.split("?")[0]
    with site(f'<iframe src="{bare}"></iframe>') as port, shown(browser, viewer.url) as page:
        expect(page.locator("#graph[data-drawn]")).to_be_visible()
        page.wait_for_function("() => !location.search")  # the token is in the address no more
        page.goto(bare)
        expect(page.locator("#graph[data-drawn]")).to_be_visible()
        page.goto(f"http://127.0.0.1:{port}")
        expect(page.frame_locator("iframe").locator("body")).to_have_text(NO_TOKEN)


def test_who_has_no_token_reads_how_to_get_the_address(browser: Browser, viewer: server.Viewer) -> None:
    with shown(browser, viewer.url.split("?")[0]) as page:
        expect(page.locator("body")).to_have_text(NO_TOKEN)
