"""Frozen mode: scores are those of a model whose attention patterns and norm scales are constants."""

from __future__ import annotations

from copy import copy
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import circuitlens
from circuitlens.adapter import Hook, Inputs
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.nodes import directions, score_nodes
from circuitlens.attribution.scores import conservation_residual
from circuitlens.errors import AdapterError
from circuitlens.runs import run_spliced
from circuitlens.testing import uncut_gradients
from circuitlens.tracing import trace
from tests.helpers import close
from tests.models import Freezable
from tests.oracles import moved
from tests.scores import matrix, several_answers
from tests.tiny_transformer import LAYERS, Layout, TinyTransformer


def held(adapter: Freezable, inputs: Inputs) -> Freezable:
    """The same model with the frozen hooks' values in `inputs` for constants."""
    values: dict[str, Tensor] = {}

    def note(name: str) -> Hook:
        return lambda x: values.update({name: x})

    adapter.run(inputs, {name: note(name) for name in adapter.frozen})
    assert len(values) == len(adapter.frozen) == 3 * LAYERS + 1
    constant = copy(adapter)
    constant.held = values
    return constant


@pytest.mark.parametrize("layout", get_args(Layout))
def test_frozen_scores_are_those_of_a_model_with_constant_values(layout: Layout, contrastive: bool) -> None:
    adapter = Freezable(layout)
    batch = several_answers(adapter, "log_probability")
    assert batch.corrupted is not None
    constant = held(adapter, batch.clean)
    # What is compared with stays the model's own run.
    other = trace(adapter, batch.corrupted, batch.metric, graph=False) if contrastive else None
    frozen, expected = (
        trace(adapter, batch.clean, batch.metric, frozen=True),
        trace(constant, batch.clean, batch.metric),
    )
    close(frozen.logits.detach(), batch.clean.at_last(adapter.run(batch.clean, {})))
    nodes, by_hand = score_nodes(frozen, other), score_nodes(expected, other)
    edges = score_edges(frozen, nodes)
    close(nodes.attribution, by_hand.attribution)
    close(matrix(nodes, edges), matrix(by_hand, score_edges(expected, by_hand)))
    assert conservation_residual(nodes, edges) < 1e-11
    for total, gradient in zip(nodes.totals, uncut_gradients(constant, batch), strict=True):
        close(total, gradient)
    free = score_nodes(trace(adapter, batch.clean, batch.metric), other)
    assert (free.attribution - nodes.attribution).abs().max() > 0.1


@pytest.mark.parametrize("layout", get_args(Layout))
def test_frozen_gradients_by_finite_difference(layout: Layout) -> None:
    """One node moved for real, while patterns and scales keep the values of the clean run."""
    adapter = Freezable(layout)
    batch = several_answers(adapter, "log_probability")
    constant, clean = held(adapter, batch.clean), trace(adapter, batch.clean, batch.metric, frozen=True)
    nodes = score_nodes(clean)
    inner = (nodes.site < len(clean.sites)).nonzero()[:, 0].tolist()
    for n in inner[:: len(inner) // 20]:
        s, b = int(nodes.site[n]), int(nodes.example[n])
        direction = directions(clean, nodes, s, torch.tensor([n]))[0]
        up, down = (
            batch.metric(run_spliced(constant, batch.clean, {adapter.sites[s].name: edit}))[b]
            for by in (1e-5, -1e-5)
            for edit in [moved(int(nodes.index[n]), b, int(nodes.pos[n]), by, direction)]
        )
        assert_close(nodes.gradient[n], (up - down) / 2e-5, atol=1e-7, rtol=1e-5)


def test_frozen_circuits_say_so() -> None:
    adapter = Freezable("components")
    frozen, free = (circuitlens.find(adapter, "a b c", "d", "e", "a b f", frozen=mode) for mode in (True, False))
    assert (frozen.frozen, free.frozen) == (True, False)
    assert frozen.metric == free.metric
    ours, theirs = ({n.id: n.attribution for n in c.nodes} for c in (frozen, free))
    assert max(abs(ours[name] - theirs.get(name, 0.0)) for name in ours) > 0.1
    assert frozen.conservation_residual < 1e-11


def test_an_adapter_without_frozen_hooks_has_no_frozen_mode() -> None:
    with pytest.raises(AdapterError, match="'tiny' has no frozen mode: it names no hooks to freeze"):
        circuitlens.find(TinyTransformer(), "a b c", "d", "e", frozen=True)
