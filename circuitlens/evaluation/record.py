"""A circuit's file held against the model again: all that it says beside its nodes' attributions, field by field.

Each comparison gives a deviation: a share, 0 where the file says what the model gives and 1 where it says something
else, and a sentence that names what is off. Texts are compared exactly and numbers as shares of what they belong to.
What a sample of the prompts can't tell is allowed, and so is what a smaller circuit may lack. A field that earlier
versions did not write is compared where it is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, prod

from circuitlens.adapter import LOGITS
from circuitlens.attribution.attributions import COARSE, NORMS, ROUNDING
from circuitlens.attribution.methods import METHODS
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.sums import ACTIVATION, ATTRIBUTION
from circuitlens.circuit import Circuit, Node
from circuitlens.evaluation.edge_record import EdgeRecord
from circuitlens.evaluation.rescoring import Rescored
from circuitlens.pipeline.assembly import make_node
from circuitlens.prompts.alignment import align

COUNTED = 0.05
"""The share that a count may be off by: a feature near its threshold is active in one run and not in the other."""

LOOSE = 0.2
"""How much a deviation counts that no attribution depends on: activations, standard errors, gaps."""


@dataclass(frozen=True)
class Deviation:
    """How far the file is from the model in one thing, as a share, and a sentence that says in what."""

    share: float
    told: str


def deviations(circuit: Circuit, again: Rescored, total: int) -> Iterator[Deviation]:
    """Where and how far a circuit's file is from the model; `total` is how many prompts it was found on."""
    sampled = again.prompts < total
    largest = max([1e-12, *(abs(node.attribution) for node in circuit.nodes)])
    yield from _texts(circuit, again)
    yield from _nodes(circuit, again, total, largest)
    yield from _sizes(circuit, again, total)
    yield from _gaps(circuit, again, total, largest)
    told = circuit.metric.corrupted_value
    if told is not None and not sampled:
        value = again.total.metric[1].item() / again.prompts
        size = max(largest, abs(told), abs(value))
        yield _number("the corrupted prompt's metric", told, value, size)
    if again.edges is not None:
        for share, sentence in EdgeRecord(circuit, again, total).deviations():
            yield Deviation(share, sentence)
    yield from _residual(circuit, again, largest)


def _number(what: str, said: float, value: float, size: float, slack: float = 0.0, counts: float = 1.0) -> Deviation:
    share = counts * max(0.0, abs(said - value) - slack) / max(size, 1e-12)
    return Deviation(min(share, 1.0), f"{what} is {said:+.4g} in the file and {value:+.4g} in the model")


def _text(what: str, said: object, value: object) -> Deviation:
    return Deviation(float(said != value), f"{what} is {said!r} in the file and {value!r} in the model")


def _texts(circuit: Circuit, again: Rescored) -> Iterator[Deviation]:
    """Prompts, tokens, outputs, and nodes that are there twice."""
    if circuit.pairs:
        first = circuit.pairs[0]
        yield _text("the corrupted prompt", circuit.corrupted, first.corrupted)
        told = f"the prompts are described as {circuit.prompt!r}, and the first is {first.prompt!r}"
        yield Deviation(float(first.prompt not in circuit.prompt and repr(first.prompt) not in circuit.prompt), told)
    if circuit.by == "position":
        # Of a part of its prompts more positions have the same token.
        known = align(again.adapter, circuit.pairs, circuit.by).labels
        for pos, (said, label) in enumerate(zip(circuit.tokens, known, strict=False)):
            if said != f"[{pos}]":
                yield _text(f"token {pos}", said, label)
    named = [output.index for output in (*circuit.metric.answers, *circuit.metric.distractors)]
    if circuit.by is None:
        known = [which for which in again.outputs.values() if which != VECTOR]
        yield _text("the outputs' indices", sorted(set(named)), sorted(known))
    elif named:
        yield Deviation(1.0, "the metric names outputs in the file, and its prompts have their own")
    seen: dict[tuple[object, ...], str] = {}
    for node in circuit.nodes:
        place = (node.hook, node.pos, node.index, node.label if node.hook == LOGITS else "")
        if place in seen:
            yield Deviation(1.0, f"{node.id} is the same node as {seen[place]}")
        seen[place] = node.id


