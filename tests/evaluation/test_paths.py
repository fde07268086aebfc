"""What a chain of nodes carries by itself: of a linear model, by hand, and over many prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter, Site, SparseCoder
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError
from circuitlens.evaluation.paths import path_effect
from circuitlens.literals import MethodName
from tests.circuits import PAIRS, example_circuit, toy_circuit
from tests.models import Linear, Total
from tests.tiny_transformer import Layout, TinyTransformer


@pytest.mark.parametrize("method", get_args(MethodName))
def test_of_a_linear_model_the_estimate_is_the_effect(method: MethodName) -> None:
    adapter = Linear()
    path = path_effect(adapter, example_circuit(adapter, method, max_nodes=None, max_edges=None))
    assert len(path.nodes) > 4
    assert abs(path.weight) > 0.1
    assert path.measured == pytest.approx(path.weight, abs=1e-9)


def test_from_zero_by_hand(toy64: Any) -> None:
    """The input "plural" at 0 moves one hidden neuron through its ReLU, that one feature, and that the logits."""
    circuit = toy_circuit(toy64, "The cats")
    path = path_effect(toy64, circuit)
    inputs, neuron, feature, _ = (node.index for node in path.nodes)
    model, sae, x = toy64.model, toy64.sae, toy64.inputs(["The cats"]).values
    without = x.clone()
    without[..., inputs] = 0
    h, lower = (model.relu(model.hidden(values)) for values in (x, without))
    moved = h.clone()
    moved[..., neuron] = lower[..., neuron]
    by = (sae.encode(moved) - sae.encode(h))[..., feature]
    f = sae.encode(h)
    less = f.clone()
    less[..., feature] += by
    before, after = (model.output(values)[0, 0] for values in (h, h + sae.decode(less) - sae.decode(f)))
    fallen = (before - after)[1] - (before - after)[0]
    assert path.measured == pytest.approx(fallen.item(), abs=1e-9)
    assert fallen > 1


def held_run(adapter: Adapter, prompt: str, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """What flows into each hook, and the last logits, of a run in which sites write these values."""
    seen: dict[str, Tensor] = {}

    def at(name: str, x: Tensor) -> Tensor | None:
        seen[f"into {name}"] = x
        seen[name] = values.get(name, x)
        return values.get(name)

    names = {name for site in adapter.sites for name in (site.read, site.write)}
    logits = adapter.run(adapter.inputs([prompt]), {name: lambda x, name=name: at(name, x) for name in names})
    return seen, logits[0, -1]


def value_of(site: Site, node: Node, seen: Mapping[str, Tensor]) -> Tensor:
    """A feature's value, or an error's vector, by what flowed into its site."""
    read = seen[f"into {site.read}"] if site.read == site.write else seen[site.read]
    if site.coder is None:
        return seen[f"into {site.write}"][0, node.pos]
    f = site.coder.encode(read)
    decoded = site.coder.decode(f)
    if node.index is None:
        return (seen[f"into {site.write}"] - decoded)[0, node.pos]
    return f[0, node.pos, node.index]


def decoded_here(coder: SparseCoder, read: Tensor, here: Tensor) -> Tensor:
    """The features of `read`, decoded with the coder's state as at `here`."""
    f = coder.encode(read)
    coder.decode(f)
    coder.encode(here)
    return coder.decode(f)


def carried(adapter: Adapter, chain: tuple[Node, ...], here: str, there: str) -> Tensor:
    """The logits of the prompt `here` once the chain is moved to the prompt `there`."""
    sites = {site.write: site for site in adapter.sites}
    plain, _ = held_run(adapter, here, {})
    other, _ = held_run(adapter, there, {})
    now, logits = other, torch.empty(0)
    for n, node in enumerate(chain):
        site = sites[node.hook]
        change = value_of(site, node, now) - value_of(site, node, plain)
        if node.index is None and n == 0 and site.coder is not None:  # all that its features' change does not write
            written = [decoded_here(site.coder, seen[site.read], plain[site.read]) for seen in (other, plain)]
            change = (other[site.write] - plain[site.write] - written[0] + written[1])[0, node.pos]
        written = plain[site.write].clone()
        if node.index is None:
            written[0, node.pos] += change
        else:
            coder: Any = site.coder
            rows = coder.decoder_rows(plain[site.read][:, node.pos], torch.tensor([node.index]))
            written[0, node.pos] += change * rows[0]
        now, logits = held_run(adapter, here, {**{name: plain[name] for name in sites}, site.write: written})
    return logits


@pytest.mark.parametrize("method", ["contrastive", "ig"])
@pytest.mark.parametrize("layout", get_args(Layout))
def test_from_the_corrupted_run_by_hand(layout: Layout, method: MethodName) -> None:
    """There and back: the mean of what the chain takes from the clean run, and what it brings to the corrupted one."""
    adapter = TinyTransformer(layout)
    circuit = example_circuit(adapter, method)
    path = path_effect(adapter, circuit)
    chain = path.nodes[:-1]
    assert len(chain) > 2
    down, up = carried(adapter, chain, "a b c", "a b f"), carried(adapter, chain, "a b f", "a b c")
    value, start = circuit.metric.value, circuit.metric.corrupted_value
    assert start is not None
    fallen, risen = value - (down[4] - down[5]).item(), (up[4] - up[5]).item() - start
    assert path.measured == pytest.approx((fallen + risen) / 2, abs=1e-9)
    assert abs(fallen + risen) > 1e-6


def test_over_many_prompts_it_is_the_mean() -> None:
    adapter = TinyTransformer("components")
    circuit = circuitlens.aggregate(adapter, PAIRS[:3], "contrastive", max_nodes=60)
    single = [circuit.model_copy(update={"pairs": (pair,), "fingerprint": None}) for pair in PAIRS[:3]]
    alone = [path_effect(adapter, each).measured or 0.0 for each in single]
    assert path_effect(adapter, circuit).measured == pytest.approx(sum(alone) / 3, abs=1e-9)


def test_what_an_adapter_puts_before_a_prompt_is_not_set_to_zero() -> None:
    adapter = Total()
    path = path_effect(adapter, example_circuit(adapter))
    assert path.nodes[0].pos == 0
    assert path.measured is None


def test_what_can_not_be_measured(toy: Adapter, cats: Circuit) -> None:
    alone = cats.prune(max_edges=0)
    assert (path_effect(toy, alone).weight, path_effect(toy, alone).measured) == (0, 0)
    with pytest.raises(CircuitError, match="made with 'toy'"):
        path_effect(TinyTransformer(), cats)
    nodes = tuple(node for node in cats.nodes if not node.is_logit)
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    with pytest.raises(CircuitError, match="no logit node"):
        path_effect(toy, Circuit(**{**fields, "nodes": nodes, "edges": ()}))
