"""The toy plugin: subject-verb agreement in a tiny network. Its adapter, which needs torch, resolves on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlens_toy.adapter import ToyAdapter

__all__ = ["ToyAdapter"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from circuitlens_toy import adapter

        return getattr(adapter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
