"""Numbers and tokens as people read them, on the page and in sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence


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


def about(seconds: float) -> str:
    """A time that is not known exactly: of one digit."""
    if seconds < 2:
        return "a second or two"
    if seconds < 90:
        return f"about {float(f'{seconds:.1g}'):.0f} seconds"
    minutes = round(seconds / 60) if seconds < 600 else 10 * round(seconds / 600)
    return f"about {minutes} minutes"


def joined(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def cut(text: str, most: int) -> str:
    """The end of a long text, which the model answers to, from the beginning of a word on."""
    return text if len(text) <= most else f"… {text[-most:].partition(' ')[2] or text[-most:]}"