def _nodes(circuit: Circuit, again: Rescored, total: int, largest: float) -> Iterator[Deviation]:
    """What is said of each node."""
    sampled = again.prompts < total
    made = remade(circuit, again)
    table = again.total.nodes
    spread = dict(zip(table.keys.tolist(), table.errors(ACTIVATION, again.prompts), strict=True))
    chance = {n.id: spread.get(k) or 0.0 for n, k in zip(circuit.nodes, again.numbers.tolist(), strict=True)}
    sizes: dict[tuple[str, int], float] = {}
    for node, new in zip(circuit.nodes, made, strict=True):
        place = node.hook, node.pos
        sizes[place] = max(sizes.get(place, 0.0), abs(node.activation), 0.0 if new is None else abs(new.activation))
    for node, new in zip(circuit.nodes, made, strict=True):
        if new is None:
            if not sampled and not again.coarse:
                yield Deviation(1.0, f"{node.id} is in the file and not active in the model")
            continue
        for what in ("kind", "layer", "label"):
            yield _text(f"the {what} of {node.id}", getattr(node, what), getattr(new, what))
        if node.url is not None:
            yield _text(f"the address of {node.id}", node.url, new.url)
        if new.kind == "logit":
            yield _text(f"the position of {node.id}", node.pos, new.pos)
        # In half precision a feature near its threshold may be off, which matters as much as its attribution.
        counts = LOOSE * (abs(node.attribution) / largest if again.coarse else 1.0)
        size = sizes[node.hook, node.pos]
        slack = 5 * (size / again.prompts + chance[node.id]) if sampled else 0.0
        yield _number(f"the activation of {node.id}", node.activation, new.activation, size, slack, counts)
        if sampled:
            continue
        if new.kind == "logit":
            yield _number(f"the attribution of {node.id}", node.attribution, new.attribution, largest)
        if node.standard_error is not None and circuit.method != "exact":
            error = new.standard_error or 0.0
            yield _number(f"the standard error of {node.id}", node.standard_error, error, largest, counts=LOOSE)


def remade(circuit: Circuit, again: Rescored) -> list[Node | None]:
    """Each of the circuit's nodes as the model gives it; None for what is not active on any of the prompts."""
    table, prompts, many = again.total.nodes, again.prompts, circuit.by is not None
    rows = dict(zip(table.keys.tolist(), range(len(table.keys)), strict=True))
    errors, means = table.errors(ATTRIBUTION, prompts), (table.sums / prompts).tolist()
    sites, positions, indices = (column.tolist() for column in again.index.parts(again.numbers))
    made: list[Node | None] = []
    for number, s, pos, index in zip(again.numbers.tolist(), sites, positions, indices, strict=True):
        row = rows.get(number)
        if row is None:
            made.append(None)
        else:
            activation, attribution = means[row][ACTIVATION], means[row][ATTRIBUTION]
            made.append(make_node(again.adapter, s, pos, index, activation, attribution, errors[row], many=many))
    return made


def _sizes(circuit: Circuit, again: Rescored, total: int) -> Iterator[Deviation]:
    """The size of the whole graph."""
    found = circuit.found
    if found is None:
        return
    nodes, features, attribution = again.graph_size()
    least, most = 1 - COUNTED, 1 + COUNTED
    if again.prompts < total:
        most *= total / again.prompts  # each further prompt has some nodes that no other has
    for what, said, count in (("nodes", found.nodes, nodes), ("features", found.features, features)):
        off = max(least * count - said, said - most * count, 0) / max(count, said, 1)
        yield Deviation(off, f"{said} {what} were found, says the file, and the model has {count}")
    inner = [node for node in circuit.nodes if node.hook != LOGITS]
    # Of exact effects, the measured ones that a smaller circuit lacks are not known.
    if again.prompts == total and (circuit.method != "exact" or len(inner) == found.nodes):
        said = found.attribution
        if circuit.method == "exact":
            attribution = sum(abs(node.attribution) for node in inner)
        size = max(said, attribution)
        yield _number("the summed |attribution|", said, attribution, size, slack=0.01 * size, counts=LOOSE)
    edges = again.edges
    if edges is not None and edges.prompts == total:
        count, limit = len(edges.sums.keys), prod((found.nodes + len(again.outputs), found.nodes)) // 2
        if len(inner) == found.nodes:
            limit = count
        weighed = any(edge.measured for edge in circuit.edges)  # some of them to 0, and those are not counted
        fewest = len(circuit.edges) if weighed else least * count
        off = max(fewest - found.edges, found.edges - most * limit, 0) / max(count, found.edges, 1)
        yield Deviation(off, f"{found.edges} edges were found, says the file, and the model has {count}")


def _gaps(circuit: Circuit, again: Rescored, total: int, largest: float) -> Iterator[Deviation]:
    """The completeness gaps, by site."""
    said = circuit.completeness_gaps
    if not said:
        return
    sites = enumerate(again.adapter.sites) if METHODS[circuit.method].has_gaps else ()
    numbers = {site.name: n for n, site in sites if isfinite(again.gap(n)[0])}
    yield _text("the sites with completeness gaps", sorted(said), sorted(numbers))
    for name in said.keys() & numbers.keys():
        gap, chance = again.gap(numbers[name])
        slack = chance if again.prompts < total else 0.0
        yield _number(f"the completeness gap of {name}", said[name], gap, largest, slack, LOOSE)


def _residual(circuit: Circuit, again: Rescored, largest: float) -> Iterator[Deviation]:
    """What conservation is off by, which rounding makes another number from run to run."""
    value = 0.0 if again.edges is None else again.edges.residual
    allowed = (COARSE if again.coarse else max(ROUNDING * 2**-23, NORMS)) * largest + 10 * value
    said = circuit.conservation_residual
    told = f"the conservation residual is {said:.2g} in the file and {value:.2g} in the model"
    yield Deviation(min(max(0.0, said - allowed) / largest, 1.0), told)


def worst(found: Sequence[Deviation]) -> Deviation:
    """The largest deviation, of several the first."""
    return max(found, key=lambda deviation: deviation.share, default=Deviation(0.0, ""))
