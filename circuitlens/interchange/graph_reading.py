"""An attribution graph read as a circuit: one that CircuitLens wrote is the same circuit again, others are made one."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

from pydantic import ValidationError

from circuitlens.circuit import Annotations, Circuit
from circuitlens.circuit.meaning import MAX_LABEL
from circuitlens.errors import CircuitError
from circuitlens.files.described import first_fault
from circuitlens.interchange.foreign import about_graph, annotations_of, foreign_circuit
from circuitlens.interchange.graph_json import OURS, Json, clean, clerp_of
from circuitlens.interchange.graph_parsing import WHAT, ParsedGraph, parse_graph

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter

log = logging.getLogger(__name__)

KEPT_NODES, KEPT_EDGES = 2_000, 20_000
"""Nodes beside the outputs, and edges, that are kept by default: what can be looked at."""


def read_graph(
    path: str | os.PathLike[str],
    adapter: Adapter | None = None,
    *,
    max_nodes: int = KEPT_NODES,
    max_edges: int = KEPT_EDGES,
) -> Circuit:
    """Read an attribution graph of circuit-tracer, Neuronpedia or CircuitLens; a warning says what is left out of it.

    Args:
        path: the file, of at most 100 MB.
        adapter: the model that the graph was made of, for one that CircuitLens did not write: its nodes are then at the
            adapter's sites, so that `verify` and `ablate` can ask the model.
        max_nodes: how many nodes to keep beside the outputs, those of most influence, and all that are pinned.
        max_edges: how many edges between them to keep.

    Raises:
        CircuitError: the file can't be read or is no such graph, or the adapter reads its prompt otherwise or lacks a
            node of it; the message is one sentence.
    """
    name, graph = os.fspath(path), parse_graph(path)
    try:
        if OURS in graph.metadata and all(OURS in node for node in graph.nodes):
            circuit = _as_it_was(graph, max_edges)
            if len(circuit.nodes) > max_nodes:
                circuit = circuit.prune(max_nodes=max_nodes)
        else:
            circuit = foreign_circuit(graph, adapter, max_nodes, max_edges)
    except ValidationError as error:
        raise CircuitError(f"{name!r} is not {WHAT} that makes a circuit: {first_fault(error)}.") from error
    except RecursionError:
        raise CircuitError(f"{name!r} can't be imported: it is nested too deeply.") from None
    except (CircuitError, ValueError) as fault:
        raise CircuitError(f"{name!r} can't be imported: {fault}") from fault
    nodes, links = len(graph.nodes), len(graph.links.weights)
    if (len(circuit.nodes), len(circuit.edges)) != (nodes, links):
        log.warning(
            "Kept the %d nodes and %d edges of most influence, of %d nodes and %d links.",
            *(len(circuit.nodes), len(circuit.edges), nodes, links),
        )
    return circuit


def _as_it_was(graph: ParsedGraph, max_edges: int) -> Circuit:
    """The circuit that a graph was written of, with what its pins, supernodes and labels say now."""
    import numpy as np

    names = [_object(node[OURS]).get("id") for node in graph.nodes]
    links = graph.links
    # Links are written strongest first; a stable sort leaves them so.
    chosen = np.sort(np.argsort(-np.abs(links.weights), kind="stable")[:max_edges]).tolist()
    edges = [
        {
            **_object(graph.ours.get(link, {})),
            "source": names[links.sources[link]],
            "target": names[links.targets[link]],
            "weight": float(links.weights[link]),
        }
        for link in chosen
    ]
    document = {**_object(graph.metadata[OURS]), "nodes": [node[OURS] for node in graph.nodes], "edges": edges}
    document["imported"] = about_graph(graph)
    circuit = Circuit.model_validate_json(json.dumps(document))
    return circuit.annotated(_annotations(circuit, graph))


def _annotations(circuit: Circuit, graph: ParsedGraph) -> Annotations | None:
    """What a reader says in the file now; where it says what it said when it was written, as it was kept then."""
    kept = circuit.annotations or Annotations()
    ids = {node["node_id"]: made.id for node, made in zip(graph.nodes, circuit.nodes, strict=True)}
    now = annotations_of(graph, ids)
    labels = dict(kept.labels)
    for node, said in zip(circuit.nodes, graph.nodes, strict=True):
        if node.is_logit or said["clerp"] == clerp_of(circuit, node):
            continue
        if label := clean(said["clerp"]).strip()[:MAX_LABEL]:
            labels[node.label_key] = label
        else:
            labels.pop(node.label_key, None)
    made = Annotations(pins=now.pins, groups=now.groups, labels=labels, notes=kept.notes)
    return circuit.annotations if made == kept else made


def _object(said: object) -> Json:
    if not isinstance(said, dict):
        raise ValueError(f"a field {OURS!r} holds {said!r:.40} and no object.")
    return said
