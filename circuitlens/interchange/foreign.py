"""An attribution graph of another tool made a circuit.

1. A node's attribution is its effect on the output that the graph is of, along all links. A link into a feature is
   divided by the feature's activation, as in the replacement model of circuit-tracer (Ameisen et al. 2025), in which
   attention patterns and norms are held and every feature is linear where it is active; where the file has no
   activation, by the summed size of the links into it.
2. An edge's weight is what its link does to that output; the link's own weight is kept as `Edge.into_target`.
3. What there is no field for is kept as text (`imported`), and written again by `graph_json`.

With an adapter the nodes are at its sites, with its names, and the output's logit is the model's own; what nodes do is
still what the links say.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlens.circuit import Annotations, Circuit, Edge, FullGraphSize, Group, Meaning, MetricRecord, Node, Output
from circuitlens.circuit.meaning import MAX_LABEL
from circuitlens.distribution import created_by
from circuitlens.errors import CircuitError
from circuitlens.interchange.graph_json import LOGIT, TOKEN, Json, clean, layer_numbers, read_pins
from circuitlens.literals import NodeKind

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

    from circuitlens.adapter import Adapter
    from circuitlens.interchange.graph_parsing import ParsedGraph

log = logging.getLogger(__name__)

PARTS = re.compile(r"[^_]+_(\d{1,18})_\d+")
"""A node's id: layer, feature or token, and position."""
OUTPUT = re.compile(r'Output "(.*)" \(p=([0-9.]+)\)', re.DOTALL)
"""What an output's `clerp` says."""
SOURCE = re.compile(r"[A-Za-z0-9_.-]{1,200}")


@dataclass(frozen=True)
class Effects:
    """What the parts of a graph do: `influence` as circuit-tracer has it, `attribution` and the links' `weights` on the
    target output, and the target's `value`, the sum of the links into it.
    """

    influence: Float[ndarray, " node"]
    scores: Float[ndarray, " link"]
    attribution: Float[ndarray, " node"]
    weights: Float[ndarray, " link"]
    value: float


def foreign_circuit(graph: ParsedGraph, adapter: Adapter | None, max_nodes: int, max_edges: int) -> Circuit:
    """The circuit of the output that the graph is of: its target, else the most probable one.

    Raises:
        CircuitError: it has no output, its links run in a circle, or the adapter does not fit.
    """
    target = _target(graph.nodes)
    effects = _effects(graph, target)
    pins, groups = read_pins(graph.state, {node["node_id"] for node in graph.nodes})
    wanted = {*pins}.union(*(nodes for _, nodes in groups))
    chosen = _strongest(graph.nodes, effects.influence, wanted, max_nodes)
    make = _Unplaced(graph).node if adapter is None else _Placed(graph, adapter).node
    made = {n: node for n in chosen if (node := make(graph.nodes[n], float(effects.attribution[n]))) is not None}
    value = effects.value
    if adapter is not None:
        value = _logit(adapter, graph, made[target])
        made[target] = made[target].model_copy(update={"activation": value, "attribution": value})
        made = {n: node for n, node in made.items() if n == target or not node.is_logit}
    if len(made) < len(chosen):
        log.warning("Left out %d nodes of tokens without a site, and of other outputs.", len(chosen) - len(made))
    order = sorted(made, key=lambda n: made[n].layer)
    ids = {graph.nodes[n]["node_id"]: made[n].id for n in order}
    answer = made[target]
    return Circuit(
        created_by=f"{created_by()}, of {_generator(graph)}"[:1000],
        adapter=graph.metadata["scan"] if adapter is None else adapter.name,
        options={} if adapter is None else adapter.options,
        prompt=graph.metadata["prompt"] if adapter is None else _prompt(graph, adapter),
        corrupted=None,
        tokens=tuple(graph.metadata["prompt_tokens"]),
        metric=MetricRecord(
            name="logit",
            answers=(Output(text=answer.label, index=answer.index or 0),),
            distractors=(),
            value=value,
        ),
        method="gradient",
        frozen=adapter is None or bool(adapter.frozen),
        found=_size(graph, effects) if adapter is None else None,
        conservation_residual=0.0,
        nodes=tuple(made[n] for n in order),
        edges=_edges(graph, effects, {n: made[n] for n in order}, max_edges),
        annotations=annotations_of(graph, ids),
        meanings=_meanings([(made[n], graph.nodes[n]["clerp"]) for n in order]),
        imported=about_graph(graph),
    )


def about_graph(graph: ParsedGraph) -> str:
    """What a file says beside nodes and links, as text, without what CircuitLens wrote of itself."""
    metadata = {key: value for key, value in graph.metadata.items() if key != "circuitlens"}
    return json.dumps({"metadata": metadata, "qParams": graph.state})


def annotations_of(graph: ParsedGraph, ids: Mapping[str, str]) -> Annotations:
    """What is pinned and grouped in a file, of the nodes whose ids here are given by those of the file."""
    pins, groups = read_pins(graph.state, {*ids})
    return Annotations(
        pins=tuple(ids[pin] for pin in pins),
        groups=tuple(Group(name=name, nodes=tuple(ids[node] for node in nodes)) for name, nodes in groups),
    )


