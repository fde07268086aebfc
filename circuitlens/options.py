"""Options that an adapter declares, so that the command line and the page can offer them before it is imported.

A distribution declares those of its adapter in the entry-point group `circuitlens.options`, under the adapter's name:

    [project.entry-points."circuitlens.options"]
    mine = "my_plugin.options:OPTIONS"

where `OPTIONS` is a tuple of `AdapterOption`, in a module that imports nothing large.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AdapterOption:
    """One keyword argument of an adapter's `load`, as people are to give it; left out, `load`'s own default holds.

    Args:
        name: the keyword.
        help: what it does, in a sentence.
        type: what its value is.
        choices: the texts it may be, where they are few.
        several: whether it may be given several times; `load` gets them as a list.
        flag: its flag on the command line, by default the name with hyphens; a `bool` has a `--no-` flag as well.
    """

    name: str
    help: str
    type: type[str] | type[int] | type[float] | type[bool] = str
    choices: tuple[str, ...] = ()
    several: bool = False
    flag: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"the option {self.name!r} is no keyword: give a Python name")
        if not self.flag:
            object.__setattr__(self, "flag", f"--{self.name.replace('_', '-')}")

    def parse(self, text: str) -> str | int | float:
        """The value that a typed text stands for; a `bool` is never typed.

        Raises:
            ValueError: the text is none of the choices, or no number.
        """
        if self.choices and text not in self.choices:
            raise ValueError(f"{text!r} is not one of {', '.join(self.choices)}.")
        try:
            return self.type(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a {'whole number' if self.type is int else 'number'}.") from None
