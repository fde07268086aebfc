"""The SAE-Lens plugin: TransformerLens models with SAE-Lens SAEs, from a notebook (`wrap`) or by name.

Its names resolve on first use: the command line reads `options` from here, and sae-lens takes seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlens_saelens.adapter import SAELensAdapter, wrap

__all__ = ["SAELensAdapter", "wrap"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from circuitlens_saelens import adapter

        return getattr(adapter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
