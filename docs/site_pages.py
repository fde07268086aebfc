"""What the site (`make site`) shows beside the pages of this folder: README.md, the reference, and the files linked to.

Links are written so that they work in the repository. In the site a link out of this folder leads to a copy.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import circuitlens

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the repository's root, and what they are called in the site."""

RETURNED = (
    "evaluation.intervention.Ablation",
    "evaluation.intervention.Outcome",
    "evaluation.continuation.Continuation",
    "evaluation.features.Feature",
    "circuit.evidence.Evidence",
    "circuit.evidence.Check",
    "circuit.meaning.Meaning",
    "circuit.annotations.Annotations",
)
"""What the functions return and take, beside the public values."""

ADAPTERS = (
    "adapter.Site",
    "adapter.Inputs",
    "adapter.Example",
    "coder.SparseCoder",
    "coder.IdentityCoder",
    "options.AdapterOption",
    "testing",
)
"""What those who write an adapter import."""

OUTWARDS = re.compile(r"\]\(\.\./([^)#]+)")
"""A link out of this folder."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in this folder, and each file outside of it that a page links to."""
    for path, name in PAGES.items():
        files.append(File.generated(config, name, content=_rebased((ROOT / path).read_text())))
    files.append(File.generated(config, "reference.md", content=reference()))
    linked = {path for page in files.documentation_pages() for path in OUTWARDS.findall(page.content_string)}
    for path in linked - set(PAGES):
        files.append(File.generated(config, f"source/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Have links out of this folder lead to the copies."""
    return OUTWARDS.sub(lambda link: f"]({PAGES.get(link[1], f'source/{link[1]}')}", markdown)


def reference() -> str:
    """A page with the docstring of every public function and value."""
    public = sorted(circuitlens._PUBLIC)
    parts = {
        "Functions": [*filter(str.islower, public), "corpus.build", "corpus.read"],
        "Values": [*(name for name in public if not name.islower()), *RETURNED],
        "For adapters": ADAPTERS,
    }
    lines = ["# Every function", "", "Made from the docstrings. [Python](python.md) shows them in use."]
    for title, names in parts.items():
        lines += ["", f"## {title}", ""]
        lines += [f"::: circuitlens.{name}" for name in names]
    return "\n".join(lines)


def _rebased(markdown: str) -> str:
    """A page of the repository's root, as if it stood in this folder."""
    return re.sub(r"\]\((?!https?:|#)(docs/)?", lambda link: "](" if link[1] else "](../", markdown)
