"""A circuit's strongest edges between positions with the attention heads that carry them.

By the same derivatives that weighed the edge: at the clean run, or (integrated gradients, measured effects) averaged
over midpoints of the line of the source's own site.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from circuitlens.adapter import LOGITS, Adapter
from circuitlens.attribution.base import Runs
from circuitlens.attribution.heads import Sources, head_parts, watched
from circuitlens.attribution.integrated import POSITIONS, midpoints
from circuitlens.attribution.lines import Midpoints, lines
from circuitlens.attribution.methods import METHODS
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions, scaled, score_nodes
from circuitlens.attribution.scores import NodeScores
from circuitlens.circuit import Circuit, Edge, HeadShare
from circuitlens.errors import AdapterError, CircuitError
from circuitlens.evaluation.circuit_inputs import circuit_metric, circuit_prompts, require_same_adapter
from circuitlens.literals import MetricName
from circuitlens.prompts.alignment import tokenize_pairs
from circuitlens.prompts.batch import Score
from circuitlens.runs import rows_at_once
from circuitlens.torch_modes import own_modes
from circuitlens.tracing import Trace, trace

EDGES = 20
"""How many edges are told apart unless one says otherwise."""

SMALL = 0.01
"""A head that carries less than this share of all that heads carry (by size) is left out."""


def with_heads(
    adapter: Adapter, circuit: Circuit, edges: int | None = EDGES, metric: MetricName | Score | None = None
) -> Circuit:
    """The circuit with the attention heads that carry its strongest edges between positions, `Edge.heads`.

    Of each such edge, how much goes by which head from before the target's position to it, by values and by the
    attention pattern. Evidence is of the circuit without them, and is left out.

    Args:
        adapter: the model that the circuit was found in.
        circuit: a circuit of one prompt.
        edges: how many of the strongest edges that cross positions; None for all. Those of the strongest path count
            beside them.
        metric: where the circuit's was a function, the same again.

    Raises:
        AdapterError: the adapter does not tell its model's heads apart.
        CircuitError: the circuit is of many prompts, was made by another adapter, or its metric is not known.
        PromptError: the circuit's prompt can't be read.
    """
    require_same_adapter(adapter, circuit)
    if circuit.pairs:
        raise CircuitError("Heads carry edges of one prompt, and this circuit is over many: find one of them.")
    if not adapter.attention:
        raise AdapterError(f"Adapter {adapter.name!r} does not tell its model's attention heads apart.")
    if edges is not None and edges < 0:
        raise CircuitError(f"edges is {edges}: give a count of 0 or more, or None for all.")
    chosen = _crossing(circuit, edges)
    shares: dict[tuple[str, str], tuple[HeadShare, ...]] = {}
    with own_modes(gradients=True):
        scored = _scored(adapter, circuit, circuit_metric(circuit, metric))
        for s, site in enumerate(adapter.sites):
            if mine := [edge for edge in chosen if circuit.node(edge.source).hook == site.write]:
                shares |= _of_site(scored, circuit, s, mine)
    fields = {name: getattr(circuit, name) for name in type(circuit).model_fields}
    told = tuple(
        edge.model_copy(update={"heads": shares.get((edge.source, edge.target), edge.heads)}) for edge in circuit.edges
    )
    return Circuit(**{**fields, "edges": told, "evidence": None})


def _crossing(circuit: Circuit, count: int | None) -> list[Edge]:
    """The strongest edges that go to a later position, and those of the strongest path to the metric."""
    crossing = [edge for edge in circuit.edges if circuit.node(edge.source).pos < circuit.node(edge.target).pos]
    crossing.sort(key=lambda edge: -abs(edge.weight))
    try:
        path = circuit.strongest_path().nodes
    except CircuitError:
        path = ()
    on_path = {(source.id, target.id) for source, target in pairwise(path)}
    # Its last step is into the metric, through all logits together.
    on_path |= {(node.id, end.id) for node in path[-2:-1] for end in circuit.nodes if end.is_logit}
    return [
        edge for n, edge in enumerate(crossing) if count is None or n < count or (edge.source, edge.target) in on_path
    ]


@dataclass(frozen=True)
class _Run:
    """A run of the prompt, or of it several times over, with its nodes and what the attention layers' hooks saw."""

    run: Trace
    nodes: NodeScores
    seen: dict[str, Tensor]


@dataclass(frozen=True)
class _Scored:
    """The circuit's prompt, scored again: its clean run, and what change is measured from (None: zero)."""

    adapter: Adapter
    clean: _Run
    baseline: Trace | None


