"""A circuit's prompts scored again: its nodes and edges, exact effects, and what its SAEs do there.

The prompts are scored in up to 16 parts. Resampled prompts are then other sums of these parts, and need no other run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitlens.adapter import LOGITS, Adapter, Site
from circuitlens.attribution.attributions import Attributions, attribute_edges, attribute_nodes
from circuitlens.attribution.exact import exact_effects
from circuitlens.attribution.methods import METHODS
from circuitlens.attribution.node_index import VECTOR, NodeIndex
from circuitlens.attribution.sums import ATTRIBUTION, BatchSums, KeyedSums, among, edge_sums, measured_sums
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError
from circuitlens.evaluation.circuit_inputs import Outputs, numbers_of, outputs_of
from circuitlens.evaluation.dictionaries import Dictionaries
from circuitlens.evaluation.faithfulness import INPUTS
from circuitlens.evaluation.weighing import Ends, Weigher, Weights
from circuitlens.literals import MethodName, MetricName
from circuitlens.pipeline.assembly import make_node
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import Score

PARTS = 16
"""Into how many parts the prompts are divided, at most."""

PATCHED = 32
"""On how many prompts the strongest nodes are patched, at most, unless their effects are the circuit's own figures."""

CONNECTED = 8
"""Of how many prompts the edges are scored, at most: they cost more than all nodes."""


@dataclass(frozen=True)
class RescoredEdges:
    """Sums of all edges between a circuit's nodes, over `prompts` of its prompts.

    An edge's key is its source's place among `kept`, sorted numbers, times their count, plus its target's. `residual`
    is the largest gap between a node and its edges. `weigh` measures edges on the same prompts.
    """

    kept: Int[Tensor, " kept"]
    sums: KeyedSums
    prompts: int
    residual: float
    weigh: Weigher


