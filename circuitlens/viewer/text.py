"""Numbers and tokens as the page writes them."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """A text with what can't be printed spelled out, such as marks that turn the direction of what follows."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def visible(token: str) -> str:
    """A token with spaces at its ends and what can't be printed made visible."""
    return re.sub(r"^ +| +$", lambda spaces: "␣" * len(spaces[0]), plain(token))


def count(number: int) -> str:
    """A whole number in groups of three digits."""
    return f"{number:,}".replace(",", "\u202f")


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """A probability as people read it."""
    return f"{100 * value:.1f} %" if value >= 0.01 else f"{100 * value:.2f} %" if value >= 0.0001 else "< 0.01 %"
