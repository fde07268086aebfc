"""Circuits as networks: from networkx, and as GraphML, GEXF and DOT for graph tools.

All of them carry what a circuit says beside nodes and edges as JSON text, in the graph's attribute `circuit`: one of
networkx, or read by networkx from GraphML, is the same circuit again.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from circuitlens.circuit import Circuit, Edge, Node
from circuitlens.distribution import created_by
from circuitlens.errors import CircuitError
from circuitlens.files.described import first_fault

if TYPE_CHECKING:
    import networkx

UNWRITABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML has no way to write."""


def from_networkx(graph: networkx.DiGraph) -> Circuit:
    """The circuit of a `networkx.DiGraph`, that of `Circuit.to_networkx` or another.

    Nodes need no attributes; those that have the names of a node's fields are taken. Without them a node is a feature
    in the layer that its longest path from below says, and its attribution is the sum of its edges' `weight` (1 where
    there is none).

    Raises:
        CircuitError: the graph is undirected, has parallel edges or a circle, or an attribute does not fit its field.
    """
    import networkx

    if not isinstance(graph, networkx.DiGraph) or graph.is_multigraph():
        raise CircuitError("It is no graph, undirected, or has parallel edges: give a networkx.DiGraph.")
    if not networkx.is_directed_acyclic_graph(graph):
        raise CircuitError("The graph's edges run in a circle: a circuit has layers.")
    about = graph.graph.get("circuit")
    try:
        whole = json.loads(about) if isinstance(about, str) else _described(graph)
        document = {**whole, "nodes": _nodes(graph), "edges": _edges(graph)}
        return Circuit.model_validate_json(json.dumps(document, default=_plain))
    except ValidationError as error:
        raise CircuitError(f"The graph is no circuit: {first_fault(error)}.") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as fault:
        raise CircuitError(f"The graph has an attribute that no file can hold: {str(fault)[:200]}.") from fault


def _plain(value: Any) -> Any:
    """The number that a NumPy or torch scalar is."""
    if not hasattr(value, "item"):
        raise TypeError(f"a {type(value).__name__} is no number, text or list")
    return value.item()


def _described(graph: networkx.DiGraph) -> dict[str, Any]:
    """What is to be said of a graph that says nothing of itself."""
    most = max((pos for _, pos in graph.nodes(data="pos", default=0) if isinstance(pos, int)), default=0)
    prompt = graph.graph.get("prompt")
    return {
        "created_by": f"{created_by()}, from networkx",
        "format": "circuitlens.circuit",
        "version": 7,
        "adapter": "networkx",
        "prompt": prompt if isinstance(prompt, str) else "a graph",
        "corrupted": None,
        "tokens": [f"position {pos}" for pos in range(min(most, 10_000) + 1)],
        "metric": {"name": "custom", "answers": [{"text": "the end", "index": 0}], "distractors": [], "value": 0.0},
        "method": "gradient",
        "conservation_residual": 0.0,
    }


def _nodes(graph: networkx.DiGraph) -> list[dict[str, Any]]:
    import networkx

    layers = {node: layer for layer, row in enumerate(networkx.topological_generations(graph)) for node in row}
    made = list[dict[str, Any]]()
    for node, given in graph.nodes(data=True):
        fields = {name: value for name, value in given.items() if name in Node.model_fields}
        layer = fields.get("layer", layers[node])
        out = sum((weight for *_, weight in graph.out_edges(node, data="weight", default=1.0)), 0.0)
        usual = {"kind": "feature", "hook": f"layer {layer}", "layer": layer, "pos": 0, "index": None}
        usual |= {"label": str(node), "activation": 0.0}
        made.append({**usual, "attribution": out, **fields, "id": str(node)})
    return made


def _edges(graph: networkx.DiGraph) -> list[dict[str, Any]]:
    made = list[dict[str, Any]]()
    for source, target, given in graph.edges(data=True):
        fields = {name: value for name, value in given.items() if name in Edge.model_fields}
        if isinstance(fields.get("heads"), str):  # of GraphML
            fields["heads"] = json.loads(fields["heads"])
        made.append({"weight": 1.0, **fields, "source": str(source), "target": str(target)})
    place = {str(node): number for number, node in enumerate(graph)}
    return sorted(made, key=lambda edge: (-abs(edge["weight"]), place[edge["source"]], place[edge["target"]]))


def to_graphml(circuit: Circuit) -> str:
    """A circuit as GraphML."""
    import networkx

    return "\n".join(networkx.generate_graphml(_writable(circuit), named_key_ids=True)) + "\n"


def to_gexf(circuit: Circuit) -> str:
    """A circuit as GEXF, for Gephi."""
    import networkx

    written = io.BytesIO()
    networkx.write_gexf(_writable(circuit), written)
    return written.getvalue().decode()


def to_dot(circuit: Circuit) -> str:
    """A circuit as DOT, for Graphviz: bottom to top, with the nodes' labels and the edges' weights."""
    lines = ["digraph circuit {", "  rankdir=BT;"]
    for node in circuit.nodes:
        meaning = circuit.meaning(node)
        label = node.label if meaning is None else f"{node.label}: {meaning.text}"
        fields = {"label": label, "kind": node.kind, "layer": node.layer, "attribution": f"{node.attribution:.6g}"}
        lines.append(f"  {_quoted(node.id)} [{_dot_fields(fields)}];")
    for edge in circuit.edges:
        fields = {"weight": f"{abs(edge.weight):.6g}", "label": f"{edge.weight:+.3g}"}
        lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [{_dot_fields(fields)}];")
    return "\n".join([*lines, "}"]) + "\n"


WRITERS: Mapping[str, Callable[[Circuit], str]] = {"graphml": to_graphml, "gexf": to_gexf, "dot": to_dot}
"""The formats of one file each, by the end of its name."""


def _writable(circuit: Circuit) -> networkx.DiGraph:
    """The network with numbers, switches and text alone, and of text what XML can write."""
    import networkx

    whole = circuit.to_networkx()
    names = {node: _spelled(node) for node in whole}
    if len({*names.values()}) < len(names):
        names = {node: f"{name} ({number})" for number, (node, name) in enumerate(names.items())}
    graph = networkx.DiGraph()
    graph.graph.update({name: _value(value) for name, value in whole.graph.items()})
    for node, fields in whole.nodes(data=True):
        graph.add_node(names[node], **{n: _value(v) for n, v in fields.items() if v is not None})
    for source, target, fields in whole.edges(data=True):
        graph.add_edge(names[source], names[target], **{n: _value(v) for n, v in fields.items() if v is not None})
    return graph


def _value(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return json.dumps(value)
    return _spelled(value) if isinstance(value, str) else value


def _spelled(text: str) -> str:
    """A text with what XML has no way to write spelled out."""
    return UNWRITABLE.sub(lambda found: repr(found[0])[1:-1], text)


def _dot_fields(fields: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={_quoted(str(value))}" for name, value in fields.items())


def _quoted(text: str) -> str:
    """A string of DOT that stands for itself: Graphviz reads `\\N` and `\\l` in labels."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1].replace("\\", "\\\\") for c in text) + '"'
