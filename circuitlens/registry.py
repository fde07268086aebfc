"""Adapters found by name, through the entry-point groups `circuitlens.adapters` and `circuitlens.options`.

An adapter that comes with CircuitLens is found exactly as one from someone else's package: by the entry points its
distribution declares. Nothing is imported until an adapter is loaded; its declared options are read without it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from circuitlens.errors import AdapterError, CircuitLensError
from circuitlens.options import AdapterOption

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter, Release

log = logging.getLogger(__name__)

GROUP = "circuitlens.adapters"
OPTIONS_GROUP = "circuitlens.options"
ALIASES = {"gpt2": "transformerlens"}
"""Names that adapters had, and the names that they have now; the older ones are taken still, in files too."""


@dataclass(frozen=True, order=True)
class Installed:
    """One adapter that an installed distribution declares; `target` is its class, as "module:name"."""

    name: str
    package: str
    version: str
    target: str


def installed_adapters() -> list[Installed]:
    """List the installed adapters by name, without importing them; a name that two packages declare is there twice."""
    found = set()
    for entry in entry_points(group=GROUP):
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("?", "?")
        found.add(Installed(entry.name, package, version, entry.value))
    return sorted(found)


def declared_options() -> dict[str, tuple[AdapterOption, ...]]:
    """The options that installed adapters declare, by the adapter's name; no adapter is imported for them.

    A declaration that can't be read is left out, with a warning: its adapter still loads from Python.
    """
    declared: dict[str, tuple[AdapterOption, ...]] = {}
    for name, target in sorted({(entry.name, entry.value) for entry in entry_points(group=OPTIONS_GROUP)}):
        try:
            options = tuple(resolve_name(target))
            if not all(isinstance(option, AdapterOption) for option in options):
                raise TypeError("not every one is an AdapterOption")
            if len({option.flag for option in options}) < len(options):
                raise ValueError("two of them have one flag")
            declared[name] = options
        except Exception as error:  # of someone else's module: the other adapters' options are worth having still
            log.warning("The options of the adapter %r can't be read from %s: %s.", name, target, error)
    return declared


def load(name: str, **options: Any) -> Adapter:
    """Load the adapter `name`, or of that older name, with its own options, e.g. `load("toy")`.

    Raises:
        AdapterError: there is none of that name, or more than one; it can't be imported; it is not an `Adapter`; or it
            can't be loaded with these options.
    """
    loaded, chosen = _class_of(ALIASES.get(name, name))
    try:
        return loaded.load(**options)
    except CircuitLensError:
        raise
    except Exception as error:
        raise _broken(chosen, error) from error


def releases(model: str | None = None) -> list[Release]:
    """The published SAEs that installed adapters load by name, or those for models whose names hold `model`.

    Raises:
        AdapterError: an adapter can't be imported.
    """
    names = dict.fromkeys(adapter.name for adapter in installed_adapters())
    return [release for name in names for release in _class_of(name)[0].releases(model)]


def _class_of(name: str) -> tuple[type[Adapter], Installed]:
    """The adapter of that name, imported, and who declares it."""
    from circuitlens.adapter import Adapter

    adapters = installed_adapters()
    found = [adapter for adapter in adapters if adapter.name == name]
    if not found:
        known = ", ".join(adapter.name for adapter in adapters) or "none"
        raise AdapterError(f"There is no adapter named {name!r}. Installed: {known}.")
    if len(found) > 1:
        packages = " and ".join(adapter.package for adapter in found)
        raise AdapterError(
            f"There is more than one adapter named {name!r}: {packages} declare it. Uninstall all but one."
        )
    (chosen,) = found
    try:
        found_class = resolve_name(chosen.target)
    except CircuitLensError:
        raise
    except Exception as error:
        raise _broken(chosen, error) from error
    if isinstance(found_class, type) and issubclass(found_class, Adapter):
        return found_class, chosen
    raise AdapterError(
        f"{_whole_name(chosen)} names {chosen.target}, which is not a subclass of circuitlens.Adapter. Its entry point "
        "has to name one."
    )


def _whole_name(adapter: Installed) -> str:
    return f"The adapter {adapter.name!r} of {adapter.package} {adapter.version}"


def _broken(adapter: Installed, error: Exception) -> AdapterError:
    return AdapterError(
        f"{_whole_name(adapter)} can't be loaded ({type(error).__name__}: {error}). Reinstall or update "
        f"{adapter.package}."
    )
