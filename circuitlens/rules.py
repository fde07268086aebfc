"""The rules of relevance on a run's hooks: values as they are, with other derivatives in the place of the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from circuitlens.adapter import ActivationFunction, Hook, RelevanceRules


def by_rules(rules: RelevanceRules, hooks: Mapping[str, Hook]) -> dict[str, Hook]:
    """The sites' hooks with those of the rules: a cut comes after what takes a value's place, and before what is seen
    of it, so that it cuts both.
    """
    seen: dict[str, Tensor] = {}
    placed: list[tuple[str, Hook]] = [(name, torch.Tensor.detach) for name in rules.held]
    placed += [(at.post, partial(_secant, at, seen)) for at in rules.activations]
    placed += list(hooks.items())
    for at in rules.activations:
        factors = [name for name in (at.pre, at.linear) if name is not None]
        placed += [(name, lambda x, name=name: seen.__setitem__(name, x)) for name in factors]
    joined: dict[str, list[Hook]] = {}
    for name, hook in placed:
        joined.setdefault(name, []).append(hook)
    return {name: partial(_in_turn, each) for name, each in joined.items()}


def _secant(at: ActivationFunction, seen: dict[str, Tensor], x: Tensor) -> Tensor:
    """`x` itself, with the derivative `x / factor` in each of its factors, halved where there are two; 0 where a factor
    is 0.
    """
    held, factors = x.detach(), [seen.pop(name) for name in (at.pre, at.linear) if name is not None]
    moved = torch.zeros_like(held)
    for factor in factors:
        value = factor.detach()
        slope = (held / value).masked_fill(value == 0, 0) / len(factors)
        moved = moved + slope * (factor - value)  # exactly 0
    return held + moved


def _in_turn(hooks: Sequence[Hook], x: Tensor) -> Tensor | None:
    """What the hooks make of `x`, one after the other; None where they leave it."""
    changed = None
    for hook in hooks:
        y = hook(x)
        if y is not None:
            x = changed = y
    return changed
