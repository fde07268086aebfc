"""Options that an adapter declares, so that the command line and the page can offer them without importing it.

A distribution declares the options of its adapter in the entry-point group `circuitlens.options`, under the name that
the adapter has in `circuitlens.adapters`:

    [project.entry-points."circuitlens.options"]
    mine = "my_plugin.options:OPTIONS"

`OPTIONS` is a tuple of `AdapterOption`. Importing `my_plugin.options` imports `my_plugin` first, so neither may import
torch at its top: `examples/plugin` keeps the adapter in a module of its own, beside `options.py`.

`circuitlens find` and `circuitlens verify` turn each option into a flag and call `load` with those that were given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class AdapterOption:
    """One keyword argument of an adapter's `load`; where it is not given, `load`'s own default holds.

    Args:
        name: the keyword.
        help: what it does, in a sentence.
        type: what its value is.
        choices: the texts it may be, where they are few.
        several: whether it may be given several times; `load` gets the values as a list.
        default: what holds where it is not given, if that is one value whatever the other options are. A circuit that
            was found with another value is not loaded unless a person gives it.
        flag: its flag on the command line, by default the name with hyphens; a `bool` has a `--no-` flag as well.

    Raises:
        ValueError: `name` is no keyword, or `flag` is not spelled `--like-this`.
    """

    name: str
    help: str
    type: type[str] | type[int] | type[float] | type[bool] = str
    choices: tuple[str, ...] = ()
    several: bool = False
    flag: str = ""
    default: str | int | float | bool | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"the option {self.name!r} is no keyword: give a Python name")
        if not self.flag:
            object.__setattr__(self, "flag", f"--{self.name.replace('_', '-')}")
        if not re.fullmatch(r"--[a-z][a-z0-9]*(-[a-z0-9]+)*", self.flag):
            raise ValueError(f"the option {self.name!r} has the flag {self.flag!r}: spell it --like-this")

    def flags(self, value: object) -> list[str]:
        """The words of a command line that give the option a value, one that a circuit's file has."""
        if self.type is bool:
            return [self.flag if value else f"--no-{self.flag.removeprefix('--')}"]
        # A circuit's file has several in one text.
        texts = str(value).split(", ") if self.several else [str(value)]
        return [word for text in texts for word in (self.flag, text)]

    def parse(self, text: str) -> str | int | float:
        """The value that a typed text stands for; a `bool` is never typed.

        Raises:
            ValueError: the text is none of the choices, or no number.
        """
        if self.choices and text not in self.choices:
            raise ValueError(f"{text!r} is not one of {', '.join(self.choices)}.")
        try:
            value = self.type(text)
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(text)
            return value
        except ValueError:
            raise ValueError(f"{text!r} is not a {'whole number' if self.type is int else 'number'}.") from None
