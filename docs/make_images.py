"""Make the pictures of README.md and docs/: `make images`. Needs an installed Chromium or Chrome.

That of a real model is made where CIRCUITLENS_SMOLLM2 and CIRCUITLENS_SMOLLM2_SAES name its folders.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parent.parent))

from playwright.sync_api import Browser

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.viewer import server
from tests.browser import chromium, find_chromium, opened

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Photograph the page: in focus, light and dark, an intervention, a comparison, evidence, and a real model."""
    executable = find_chromium()
    if executable is None:
        sys.exit("There is no Chromium or Chrome: install one, or name it in CIRCUITLENS_CHROMIUM.")
    toy = circuitlens.load("toy")
    cat = circuitlens.find(toy, "The cat", "runs", "run")
    cats = circuitlens.find(toy, "The cats", "run", "runs")
    verified = circuitlens.verify(toy, circuitlens.find(toy, "The cats", "run", "runs", "The cat"))
    focus = strongest(cats)
    IMAGES.mkdir(exist_ok=True)
    with chromium(executable) as browser:
        look = {"by": {"0": {"focus": focus}}}
        for scheme in ("light", "dark"):
            photograph(browser, [cats, cat], toy, f"toy-{scheme}", look, scheme)
        off = {"tab": "ask", "by": {"0": {"focus": focus, "settings": [[focus, 0]]}}}
        photograph(browser, [cats, cat], toy, "intervene", off)
        photograph(browser, [cat, cats], toy, "compare", {"other": 1, "tab": "about"})
        photograph(browser, [verified], toy, "evidence", {"view": "evidence", "tab": "about"})
        folders = os.environ.get("CIRCUITLENS_SMOLLM2"), os.environ.get("CIRCUITLENS_SMOLLM2_SAES")
        if all(folders):
            model, saes = folders
            adapter = circuitlens.load("gpt2", model=model, saes=saes)
            circuit = circuitlens.find(adapter, "The cats", " run", " runs", "The cat")
            look = {"by": {"0": {"focus": strongest(circuit)}}}
            photograph(browser, [circuit], adapter, "smollm2", look)


def strongest(circuit: Circuit) -> str:
    """The feature of largest |attribution|."""
    return max((node for node in circuit.nodes if node.kind == "feature"), key=lambda node: abs(node.attribution)).id


def photograph(
    browser: Browser, circuits: Sequence[Circuit], adapter: Adapter, name: str, state: object, scheme: str = "light"
) -> None:
    """Photograph the page of circuits in a state, as its address has it."""
    viewer = server.start(circuits, adapters=[adapter])
    url = f"{viewer.url}#{quote(json.dumps(state))}"
    with opened(browser, url, color_scheme=scheme) as page:
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(800)  # transitions
        page.screenshot(path=IMAGES / f"{name}.png")
    viewer.close()


if __name__ == "__main__":
    main()