def _generator(graph: ParsedGraph) -> str:
    """What the graph was made by, as it says."""
    said = graph.metadata
    for key in ("info", "generator", "name"):
        said = said.get(key) if isinstance(said, dict) else None
    return clean(said) if isinstance(said, str) else "an attribution graph"


def kind_of(said: Json) -> NodeKind:
    """What a node is; what no tool of today writes is taken for a feature."""
    kind = said["feature_type"]
    if kind == LOGIT:
        return "logit"
    return "embedding" if kind == TOKEN else "error" if "error" in kind else "feature"


def _target(nodes: Sequence[Json]) -> int:
    outputs = [n for n, node in enumerate(nodes) if node["feature_type"] == LOGIT]
    if not outputs:
        raise CircuitError("it has no node of the type 'logit', so that it explains no output.")
    return max(outputs, key=lambda n: (nodes[n].get("is_target_logit") is True, _probability(nodes[n])))


def _probability(said: Json) -> float:
    told = OUTPUT.fullmatch(said["clerp"])
    given = said.get("token_prob")
    if not given and told and told[2].count(".") < 2 and told[2] != ".":
        given = float(told[2])
    return min(max(given or 0.0, 0.0), 1.0)


def _effects(graph: ParsedGraph, target: int) -> Effects:
    import numpy as np

    links, nodes = graph.links, graph.nodes
    outputs = np.array([_probability(node) if node["feature_type"] == LOGIT else 0.0 for node in nodes])
    outputs[target] = outputs[target] or 1.0
    shares = links.shares()
    influence = links.handed_down(shares, outputs)
    into = np.bincount(links.targets, np.abs(links.weights), links.count)
    activation = np.array([abs(node.get("activation") or 0.0) for node in nodes], dtype=float)
    sizes = np.where(activation > 0, activation, into)
    is_output = np.array([node["feature_type"] == LOGIT for node in nodes])
    start = np.zeros(links.count)
    start[target] = 1.0
    value = float(links.weights[links.targets == target].sum())
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, no circuit takes
        slopes = np.divide(1.0, sizes, out=np.zeros(links.count), where=(sizes > 0) & ~is_output)
        slopes[target] = 1.0
        factors = links.weights * slopes[links.targets]
        reached = links.handed_down(factors, start)
        weights = factors * np.where(links.targets == target, 1.0, reached[links.targets])
    return Effects(influence, shares * (influence + outputs)[links.targets], reached + value * start, weights, value)


def _strongest(nodes: Sequence[Json], influence: Float[ndarray, " node"], wanted: set[str], most: int) -> list[int]:
    """The places of all outputs, of what is pinned, and of so many others of most influence, in the file's order."""
    import numpy as np

    others = [int(n) for n in np.argsort(-influence, kind="stable") if nodes[n]["feature_type"] != LOGIT]
    pinned = [n for n in others if nodes[n]["node_id"] in wanted]
    return sorted({*others[:most], *pinned, *(n for n, node in enumerate(nodes) if node["feature_type"] == LOGIT)})


def _edges(graph: ParsedGraph, effects: Effects, made: dict[int, Node], most: int) -> tuple[Edge, ...]:
    """The links of most influence between the nodes, by falling |weight|, then in the order of the nodes."""
    import numpy as np

    links = graph.links
    place = np.full(links.count, -1)
    place[list(made)] = np.arange(len(made))
    among: Int[ndarray, " kept"] = np.flatnonzero((place[links.sources] >= 0) & (place[links.targets] >= 0))
    chosen = among[np.argsort(-effects.scores[among], kind="stable")[:most]]
    ends = (place[links.targets[chosen]], place[links.sources[chosen]])
    chosen = chosen[np.lexsort((*ends, -np.abs(effects.weights[chosen])))]
    columns = (links.sources, links.targets, effects.weights, links.weights)
    return tuple(
        Edge(source=made[s].id, target=made[t].id, weight=weight, into_target=own)
        for s, t, weight, own in zip(*(column[chosen].tolist() for column in columns), strict=True)
    )


def _size(graph: ParsedGraph, effects: Effects) -> FullGraphSize:
    kinds = [kind_of(node) for node in graph.nodes]
    attribution = sum(abs(a) for a, kind in zip(effects.attribution.tolist(), kinds, strict=True) if kind != "logit")
    inner = len(kinds) - kinds.count("logit")
    return FullGraphSize(
        nodes=inner, features=kinds.count("feature"), attribution=attribution, edges=len(graph.links.weights)
    )


def _meanings(named: Sequence[tuple[Node, str]]) -> tuple[Meaning, ...]:
    """What features are called, one each; of several labels that one has at its positions, the first."""
    found: dict[str, Meaning] = {}
    for node, clerp in named:
        text = clean(clerp).strip()
        if node.kind == "feature" and node.index is not None and text and node.label_key not in found:
            text = text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"
            found[node.label_key] = Meaning(hook=node.hook, index=node.index, text=text, source="file")
    return tuple(found.values())


