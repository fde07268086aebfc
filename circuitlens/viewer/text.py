"""Numbers and tokens as the page writes them."""

from __future__ import annotations

import re


def visible(token: str) -> str:
    """A token with spaces at its ends and what can't be printed made visible."""
    if not token.isprintable():
        token = repr(token)[1:-1]
    return re.sub(r"^ +| +$", lambda spaces: "␣" * len(spaces[0]), token)


def count(number: int) -> str:
    """A whole number in groups of three digits."""
    return f"{number:,}".replace(",", "\u202f")


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """A probability as people read it."""
    return f"{100 * value:.1f} %" if value >= 0.01 else f"{100 * value:.2f} %" if value >= 0.0001 else "< 0.01 %"
