"""Serving the page: on the loopback address only, to who has its address, in a thread of this process, quietly."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from circuitlens.circuit import Circuit
from circuitlens.errors import ViewerError

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.corpus import Corpus
    from circuitlens.viewer.guard import Guard

log = logging.getLogger(__name__)

HOST = "127.0.0.1"

SILENCE = 60.0
"""Seconds after which a connection that says nothing is closed, so that nobody keeps the threads of all."""

SAME_SITE = f"""<script>
  for (const frame of document.querySelectorAll("iframe[data-circuitlens]:not([src])")) {{
    const page = frame.dataset.circuitlens;
    frame.src = location.hostname === "localhost" ? page.replace("{HOST}", "localhost") : page;
  }}
</script>"""
"""Has a notebook show the page under the name of this machine that the notebook itself has.

To a browser localhost and 127.0.0.1 are two sites, and a frame of another site gets no cookies. The frame gets its
address here only: one that is sent on before its first page is there stays empty now and then.
"""


class Viewer:
    """A running page; `url` is its address, with the token without which the page answers nobody.

    Args:
        server: the page as a WSGI application, guarded.
        port: the port to listen on, 0 for any that is free.
        on_close: what to end with the page.

    Raises:
        ViewerError: the port is taken, or may not be used.
    """

    def __init__(self, server: Guard, port: int, on_close: Callable[[], object] = lambda: None):
        from werkzeug.serving import WSGIRequestHandler, make_server

        class QuietHandler(WSGIRequestHandler):
            timeout = SILENCE

            def log(self, type: str, message: str, *values: object) -> None:
                """Say nothing of requests in the terminal, whoever sends them."""
                log.debug(message, *values)

        # Bound here, because make_server ends the process where a port is taken.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((HOST, port))
                listening.listen()
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ViewerError(
                    f"Can't serve on port {port} ({reason}): choose another one, or 0 for any that is free."
                ) from error
            port = listening.getsockname()[1]
            self._server = make_server(
                HOST, port, server, threaded=True, request_handler=QuietHandler, fd=listening.fileno()
            )
        self.url = f"http://{HOST}:{port}/?token={server.token}"
        self._on_close = on_close
        self._thread = threading.Thread(target=self._server.serve_forever, name="circuitlens-viewer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Serve until the viewer is closed or Ctrl-C is pressed."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._on_close()

    def __repr__(self) -> str:
        return f"Viewer({self.url!r})"

    def _repr_html_(self) -> str:
        return (
            f'<iframe data-circuitlens="{escape(self.url)}" title="CircuitLens" width="100%" height="720"'
            f' frameborder="0"></iframe>{SAME_SITE}'
        )


def view(
    circuits: Sequence[Circuit],
    *,
    adapters: Sequence[Adapter] = (),
    paths: Sequence[Path | None] | None = None,
    corpus: Corpus | None = None,
    port: int = 0,
    open_browser: bool = True,
) -> Viewer:
    """Show circuits in a local page.

    In a notebook or an interactive session this returns at once and the page stays up as long as the session; in a
    script it returns when Ctrl-C is pressed, as a plot's window would when it is closed.

    Args:
        circuits: those to switch between, at least one.
        adapters: models that are loaded and can be asked from the page; others are loaded there by name.
        paths: the files that the circuits were read from and may be saved to, by default none.
        corpus: what the features of their model do on a text (`circuitlens.corpus.read`).
        port: 0 for any that is free.
        open_browser: open the page where there is a desktop; in a notebook the page is shown inline instead.

    Raises:
        ViewerError: there is no circuit, or the port is taken.
    """
    viewer = start(circuits, adapters=adapters, paths=paths, corpus=corpus, port=port)
    notebook = "ipykernel" in sys.modules
    if open_browser and not notebook:
        open_page(viewer.url)
    if not (notebook or hasattr(sys, "ps1")):
        sys.stderr.write(f"Viewing {viewer.url} (Ctrl-C ends it)\n")
        viewer.wait()
    return viewer


def start(
    circuits: Sequence[Circuit],
    *,
    adapters: Sequence[Adapter] = (),
    paths: Sequence[Path | None] | None = None,
    corpus: Corpus | None = None,
    port: int = 0,
) -> Viewer:
    """Serve circuits and return at once; the arguments are those of `view`.

    Raises:
        ViewerError: there is no circuit, or the port is taken.
    """
    if not circuits:
        raise ViewerError("There is no circuit to show: give at least one.")
    from circuitlens.viewer.environment import without_variables
    from circuitlens.viewer.session import Session

    with without_variables():
        from circuitlens.viewer.app import create_app
        from circuitlens.viewer.guard import Guard

        session = Session(circuits, paths, adapters, corpus)
        app = create_app(session)
    return Viewer(Guard(app.server, app.csp_hashes()), port, session.close)


def open_page(url: str) -> None:
    """Open a page in the desktop's browser, and do nothing where there is no desktop."""
    # Without a display Python's webbrowser would start a text browser in the terminal.
    if not (sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    # By way of a file that only this user can read: everyone can read what a program is started with.
    folder = Path(tempfile.mkdtemp(prefix="circuitlens-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    page = folder / "page.html"
    page.write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(url)}"><a href="{escape(url)}">The page</a>'
    )
    webbrowser.open(page.as_uri())