def _scored(adapter: Adapter, circuit: Circuit, metric: MetricName | Score) -> _Scored:
    batch = tokenize_pairs(adapter, circuit_prompts(adapter, circuit).pairs, metric)
    seen: dict[str, Tensor] = {}
    clean = trace(watched(adapter, seen), batch.clean, batch.metric, frozen=circuit.frozen)
    baseline = None
    if circuit.from_corrupted:
        assert batch.corrupted is not None, "attribution measured from it"
        baseline = trace(adapter, batch.corrupted, batch.metric, graph=False)
    return _Scored(adapter, _Run(clean, score_nodes(clean, baseline), seen), baseline)


def _along(scored: _Scored, s: int, points: Midpoints) -> Iterator[_Run]:
    """Runs at points of the line of site `s`, as many at a time as memory allows."""
    clean = scored.clean.run
    line = lines(Runs(scored.adapter, clean, scored.baseline))[s]
    for some in points.of(points.example, rows_at_once(clean.inputs, POSITIONS)):
        seen: dict[str, Tensor] = {}
        run = trace(
            watched(scored.adapter, seen),
            clean.inputs.chosen(some.example),
            clean.scored_by.chosen(some.example),
            replaced={clean.sites[s].site.name: line.at(some.example, some.share)},
        )
        yield _Run(run, score_nodes(run), seen)


def _of_site(
    scored: _Scored, circuit: Circuit, s: int, edges: Sequence[Edge]
) -> dict[tuple[str, str], tuple[HeadShare, ...]]:
    """The heads of edges whose sources are at site `s`, by the edges' ends."""
    adapter, clean, nodes = scored.adapter, scored.clean.run, scored.clean.nodes
    sites = {site.write: n for n, site in enumerate(adapter.sites)} | {LOGITS: len(adapter.sites)}

    def numbered(names: Iterable[str]) -> tuple[dict[str, int], dict[_Place, int]]:
        """A number for each of these nodes, by id and by place."""
        different = dict.fromkeys(names)
        found = [circuit.node(name) for name in different]
        at = [(sites[n.hook], n.pos, VECTOR if n.index is None else n.index) for n in found]
        return {name: n for n, name in enumerate(different)}, {place: n for n, place in enumerate(at)}

    source, source_at = numbered(edge.source for edge in edges)
    target, target_at = numbered(edge.target for edge in edges)
    number = _numbers(nodes, source_at)
    rows = (number >= 0).nonzero()[:, 0][number[number >= 0].argsort()]
    if len(rows) < len(source):
        raise CircuitError("A node with an edge is not active on the circuit's prompt: the file was edited.")
    sources = Sources(s, nodes.pos[rows], scaled(directions(clean, nodes, s, rows), nodes.delta[rows]))
    points = midpoints(Runs(adapter, clean, scored.baseline), s) if METHODS[circuit.method].has_gaps else None
    runs = iter([scored.clean]) if points is None else _along(scored, s, points)
    parts = sum(
        head_parts(
            each.run, each.seen, adapter.attention, each.nodes, sources, _numbers(each.nodes, target_at), len(target)
        )
        for each in runs
    )
    assert isinstance(parts, Tensor), "there is a run"
    parts = parts / (1 if points is None else len(points.share))
    layers = [layer.layer for layer in adapter.attention]
    return {
        (edge.source, edge.target): _shares(layers, parts[..., target[edge.target], source[edge.source]])
        for edge in edges
    }


_Place = tuple[int, int, int]
"""Site, position and index."""


def _numbers(nodes: NodeScores, places: dict[_Place, int]) -> Tensor:
    """The number of each node that is at one of these places, in whichever repetition of the prompt; -1 elsewhere."""
    columns = zip(nodes.site.tolist(), nodes.pos.tolist(), nodes.index.tolist(), strict=True)
    return torch.tensor([places.get(place, -1) for place in columns], device=nodes.pos.device)


def _shares(layers: Sequence[int], parts: Float[Tensor, "layer head two"]) -> tuple[HeadShare, ...]:
    """The heads that carry an edge, strongest first."""
    weight = parts.sum(-1).abs()
    chosen = (weight > SMALL * weight.sum()).nonzero().tolist()
    shares = [
        HeadShare(layer=layers[n], head=head, by_values=parts[n, head, 0].item(), by_pattern=parts[n, head, 1].item())
        for n, head in chosen
    ]
    return tuple(sorted(shares, key=lambda share: -abs(share.weight)))
