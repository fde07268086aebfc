"""The attribution-graph JSON of circuit-tracer and Neuronpedia as checked values; anyone may have written it.

Nodes and links are read one by one, links into columns of numbers; what breaks the format is refused at once.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from circuitlens.circuit.imported import GraphMetadata, GraphNode, GraphState
from circuitlens.circuit.values import LARGEST
from circuitlens.errors import CircuitError
from circuitlens.files import read_bounded, stream_object
from circuitlens.files.described import first_fault
from circuitlens.interchange.graph_json import MAX_BYTES, OURS, Json
from circuitlens.interchange.scores import Links

WHAT = "an attribution graph (JSON)"
MAX_NODES, MAX_LINKS = 50_000, 2_000_000
"""What is read at all; circuit-tracer keeps 7,500 features at most, and files of 24 MB have 344,000 links."""


@dataclass(frozen=True)
class ParsedGraph:
    """A graph whose parts fit together.

    Args:
        metadata: as the file has it.
        state: its `qParams`.
        nodes: as the file has them, in its order.
        links: between the nodes by their place in that order.
        ours: what links that CircuitLens wrote say beside, by their place.
    """

    metadata: Json
    state: Json
    nodes: list[Json]
    links: Links
    ours: Mapping[int, Any]


def parse_graph(path: str | os.PathLike[str]) -> ParsedGraph:
    """Read a file of at most 100 MB.

    Raises:
        CircuitError: it can't be read, or is no attribution graph; the message is one sentence.
    """
    name, parts = os.fspath(path), _Parts()
    data = read_bounded(path, MAX_BYTES, WHAT, CircuitError)
    try:
        members = stream_object(data, {"nodes": parts.node, "links": parts.link})
        if missing := [key for key in ("metadata", "qParams", "nodes", "links") if key not in members]:
            raise ValueError(f"it has no {missing[0]!r}")
        metadata = GraphMetadata.model_validate(members["metadata"])
        GraphState.model_validate(members["qParams"])
        return parts.joined(members, len(metadata.prompt_tokens))
    except ValidationError as error:
        raise CircuitError(f"{name!r} is not {WHAT}: {first_fault(error)}.") from error
    except ValueError as fault:
        raise CircuitError(f"{name!r} is not {WHAT} that can be read: {fault}.") from fault


class _Parts:
    """Takes nodes and links as they come, in any order."""

    def __init__(self) -> None:
        self.nodes: list[Json] = []
        self.ours: dict[int, Any] = {}
        self._numbers: dict[str, int] = {}
        self._places: dict[int, int] = {}
        self._pairs = set[int]()
        self._sources, self._targets, self._weights = array("q"), array("q"), array("d")

    def node(self, said: Any) -> None:
        """Take a node."""
        read = GraphNode.model_validate(said)
        number = self._number(read.node_id)
        if number in self._places:
            raise ValueError(f"two nodes have the id {read.node_id!r:.80}")
        self._places[number] = len(self.nodes)
        self.nodes.append(said)

    def link(self, said: Any) -> None:
        """Take a link; there are too many for a model each."""
        parts: dict[str, Any] = said if isinstance(said, dict) else {}
        source, target = parts.get("source"), parts.get("target")
        weight: Any = parts.get("weight")
        if not (isinstance(source, str) and isinstance(target, str) and type(weight) in (int, float)):
            raise ValueError(f"the link {said!r:.80} has no source and target, as text, and weight, as a number")
        if not -LARGEST <= weight <= LARGEST:
            raise ValueError(f"a link has the weight {weight!r:.20}, which no model gives")
        ends = self._number(source), self._number(target)
        pair = ends[0] * 2**32 + ends[1]
        if pair in self._pairs or len(self._pairs) == MAX_LINKS:
            told = "two links join" if pair in self._pairs else f"it has more than {MAX_LINKS:,} links, up to"
            raise ValueError(f"{told} {source!r:.80} and {target!r:.80}")
        if OURS in said:
            self.ours[len(self._pairs)] = said[OURS]
        self._pairs.add(pair)
        self._sources.append(ends[0])
        self._targets.append(ends[1])
        self._weights.append(weight)

    def joined(self, members: Json, tokens: int) -> ParsedGraph:
        """The graph of all that was taken."""
        import numpy as np

        if len(self._places) < len(self._numbers):
            dangling = next(name for name, number in self._numbers.items() if number not in self._places)
            raise ValueError(f"a link names the node {dangling!r:.80}, which is not there")
        if wrong := next((node for node in self.nodes if node["ctx_idx"] >= tokens), None):
            raise ValueError(f"node {wrong['node_id']!r:.80} is at position {wrong['ctx_idx']} of {tokens} tokens")
        place = np.array([self._places[number] for number in range(len(self._numbers))], dtype=np.int64)
        sources, targets = (place[np.asarray(column, dtype=np.int64)] for column in (self._sources, self._targets))
        links = Links(len(self.nodes), sources, targets, np.asarray(self._weights, dtype=float))
        return ParsedGraph(members["metadata"], members["qParams"], self.nodes, links, self.ours)

    def _number(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self._numbers))
        if number == MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES:,} nodes: prune it where it is made")
        return number
