"""Models by their options: what one is called, whether options are alike, and what a file claims of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from circuitlens.claims import Unsaid
from circuitlens.errors import ViewerError
from circuitlens.report.text import plain


def model_name(adapter: str, options: Mapping[str, object]) -> str:
    """What a model is called that an adapter loaded with these options: of a folder the last part."""
    named = str(options.get("model") or "").rstrip("/\\")
    return plain(re.split(r"[/\\]", named)[-1]) or adapter


def as_kept(value: object) -> object:
    """An option's value as an adapter keeps it: several are one text."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def refuse(wrong: Unsaid | None) -> None:
    """Say what a file claims and nobody said."""
    if wrong is None:
        return
    if wrong.options:
        raise ViewerError(f"This circuit {wrong}: if you trust its file, give these yourself under Intervene.")
    raise ViewerError(f"This circuit {wrong}: no options load its model alike. Was its file edited?")
