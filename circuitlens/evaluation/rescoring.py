"""A circuit's prompts scored again: its attributions, exact effects, and whether its SAEs write what they read.

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
from circuitlens.attribution.attributions import Attributions, attribute_nodes
from circuitlens.attribution.exact import exact_effects
from circuitlens.attribution.node_index import VECTOR, NodeIndex
from circuitlens.attribution.sums import ATTRIBUTION, BatchSums, KeyedSums, among, measured_sums
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError
from circuitlens.evaluation.faithfulness import INPUTS
from circuitlens.literals import MetricName
from circuitlens.pipeline import make_node
from circuitlens.prompts.alignment import PromptSet, tokenize_pairs
from circuitlens.prompts.batch import Score

PARTS = 16
"""Into how many parts the prompts are divided, at most."""

COMPARED = 1000
"""How many active features of a site have their encoder and decoder rows compared with each other, at most."""


@dataclass(frozen=True)
class Rescored:
    """Sums over a circuit's prompts, of nodes in the circuit and outside it.

    `parts` and `total` are node sums of parts of the prompts and of all, `exact` sums of the strongest nodes' exact
    effects. `own_rows` says how many active features were compared, and how many of them have their own decoder row
    nearest to their encoder row. Nodes in `fixed_group`, a group of positions, are never ablated.
    """

    adapter: Adapter
    circuit: Circuit
    index: NodeIndex
    fixed_group: int | None
    parts: tuple[BatchSums, ...]
    total: BatchSums
    exact: KeyedSums
    own_rows: tuple[int, int]

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
        return self._means(self.total.nodes, nodes)

    def effects(self, nodes: Sequence[Node]) -> list[float]:
        """The mean exact effect of each of these nodes, which are among the strongest."""
        return self._means(self.exact, nodes)

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

    def _means(self, table: KeyedSums, nodes: Sequence[Node]) -> list[float]:
        return (table.at(self.index.located(self.adapter, nodes))[:, ATTRIBUTION] / self.prompts).tolist()

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
    index = NodeIndex.of(adapter, len(prompts.labels))
    kept = index.located(adapter, strongest).sort().values
    method = "ig" if circuit.method == "exact" else circuit.method
    parts, exact, own_rows = [], [], torch.zeros(2, dtype=torch.long)
    for batch in prompts.batches(max(1, -(-len(prompts) // PARTS))):
        found = attribute_nodes(adapter, tokenize_pairs(adapter, batch.pairs, metric), method, circuit.frozen)
        parts.append(BatchSums.of(index, batch, found))
        exact.append(_effects(circuit, index, batch, found, kept))
        own_rows += _own_rows(adapter, found)
        on_part()
    total, effects = reduce(BatchSums.merged, parts), reduce(KeyedSums.merged, exact)
    compared, own = own_rows.tolist()
    return Rescored(adapter, circuit, index, fixed_group, tuple(parts), total, effects, (compared, own))


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


def _own_rows(adapter: Adapter, found: Attributions) -> Int[Tensor, " two"]:
    """How many active features there are at sites that are read where they are written, and of how many the own
    decoder row is the one nearest to their encoder row.
    """
    nodes, counts = found.nodes, torch.zeros(2, dtype=torch.long)
    for s, (site, seen) in enumerate(zip(adapter.sites, found.runs.clean.sites, strict=True)):
        if site.kind != "feature" or site.coder is None or site.read != site.write:
            continue
        here = ((nodes.site == s) & (nodes.index != VECTOR) & (nodes.activation != 0)).nonzero()[:, 0]
        # A row each: of many places where a feature is active any will do.
        index, place = nodes.index[here].unique(return_inverse=True)
        row = here.new_zeros(len(index)).scatter(0, place, here)[:COMPARED]
        if not len(row):
            continue
        x = seen.read.detach()[nodes.example[row], nodes.pos[row]]
        encoder, decoder = (
            torch.nn.functional.normalize(rows(x, nodes.index[row]).flatten(1), dim=1)
            for rows in (site.coder.encoder_rows, site.coder.decoder_rows)
        )
        own = (encoder @ decoder.T).argmax(1) == torch.arange(len(row), device=row.device)
        counts += torch.tensor([len(row), int(own.sum())])
    return counts
