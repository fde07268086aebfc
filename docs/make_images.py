"""Make the pictures of README.md and docs/: `make images`. Needs an installed Chromium or Chrome.

That of a real model is made where CIRCUITLENS_SMOLLM2 and CIRCUITLENS_SMOLLM2_SAES name its folders.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parent.parent))

from playwright.sync_api import Browser

import circuitlens
from circuitlens import corpus
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.viewer import server
from tests.browser import chromium, find_chromium, opened

IMAGES = Path(__file__).parent / "images"
LONG = (
    "Yesterday morning, after the heavy rain had finally stopped and the streets were empty again, my neighbour told "
    "me quietly that the {} in the old wooden cabinet"
)
PROMPTS = {
    "smollm2": ("The cats", "The cat", " run", " runs"),
    "smollm2-12": (
        "The keys that the old man near the cabinet had lost",
        "The key that the old man near the cabinet had lost",
        " are",
        " is",
    ),
    "smollm2-32": (LONG.format("keys"), LONG.format("key"), " were", " was"),
}
"""Prompts of 3, 12 and 32 tokens: prompt, corrupted, answer and distractor."""


def main() -> None:
    """Photograph the page: in focus, light and dark, an intervention, a comparison, evidence, and a real model."""
    executable = find_chromium()
    if executable is None:
        sys.exit("There is no Chromium or Chrome: install one, or name it in CIRCUITLENS_CHROMIUM.")
    with chromium(executable) as browser, TemporaryDirectory() as home:
        photograph_toy(browser, Path(home))
        model, saes = (os.environ.get(f"CIRCUITLENS_{name}") for name in ("SMOLLM2", "SMOLLM2_SAES"))
        if model and saes:
            photograph_smollm2(browser, Path(home), model, saes)


def photograph_toy(browser: Browser, home: Path) -> None:
    """The page as it opens, light and dark, an intervention, a comparison, and evidence."""
    toy = circuitlens.load("toy")
    sample = corpus.build(toy, home / "toy")
    cat = circuitlens.find(toy, "The cat", "runs", "run", "The cats")
    cats = circuitlens.verify(toy, circuitlens.find(toy, "The cats", "run", "runs", "The cat"))
    cat, cats = (circuitlens.label(circuit, toy, corpus=sample) for circuit in (cat, cats))
    for scheme in ("light", "dark"):
        photograph(browser, [cats, cat], toy, f"toy-{scheme}", {}, scheme)
    focus = strongest(cats)
    off = {"tab": "ask", "by": {"0": {"focus": focus, "settings": [[focus, 0]]}}}
    photograph(browser, [cats, cat], toy, "intervene", off)
    photograph(browser, [cat, cats], toy, "compare", {"other": 1})
    photograph(browser, [cats], toy, "evidence", {"view": "evidence"})


def photograph_smollm2(browser: Browser, home: Path, model: str, saes: str) -> None:
    """The page of a real model as it opens, for prompts of 3, 12 and 32 tokens."""
    adapter = circuitlens.load("transformerlens", model=model, saes=saes)
    sample = corpus.build(adapter, home / "smollm2")
    for name, (prompt, corrupted, answer, distractor) in PROMPTS.items():
        circuit = circuitlens.verify(adapter, circuitlens.find(adapter, prompt, answer, distractor, corrupted))
        circuit = circuitlens.label(circuit, adapter, corpus=sample)
        for scheme in ("light", "dark"):
            end = "" if scheme == "light" else "-dark"
            photograph(browser, [circuit], adapter, f"{name}{end}", {}, scheme)


def strongest(circuit: Circuit) -> str:
    """The feature of largest |attribution| of those that are active on the prompt, and can be switched off."""
    active = [node for node in circuit.nodes if node.kind == "feature" and node.activation]
    return max(active, key=lambda node: abs(node.attribution)).id


def photograph(
    browser: Browser, circuits: Sequence[Circuit], adapter: Adapter, name: str, state: object, scheme: str = "light"
) -> None:
    """Photograph the page of circuits in a state, as its address has it."""
    viewer = server.start(circuits, adapters=[adapter])
    url = f"{viewer.url}#{quote(json.dumps(state))}"
    with opened(browser, url, color_scheme=scheme) as page:
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(2500)  # transitions, and what the model says without the core
        page.screenshot(path=IMAGES / f"{name}.png")
    viewer.close()


if __name__ == "__main__":
    main()
