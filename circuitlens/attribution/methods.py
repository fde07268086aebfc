"""The attribution methods, an entry each; the classes behind them are imported on use.

A new method is a class in a module of its own (`base.AttributionMethod`), its name in `literals.MethodName`, and an
entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal, cast

from circuitlens.errors import PromptError
from circuitlens.literals import MethodName

if TYPE_CHECKING:
    from circuitlens.attribution.base import AttributionMethod


@dataclass(frozen=True)
class MethodEntry:
    """What is to be known of a method without running it.

    Args:
        summary: what it measures, in words that "from zero" or "from the corrupted prompt" can follow.
        target: its class, as "module:name".
        baseline: what it measures from; "either" is the corrupted run where there is one, else zero.
        freezes: whether it goes with frozen mode, which holds parts of the model.
        has_gaps: whether it tells how much its nodes miss of the metric's change.
        measures: whether it sets the kept nodes to their baseline for real.
        rules: whether its runs have the adapter's rules of relevance in the place of derivatives.
    """

    summary: str
    target: str
    baseline: Literal["zero", "corrupted", "either"]
    freezes: bool = False
    has_gaps: bool = False
    measures: bool = False
    rules: bool = False


METHODS: Mapping[MethodName, MethodEntry] = {
    "gradient": MethodEntry("change", "circuitlens.attribution.gradient:Gradient", "zero", freezes=True),
    "contrastive": MethodEntry("change", "circuitlens.attribution.gradient:Gradient", "corrupted", freezes=True),
    "relp": MethodEntry(
        "change by rules of relevance",
        "circuitlens.attribution.relevance:RelevancePropagation",
        "corrupted",
        rules=True,
    ),
    "path": MethodEntry(
        "change on one way for all sites", "circuitlens.attribution.path:Path", "corrupted", has_gaps=True
    ),
    "ig": MethodEntry(
        "gradients integrated on the way",
        "circuitlens.attribution.integrated:IntegratedGradients",
        "either",
        has_gaps=True,
    ),
    "exact": MethodEntry(
        "measured change", "circuitlens.attribution.exact:Exact", "either", has_gaps=True, measures=True
    ),
}

DEFAULT: MethodName = "path"
"""The method where there are corrupted prompts and none is asked for: docs/evidence.md shows why."""


def choose_method(method: str | None, corrupted: bool, frozen: bool = False) -> MethodName:
    """The method to use, by default `path` where there are corrupted prompts, else `gradient`.

    Raises:
        PromptError: there is no such method, or it does not go with what is given.
    """
    method = method or (DEFAULT if corrupted and not frozen else "contrastive" if corrupted else "gradient")
    if method not in METHODS:
        raise PromptError(f"There is no method {method!r}: choose one of {', '.join(METHODS)}.")
    entry = METHODS[cast(MethodName, method)]
    if entry.baseline == "corrupted" and not corrupted:
        raise PromptError(f"The method {method!r} compares with a corrupted prompt: give one, or use 'gradient'.")
    if frozen and not entry.freezes:
        others = " or ".join(repr(name) for name, entry in METHODS.items() if entry.freezes)
        raise PromptError(
            f"The method {method!r} measures the model as it is, and frozen mode holds parts of it: leave frozen out, "
            f"or use {others}."
        )
    return cast(MethodName, method)


def measures_edges(method: MethodName, corrupted: bool) -> bool:
    """Whether the strongest edges are measured unless one says otherwise."""
    return method == DEFAULT and corrupted


def make_method(name: MethodName) -> AttributionMethod:
    """The method of that name."""
    return resolve_name(METHODS[name].target)()
