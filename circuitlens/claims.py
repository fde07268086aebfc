"""What a circuit's file says its adapter was loaded with: a claim to compare, never an instruction.

A file may come from anyone. Names and folders in it would decide what is read, written and downloaded here, so these
come from the person who loads the adapter. Numbers and switches that the adapter declares name nothing outside it: they
are taken from the file where nobody says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from circuitlens.options import AdapterOption
from circuitlens.registry import declared_options

Claims = Mapping[str, str | int | float | bool | None]

INDIFFERENT = {"device", "dtype"}
"""Options that say where and how exactly is computed, and not what."""


def harmless(adapter: str, claims: Claims) -> dict[str, object]:
    """Those of a file's claims that an adapter may be loaded with unasked."""
    declared = {option.name: option for option in declared_options().get(adapter, ())}
    return {name: value for name, value in claims.items() if name in declared and _is_plain(declared[name], value)}


@dataclass(frozen=True)
class Unsaid:
    """Claims of a circuit's file that do not hold.

    `options` with their values are what a person would have to give so that they do; none where nothing would help.
    """

    claims: Claims
    options: tuple[tuple[AdapterOption, object], ...]

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value!r:.200}" for name, value in self.claims.items())
        return f"was found with {told}, and a file does not choose what is loaded"


def unsaid(
    adapter: str, claims: Claims, given: Mapping[str, object], loaded: Mapping[str, object] | None = None
) -> Unsaid | None:
    """What a file claims and nobody said, None where all of it holds.

    Args:
        adapter: the adapter's name.
        claims: the options in the circuit's file.
        given: the options that the adapter is loaded with.
        loaded: what it says of itself, once it is loaded; before, claims are set against the declared defaults.
    """
    declared = {option.name: option for option in declared_options().get(adapter, ())}
    defaults = {name: option.default for name, option in declared.items() if option.default is not None}
    if loaded is None:
        wrong = {name for name in claims if name in defaults and name not in given and defaults[name] != claims[name]}
    else:
        wrong = {name for name in claims if loaded.get(name, defaults.get(name)) != claims[name]}
    wrong -= INDIFFERENT
    if not wrong:
        return None
    # With those that are wrong, all that nobody said: a name may stand for something else beside another option.
    options = [
        (declared[name], claims[name]) for name in declared if name in claims and (name in wrong or name not in given)
    ]
    helpful = wrong <= {option.name for option, _ in options} and (
        loaded is None or wrong <= loaded.keys() | defaults.keys()
    )
    needed = tuple((option, value) for option, value in options if option.name != "device")
    return Unsaid({name: claims[name] for name in claims if name in wrong}, needed if helpful else ())


def _is_plain(option: AdapterOption, value: object) -> bool:
    """Whether a value is the number or switch that an option takes."""
    if option.several or option.choices or isinstance(value, bool) != (option.type is bool):
        return False
    return option.type is not str and isinstance(value, (int, float) if option.type is float else option.type)