@dataclass(frozen=True)
class Rescored:
    """Sums over a circuit's prompts, of nodes in the circuit and outside it.

    `parts` and `total` are node sums of parts of the prompts and of all, `exact` sums of the strongest nodes' exact
    effects on `patched` prompts. `outputs` are those of `circuit_inputs.outputs_of`, `numbers` those of the circuit's
    nodes. `edges` are None for a circuit without edges. Nodes in `fixed_group`, a group of positions, are never
    ablated. `coarse` says that the model computes in half precision.
    """

    adapter: Adapter
    circuit: Circuit
    index: NodeIndex
    outputs: Outputs
    numbers: Int[Tensor, " node"]
    fixed_group: int | None
    parts: tuple[BatchSums, ...]
    total: BatchSums
    exact: KeyedSums
    patched: int
    edges: RescoredEdges | None
    dictionaries: Dictionaries
    coarse: bool

    @property
    def prompts(self) -> int:
        """How many prompts were scored."""
        return self.total.prompts

    @property
    def metric(self) -> float:
        """The mean metric."""
        return self.total.metric[0].item() / self.prompts

    def attributions(self, nodes: Sequence[Node]) -> list[float]:
        """The mean attribution of each of these nodes."""
        return self._means(self.total.nodes, nodes, self.prompts)

    def effects(self, nodes: Sequence[Node]) -> list[float]:
        """The mean exact effect of each of these nodes, which are among the strongest."""
        return self._means(self.exact, nodes, self.patched)

    def chance(self, nodes: Sequence[Node], total: int) -> list[float]:
        """What chance explains of each node's value on a sample of `total` prompts; 0 where it is all of them.

        A node that few prompts have may be in none of the sample, so the file's own standard errors are asked, and
        believed up to twice the largest that was seen.
        """
        if self.prompts == total:
            return [0.0] * len(nodes)
        seen = self.total.nodes.errors(ATTRIBUTION, self.prompts)
        most, scale = 2 * max((error or 0.0 for error in seen), default=0.0), (total / self.prompts) ** 0.5
        return [5 * min((node.standard_error or 0.0) * scale, most) for node in nodes]

    def gap(self, site: int) -> tuple[float, float]:
        """A site's mean completeness gap, and what chance explains of it where these are not all prompts."""
        means = torch.stack([part.gaps[site] / part.prompts for part in self.parts])
        spread = 5 * means.std().item() / len(means) ** 0.5 if len(means) > 1 else 0.0
        return self.total.gaps[site].item() / self.prompts, spread

    def graph_size(self) -> tuple[int, int, float]:
        """How many nodes there are beside the logits, how many features among them, and their summed |attribution|."""
        table, (site, _, index) = self.total.nodes, self.index.parts(self.total.nodes.keys)
        inner = self.total.changed & (site != self.index.sites)
        coded = torch.tensor([s for s, each in enumerate(self.adapter.sites) if each.kind == "feature"]).long()
        features = inner & torch.isin(site, coded) & (index != VECTOR)
        strength = (table.sums[inner, ATTRIBUTION] / self.prompts).abs().sum().item()
        return int(inner.sum()), int(features.sum()), strength

    def edge_means(self) -> Weights:
        """The mean weight and its standard error of each edge between the circuit's nodes, by their ids."""
        edges = self.edges
        if edges is None:
            return {}
        of_place = {place: name for name, place in edges.weigh.names.items()}
        name = [of_place.get(place) for place in range(len(edges.kept))]
        errors = edges.sums.errors(0, edges.prompts)
        means: dict[Ends, tuple[float, float | None]] = {}
        for key, weight, error in zip(edges.sums.keys.tolist(), edges.sums.sums[:, 0].tolist(), errors, strict=True):
            source, target = name[key // len(name)], name[key % len(name)]
            if source is not None and target is not None and weight:
                means[source, target] = weight / edges.prompts, error
        return means

    def other_nodes(self) -> list[Node]:
        """Nodes that are active on the prompts, can be ablated and are not in the circuit."""
        known = self.index.located(self.adapter, [node for node in self.circuit.nodes if not node.is_logit])
        numbers = self.total.nodes.keys
        numbers = numbers[self._can_be_ablated(self.total) & ~torch.isin(numbers, known)]
        rows = torch.stack(self.index.parts(numbers), 1).tolist()
        return [make_node(self.adapter, site, group, index, 0.0, 0.0) for site, group, index in rows]

    def overlaps(self, count: int, draws: int, random: torch.Generator) -> list[float]:
        """Which share of the `count` strongest nodes each resampling of the prompts gives again (Jaccard)."""
        whole, shares = self._strongest(self.total, count), []
        for _ in range(draws):
            drawn = torch.randint(len(self.parts), (len(self.parts),), generator=random).tolist()
            again = self._strongest(reduce(BatchSums.merged, [self.parts[number] for number in drawn]), count)
            shares.append(len(whole & again) / max(len(whole | again), 1))
        return shares

    def _means(self, table: KeyedSums, nodes: Sequence[Node], prompts: int) -> list[float]:
        return (table.at(self.index.located(self.adapter, nodes))[:, ATTRIBUTION] / prompts).tolist()

    def _strongest(self, sums: BatchSums, count: int) -> set[int]:
        """The numbers of the `count` nodes of largest |attribution| that can be ablated."""
        inner = self._can_be_ablated(sums)
        order = sums.nodes.sums[inner, ATTRIBUTION].abs().argsort(descending=True, stable=True)[:count]
        return set(sums.nodes.keys[inner][order].tolist())

    def _can_be_ablated(self, sums: BatchSums) -> Bool[Tensor, " node"]:
        site, group, _ = self.index.parts(sums.nodes.keys)
        inputs = [s for s, each in enumerate(self.adapter.sites) if each.kind in INPUTS]
        marks = sums.changed & ~torch.isin(site, torch.tensor([*inputs, self.index.sites]))  # the last are the logits
        return marks if self.fixed_group is None else marks & (group != self.fixed_group)


def rescore(
    adapter: Adapter,
    circuit: Circuit,
    prompts: PromptSet,
    strongest: Sequence[Node],
    metric: MetricName | Score,
    fixed_group: int | None,
    on_part: Callable[[], object],
) -> Rescored:
    """Score prompts by the circuit's own method, and patch the `strongest` nodes one by one.

    A circuit of exact effects is scored by integrated gradients, and its own figures are the exact effects.
    `on_part` is called after each part of the prompts. Raises CircuitError for a node at a hook that is not there.
    """
    for node in circuit.nodes:
        if not (node.is_logit and node.hook == LOGITS):
            site_of(adapter, node)  # is there one?
    prompts = replace(prompts, by=circuit.by)  # the outputs of a single prompt are nodes of their own
    outputs = outputs_of(adapter, circuit)
    index = NodeIndex.of(adapter, len(prompts.labels), max([2, *(which + 1 for which in outputs.values())]))
    kept = index.located(adapter, strongest).sort().values
    numbers, of_outputs = numbers_of(adapter, index, circuit, outputs)
    ends = torch.cat([numbers, of_outputs]).unique()
    method = "ig" if circuit.method == "exact" else circuit.method
    batches = list(prompts.batches(max(1, -(-len(prompts) // PARTS))))
    patched = batches if circuit.method == "exact" else _some(batches, PATCHED)
    connected = _some(batches, CONNECTED) if circuit.edges else []
    parts, exact, dictionaries, coarse = [], [], Dictionaries(), False
    sums, residual = KeyedSums.empty(1), 0.0
    for batch in batches:
        found = attribute_nodes(adapter, tokenize_pairs(adapter, batch.pairs, metric), method, circuit.frozen)
        parts.append(BatchSums.of(index, batch, found))
        if any(batch is each for each in patched):
            exact.append(_effects(circuit, index, batch, found, kept))
        if any(batch is each for each in connected):
            keep, place = among(index, batch, found, ends)
            scores, worst = attribute_edges(found, keep)
            sums, residual = sums.merged(edge_sums(scores, found, place, len(ends))), max(residual, worst)
        dictionaries = dictionaries.merged(Dictionaries.of(adapter, found))
        coarse = found.runs.clean.logits.dtype not in (torch.float32, torch.float64)
        on_part()
    total, effects = reduce(BatchSums.merged, parts), reduce(KeyedSums.merged, exact)
    edges = None
    if connected:
        at = torch.searchsorted(ends, numbers).tolist()
        names = {node.id: place for node, place, number in zip(circuit.nodes, at, numbers, strict=True) if number >= 0}
        # What changes is the same however gradients are averaged.
        cheap: MethodName = "contrastive" if circuit.from_corrupted else "gradient"
        changes = cheap if METHODS[method].has_gaps else method
        weigh = Weigher(adapter, index, ends, names, tuple(connected), metric, changes)
        edges = RescoredEdges(ends, sums, sum(map(len, connected)), residual, weigh)
    return Rescored(
        *(adapter, circuit, index, outputs, numbers, fixed_group),
        *(tuple(parts), total, effects, sum(map(len, patched)), edges, dictionaries, coarse),
    )


def _some(batches: Sequence[PromptSet], most: int) -> list[PromptSet]:
    """Batches of at most so many prompts (or one), drawn at random: in many files kinds of prompts take turns."""
    count = max(1, most // len(batches[0]))
    drawn = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))[:count]
    return [batches[n] for n in sorted(drawn.tolist())]


def _effects(
    circuit: Circuit, index: NodeIndex, prompts: PromptSet, found: Attributions, kept: Int[Tensor, " kept"]
) -> KeyedSums:
    """The exact effects of one part's nodes among the kept, of all that the circuit's attributions are of.

    From zero an `exact` circuit leaves the token before a prompt (BOS) alone. Other attributions have it, also summed
    up with the prompts' own tokens, and then so have the effects that they are compared with.
    """
    if circuit.method == "exact":
        return measured_sums(index, prompts, replace(found, method="exact"), kept)
    keep, place = among(index, prompts, found, kept)
    effects = exact_effects(found.runs, found.nodes, keep.nonzero()[:, 0])
    return KeyedSums.of(found.nodes.example[keep], kept[place[keep.cpu()]], effects[:, None])


def site_of(adapter: Adapter, node: Node) -> Site:
    """A node's site; raises CircuitError where the adapter has none there."""
    for site in adapter.sites:
        if site.write == node.hook:
            return site
    raise CircuitError(f"Node {node.id!r} is at the hook {node.hook!r}, which {adapter.name!r} has not.")
