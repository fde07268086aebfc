"""Adapters found by name, through the entry-point group `circuitlens.adapters`.

An adapter that comes with CircuitLens is found exactly as one from someone else's package: by the entry point its
distribution declares. Nothing is imported until an adapter is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from circuitlens.errors import AdapterError

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter

GROUP = "circuitlens.adapters"


@dataclass(frozen=True)
class Installed:
    """One adapter that an installed distribution declares; `target` is its class, as "module:name"."""

    name: str
    package: str
    version: str
    target: str


def installed_adapters() -> list[Installed]:
    """List the installed adapters by name, without importing them.

    Raises:
        AdapterError: two distributions declare an adapter of the same name.
    """
    found: dict[str, Installed] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("?", "?")
        known = found.setdefault(entry.name, Installed(entry.name, package, version, entry.value))
        if known.target != entry.value:
            raise AdapterError(
                f"Two packages declare an adapter named {entry.name!r}: {known.package} and {package}. "
                "Uninstall one of them."
            )
    return list(found.values())


def adapter_class(name: str) -> type[Adapter]:
    """Import the class of the adapter `name`.

    Raises:
        AdapterError: there is none of that name, or its module can't be imported, or is not an `Adapter`.
    """
    from circuitlens.adapter import Adapter

    adapters = {adapter.name: adapter for adapter in installed_adapters()}
    if name not in adapters:
        known = ", ".join(adapters) or "none"
        raise AdapterError(f"There is no adapter named {name!r}. Installed: {known}.")
    chosen = adapters[name]
    try:
        loaded = resolve_name(chosen.target)
    except Exception as error:
        raise AdapterError(
            f"The adapter {name!r} of {chosen.package} {chosen.version} can't be imported "
            f"({type(error).__name__}: {error}). Reinstall or update {chosen.package}."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Adapter)):
        raise AdapterError(
            f"The adapter {name!r} of {chosen.package} names {chosen.target}, which is not a subclass "
            "of circuitlens.Adapter. Its entry point has to name one."
        )
    return loaded


def load(name: str, **options: Any) -> Adapter:
    """Load the adapter `name` with its own options, e.g. `load("toy")`.

    Raises:
        AdapterError: there is no such adapter, or it can't be loaded with these options.
    """
    return adapter_class(name).load(**options)
