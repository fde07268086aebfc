"""What one chain of nodes carries by itself in the real model: path patching along the whole chain.

The first node is moved to where attribution measures from, and only the chain's nodes respond, in turn: with every
site's output held at its value, what the last moved node does to the next one is read there, and that one alone is
moved by it; what reaches the logits from the last moves the metric. The same is done in the corrupted run with clean
values, and the effect is the mean of both: what a chain loses by itself and what it restores by itself differ where
others stand in for it, or have to go with it.

Cost: a run of the model for each step of the chain, in each direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, CircuitPath, Node
from circuitlens.edits import SiteValues, is_bos, own_tokens
from circuitlens.evaluation.circuit_inputs import (
    Places,
    by_site,
    circuit_metric,
    circuit_prompts,
    places,
    require_same_adapter,
)
from circuitlens.literals import MetricName
from circuitlens.pipeline import BATCH
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import Score
from circuitlens.torch_modes import own_modes
from circuitlens.tracing import SiteTrace, Trace, trace


def path_effect(adapter: Adapter, circuit: Circuit, metric: MetricName | Score | None = None) -> CircuitPath:
    """The circuit's strongest path with what it carries by itself in the real model, `CircuitPath.measured`.

    Args:
        adapter: the model that the circuit was found in.
        circuit: the circuit.
        metric: where the circuit's was a function, the same again.

    Raises:
        CircuitError: the circuit was made by another adapter, has no answer, or its metric is not known.
        PromptError: the circuit's prompts can't be read.
    """
    require_same_adapter(adapter, circuit)
    path = circuit.strongest_path()
    inner = [node for node in path.nodes if not node.is_logit]
    by_site(adapter, circuit, inner)  # raises for a node that is not there
    if not inner:
        return path.model_copy(update={"measured": 0.0})
    if not circuit.from_corrupted and is_bos(adapter, circuit.by, inner[0].pos):
        return path  # what the adapter puts before a prompt is never set to zero
    wanted = circuit_metric(circuit, metric)
    with own_modes(gradients=False):
        prompts = circuit_prompts(adapter, circuit)
        falls = [_falls(adapter, circuit, batch, inner, wanted) for batch in prompts.batches(BATCH)]
    return path.model_copy(update={"measured": torch.cat(falls).mean().item()})


def _falls(
    adapter: Adapter,
    circuit: Circuit,
    prompts: PromptSet,
    chain: Sequence[Node],
    metric: MetricName | Score,
) -> Float[Tensor, " batch"]:
    """How far the chain by itself takes each prompt's metric down, or back up: the mean of both."""
    batch = tokenize_pairs(adapter, prompts.pairs, metric)
    clean = trace(adapter, batch.clean, batch.metric, graph=False)
    table = prompts.table(batch.clean)
    if not circuit.from_corrupted:
        own = own_tokens(adapter, batch.clean)
        return clean.metric - _moved(adapter, clean, None, _links(adapter, chain, table, own))
    assert batch.corrupted is not None, "attribution measured from it"
    other = trace(adapter, batch.corrupted, batch.metric, graph=False)
    links = _links(adapter, chain, table, batch.clean.mask)
    lost = clean.metric - _moved(adapter, clean, other, links)
    restored = _moved(adapter, other, clean, links) - other.metric
    return (lost + restored) / 2


@dataclass(frozen=True)
class _Link:
    """One node of the chain: the number of its site, whether it is that site's vector, and where in the batch it is."""

    site: int
    is_vector: bool
    places: Places


def _links(adapter: Adapter, chain: Sequence[Node], table: Tensor, movable: Tensor) -> list[_Link]:
    number = {site.write: s for s, site in enumerate(adapter.sites)}
    links = []
    for n, node in enumerate(chain):
        example, pos, index, numbers = places(chain, [n], table)
        kept = movable[example, pos]
        where = example[kept], pos[kept], index[kept], numbers[kept]
        links.append(_Link(number[node.hook], node.index is None, where))
    return links


def _moved(adapter: Adapter, here: Trace, there: Trace | None, links: Sequence[_Link]) -> Float[Tensor, " batch"]:
    """The metric once the first node of the chain has its value of the other run (or zero), and the others respond."""
    first, *others = links
    now = here.sites[first.site]
    goal = SiteValues.of(there.sites[first.site]) if there is not None else None
    change, at = _first_change(now, goal, first), first.site
    for link in others:
        run = _held(adapter, here, at, change)
        change, at = _response(here.sites[link.site], run.sites[link.site], link), link.site
    return _held(adapter, here, at, change).metric


def _held(adapter: Adapter, here: Trace, moved: int, change: Tensor) -> Trace:
    """A run with all sites held at their values, and one changed; its traces say what flowed into each."""
    held = {seen.site.name: seen.write for seen in here.sites}
    held[here.sites[moved].site.name] = here.sites[moved].write + change
    return trace(adapter, here.inputs, here.scored_by, graph=False, replaced=held)


def _first_change(now: SiteTrace, goal: SiteValues | None, link: _Link) -> Float[Tensor, "batch pos *d_out"]:
    """What a site writes otherwise once its node has the other run's value, or zero."""
    example, pos, index, _ = link.places
    coder = now.site.coder
    if link.is_vector:
        if goal is None:
            return _only(-now.error, link)

        def decode(f: Tensor) -> Tensor:
            assert coder is not None, "what is not coded has no features"
            coder.encode(now.read)
            return coder.decode(f)

        return _only(goal.error_in(decode) - now.error, link)
    value = torch.zeros(len(index)).to(now.write)
    if goal is not None:
        assert goal.features is not None, "a feature is of a coder"
        value = goal.features[example, pos, index]
    return _features(now, link, value)


def _response(now: SiteTrace, then: SiteTrace, link: _Link) -> Float[Tensor, "batch pos *d_out"]:
    """What a site writes otherwise once its node responds to what flowed into the site in another run."""
    if link.is_vector:
        return _only(then.error - now.error, link)
    return _features(now, link, _values(then, link))


def _values(seen: SiteTrace, link: _Link) -> Float[Tensor, " place"]:
    """The feature's value at each of its places."""
    example, pos, index, _ = link.places
    coder = seen.site.coder
    assert coder is not None, "a feature is of a coder"
    features = coder.encode(seen.read)
    coder.decode(features)
    return features[example, pos, index]


def _features(now: SiteTrace, link: _Link, value: Float[Tensor, " place"]) -> Float[Tensor, "batch pos *d_out"]:
    """What the site writes otherwise with the feature at these values."""
    example, pos, index, _ = link.places
    coder = now.site.coder
    assert coder is not None, "a feature is of a coder"
    by = value - _values(now, link)
    rows = coder.decoder_rows(now.read[example, pos], index)
    change = torch.zeros_like(now.write)
    return change.index_put((example, pos), rows * by.view(-1, *[1] * (rows.dim() - 1)))


def _only(values: Tensor, link: _Link) -> Tensor:
    """The values at the link's places, and 0 elsewhere."""
    example, pos, _, _ = link.places
    return torch.zeros_like(values).index_put((example, pos), values[example, pos])