def _index(said: Json) -> int | None:
    """The feature, or the token or output, that a node is of."""
    found = PARTS.fullmatch(said["node_id"])
    index = int(found[1]) if found else said["feature"]
    return index if index is not None and 0 <= index < 2**63 else None


class _Unplaced:
    """Nodes without a model: hooks are called by what the file says, and pages are those of its set of dictionaries."""

    def __init__(self, graph: ParsedGraph):
        self._tokens = graph.metadata["prompt_tokens"]
        details, scan = graph.metadata.get("feature_details"), graph.metadata["scan"]
        found = details.get("neuronpedia_source_set") if isinstance(details, dict) else None
        named = isinstance(found, str) and SOURCE.fullmatch(found) and SOURCE.fullmatch(scan)
        self._page = f"https://www.neuronpedia.org/{scan}/{{}}-{found}/{{}}" if named else ""
        layers = [int(n["layer"]) for n in graph.nodes if str(n["layer"]).isdigit() and n["feature_type"] != LOGIT]
        self._top = max(layers, default=0) + 2

    def node(self, said: Json, attribution: float) -> Node:
        """A node; tokens are in the lowest layer, then the model's own from 1, then the outputs."""
        kind, layer, index = kind_of(said), str(said["layer"]), _index(said)
        number = int(layer) + 1 if layer.isdigit() else 0
        hook, url = f"{said['feature_type']} {layer}"[:1000], None
        if kind == "logit":
            told = OUTPUT.fullmatch(said["clerp"])
            hook, number, label = "logits", self._top, told[1] if told else said["clerp"] or f"output {index}"
        elif kind == "embedding":
            hook, number, index, label = "embed", 0, None, self._tokens[said["ctx_idx"]]
        elif kind == "error":
            index, label = None, "error"
        else:
            label = said["node_id"] if index is None else f"F{index}"
            url = self._page.format(layer, index) if self._page and index is not None else None
        return Node(
            id=said["node_id"],
            kind=kind,
            hook=hook,
            layer=number,
            pos=said["ctx_idx"],
            index=index,
            label=clean(label)[:1000],
            activation=said.get("activation") or 0.0,
            attribution=attribution,
            url=url,
            imported=json.dumps(said),
        )


class _Placed:
    """Nodes at an adapter's sites; layers of the file are those of the sites' hooks, as `graph_json` numbers them."""

    def __init__(self, graph: ParsedGraph, adapter: Adapter):
        self._adapter = adapter
        hooks = [site.write for site in adapter.sites if site.kind not in ("input", "embedding")]
        numbers = {site.write: n for n, site in enumerate(adapter.sites)}
        self._sites = {str(layer): numbers[hook] for hook, layer in layer_numbers(hooks).items()}
        self._tokens = next((n for n, s in enumerate(adapter.sites) if s.kind in ("input", "embedding")), None)

    def node(self, said: Json, attribution: float) -> Node | None:
        """The node as the adapter names it; None for a token that it has no site for."""
        from circuitlens.attribution.node_index import VECTOR
        from circuitlens.pipeline.assembly import make_node

        sites, kind, index = self._adapter.sites, kind_of(said), _index(said)
        s = {"logit": len(sites), "embedding": self._tokens}.get(kind, self._sites.get(str(said["layer"])))
        if s is None and kind == "embedding":
            return None
        coder = None if s is None or s == len(sites) else sites[s].coder
        if kind == "error" or (kind == "embedding" and coder is None):
            index = VECTOR
        if s is None or index is None or (coder is not None and index >= coder.d_sae):
            raise CircuitError(
                f"the adapter {self._adapter.name!r} has no place for its node {said['node_id']!r:.80}: load the model "
                "with the dictionaries that the graph was made with."
            )
        made = make_node(self._adapter, s, said["ctx_idx"], index, said.get("activation") or 0.0, attribution)
        return made.model_copy(update={"imported": json.dumps(said)})


def _logit(adapter: Adapter, graph: ParsedGraph, node: Node) -> float:
    """The logit of an output after the graph's prompt."""
    from circuitlens.torch_modes import own_modes

    with own_modes(gradients=False):
        logits = adapter.last_logits(adapter.inputs([_prompt(graph, adapter)]), {})[0]
    if node.index is None or node.index >= len(logits):
        raise CircuitError(f"the adapter {adapter.name!r} has no output {node.index}, which the graph explains.")
    return logits[node.index].item()


def _prompt(graph: ParsedGraph, adapter: Adapter) -> str:
    """The prompt as the adapter reads it: without the token that the adapter puts before it."""
    prompt, tokens = graph.metadata["prompt"], list(graph.metadata["prompt_tokens"])
    if adapter.bos:
        prompt = prompt.removeprefix(tokens[0])
    if (read := list(adapter.inputs([prompt]).tokens[0])) != tokens:
        raise CircuitError(
            f"its prompt has the tokens {tokens!r:.200}, and the adapter {adapter.name!r} reads {read!r:.200}."
        )
    return prompt
