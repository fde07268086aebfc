"""Make the README's pictures of the page: `make images`. Needs an installed Chromium or Chrome."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import circuitlens
from circuitlens.viewer import server
from tests.browser import chromium, find_chromium, place, wait_drawn

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Photograph the demo's page with the strongest path's feature in focus, light and dark."""
    executable = find_chromium()
    if executable is None:
        sys.exit("There is no Chromium or Chrome: install one, or name it in CIRCUITLENS_CHROMIUM.")
    toy = circuitlens.load("toy")
    cat = circuitlens.find(toy, "The cat", "runs", "run")
    cats = circuitlens.find(toy, "The cats", "run", "runs")
    (feature,) = [node for node in cats.strongest_path().nodes if node.kind == "feature"]
    IMAGES.mkdir(exist_ok=True)
    viewer = server.start([cats, cat])
    with chromium(executable) as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme=scheme)
            page.goto(viewer.url)
            wait_drawn(page)
            page.mouse.click(*place(page, feature.id))
            page.wait_for_selector("#detail h2")
            page.mouse.move(5, 5)
            page.wait_for_timeout(500)  # transitions
            page.screenshot(path=IMAGES / f"toy-{scheme}.png")
    viewer.close()


if __name__ == "__main__":
    main()
