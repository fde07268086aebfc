"""Figures as files: pages that need no network, and pictures drawn by an installed browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlens.distribution import installing
from circuitlens.errors import CircuitError
from circuitlens.files import write_file
from circuitlens.report.plots.style import GROUND, text_of

if TYPE_CHECKING:
    import plotly.graph_objects

SIZE = (900, 560)
"""Width and height of a picture, in pixels, of a figure that has none of its own; a PNG has `PIXELS` times as many."""
PIXELS = 2
SUFFIXES = (".html", ".png", ".svg")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';\
 style-src 'unsafe-inline'; img-src data: blob:; worker-src blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>html, body {{ height: 100%; margin: 0; background: {ground}; }}</style>
</head>
<body>{body}</body>
</html>
"""


def save_plot(figure: plotly.graph_objects.Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as a page that needs no network (`.html`) or as a picture (`.png`, `.svg`), whole or not at all.

    Raises:
        CircuitError: another suffix; the file can't be written; or, for a picture, there is no kaleido or no browser.
    """
    name, suffix = os.fspath(path), Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise CircuitError(f"Can't draw {name!r}: expected a name that ends in {', '.join(SUFFIXES)}, got {suffix!r}.")
    if not Path(path).absolute().parent.is_dir():  # before seconds go by
        raise CircuitError(f"Can't write {name!r}: No such directory.")
    data = _page(figure, Path(path).stem) if suffix == ".html" else _picture(figure, suffix[1:])
    write_file(path, data, CircuitError)


def _page(figure: plotly.graph_objects.Figure, title: str) -> bytes:
    config = {"displaylogo": False, "responsive": True}
    body = figure.to_html(config, include_plotlyjs=True, include_mathjax=False, full_html=False, default_height="100%")
    return PAGE.format(title=text_of(title), body=body, ground=GROUND).encode()


def _picture(figure: plotly.graph_objects.Figure, form: str) -> bytes:
    try:
        import kaleido
        from kaleido import errors
    except ImportError as error:
        raise CircuitError(
            "A picture needs kaleido 1 or newer, which is not installed: "
            f"{installing('plots')}, or save the figure as .html."
        ) from error
    layout: Any = figure.layout
    size = {"width": layout.width or SIZE[0], "height": layout.height or SIZE[1]}
    try:
        # Not `figure.to_image`, which always lets the browser fetch MathJax from a server.
        return kaleido.calc_fig_sync(
            figure.to_dict(),
            opts={"format": form, "scale": PIXELS if form == "png" else 1, **size},
            kopts={"mathjax": False},
        )
    except errors.ChromeNotFoundError as error:
        named = os.environ.get("BROWSER_PATH")
        found = f"BROWSER_PATH names {named!r}, which is not there" if named else "none was found"
        raise CircuitError(
            f"A picture is drawn by an installed Chrome or Chromium, and {found}: install one "
            "(Debian: apt-get install chromium), name it in BROWSER_PATH, or save the figure as .html."
        ) from error
    except (errors.BrowserFailedError, errors.BrowserClosedError, TimeoutError) as error:
        raise CircuitError(
            "A picture is drawn by an installed Chrome or Chromium, and it did not start or closed while drawing: "
            "name another one in BROWSER_PATH, or save the figure as .html."
        ) from error
    except (errors.JavascriptError, errors.KaleidoError) as error:
        raise CircuitError(f"The figure can't be drawn as a picture ({error}): save it as .html.") from error
