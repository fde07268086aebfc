"""What a node is called on the page: the one place that every list, graph, table and sentence asks."""

from __future__ import annotations

from collections.abc import Mapping

from circuitlens.circuit import Node, full_name
from circuitlens.circuit.comparison import Graph
from circuitlens.report.text import plain


def shown_name(graph: Graph, node: Node, labels: Mapping[str, str] | None = None, *, short: bool = False) -> str:
    """The reader's own label, else the node's with what it stands for, with layer and token where there are several.

    Args:
        graph: the graph that has the node.
        node: the node.
        labels: the reader's own labels, by `Node.label_key`.
        short: without layer and token, where the place says them.
    """
    return plain(given_name(graph, node, labels, short=short))


def given_name(graph: Graph, node: Node, labels: Mapping[str, str] | None = None, *, short: bool = False) -> str:
    """The same as files keep it, with what can't be printed."""
    name, meaning = bare_name(graph, node, labels, short=short), graph.meaning(node)
    return name if meaning is None or node.label_key in (labels or {}) else f"{name}: {meaning.text}"


def bare_name(graph: Graph, node: Node, labels: Mapping[str, str] | None = None, *, short: bool = False) -> str:
    """The same without what the node stands for, where many are named."""
    return (labels or {}).get(node.label_key) or (node.label if short else full_name(node, graph.positions))
