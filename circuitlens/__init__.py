"""CircuitLens finds, checks and shows feature circuits; names resolve on first use, so that importing it is quick."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlens_saelens import wrap as wrap

    from circuitlens.adapter import Adapter as Adapter
    from circuitlens.circuit import Circuit as Circuit
    from circuitlens.circuit import CircuitPath as CircuitPath
    from circuitlens.circuit import Edge as Edge
    from circuitlens.circuit import Node as Node
    from circuitlens.circuit import open_circuit as open  # noqa: F401
    from circuitlens.circuit import suggest_groups as suggest_groups
    from circuitlens.discovery import aggregate as aggregate
    from circuitlens.discovery import find as find
    from circuitlens.errors import CircuitLensError as CircuitLensError
    from circuitlens.evaluation.continuation import continue_text as continue_text
    from circuitlens.evaluation.features import describe as describe
    from circuitlens.evaluation.heads import with_heads as with_heads
    from circuitlens.evaluation.intervention import ablate as ablate
    from circuitlens.evaluation.intervention import intervene as intervene
    from circuitlens.evaluation.paths import path_effect as path_effect
    from circuitlens.evaluation.verification import verify as verify
    from circuitlens.interchange.graph_json import write_graph as write_graph
    from circuitlens.interchange.graph_reading import read_graph as read_graph
    from circuitlens.interchange.networks import from_networkx as from_networkx
    from circuitlens.meaning.labelling import label as label
    from circuitlens.prompts.pairs import Pair as Pair
    from circuitlens.prompts.pairs import read_pairs as read_pairs
    from circuitlens.registry import load as load
    from circuitlens.viewer import view as view

_PUBLIC = {
    "Adapter": ("circuitlens.adapter", "Adapter"),
    "Circuit": ("circuitlens.circuit", "Circuit"),
    "CircuitLensError": ("circuitlens.errors", "CircuitLensError"),
    "CircuitPath": ("circuitlens.circuit", "CircuitPath"),
    "Edge": ("circuitlens.circuit", "Edge"),
    "Node": ("circuitlens.circuit", "Node"),
    "aggregate": ("circuitlens.discovery", "aggregate"),
    "Pair": ("circuitlens.prompts.pairs", "Pair"),
    "ablate": ("circuitlens.evaluation.intervention", "ablate"),
    "continue_text": ("circuitlens.evaluation.continuation", "continue_text"),
    "describe": ("circuitlens.evaluation.features", "describe"),
    "find": ("circuitlens.discovery", "find"),
    "from_networkx": ("circuitlens.interchange.networks", "from_networkx"),
    "intervene": ("circuitlens.evaluation.intervention", "intervene"),
    "label": ("circuitlens.meaning.labelling", "label"),
    "load": ("circuitlens.registry", "load"),
    "open": ("circuitlens.circuit", "open_circuit"),
    "path_effect": ("circuitlens.evaluation.paths", "path_effect"),
    "read_graph": ("circuitlens.interchange.graph_reading", "read_graph"),
    "read_pairs": ("circuitlens.prompts.pairs", "read_pairs"),
    "suggest_groups": ("circuitlens.circuit", "suggest_groups"),
    "verify": ("circuitlens.evaluation.verification", "verify"),
    "view": ("circuitlens.viewer", "view"),
    "with_heads": ("circuitlens.evaluation.heads", "with_heads"),
    "write_graph": ("circuitlens.interchange.graph_json", "write_graph"),
    "wrap": ("circuitlens_saelens", "wrap"),
}
# Not `open`: a star import must not hide the built-in.
__all__ = [name for name in _PUBLIC if name != "open"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("circuitlens.distribution").installed_version()
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        value = globals()[name] = getattr(import_module(module), attribute)
        return value
    raise AttributeError(f"module 'circuitlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
