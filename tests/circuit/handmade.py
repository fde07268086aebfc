"""Circuits made by hand, or drawn at random."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from circuitlens.circuit import Circuit, Edge, MetricRecord, Node, Output


def node(name: str, layer: int, attribution: float = 1.0, kind: str = "feature") -> Node:
    return Node(
        id=name,
        kind=kind,  # type: ignore[arg-type]
        hook=f"hook{layer}",
        layer=layer,
        pos=0,
        index=1 if name == "no" else 0,
        label=name,
        activation=1.0,
        attribution=attribution,
    )


def circuit(nodes: list[Node], edges: dict[tuple[str, str], float], **changes: Any) -> Circuit:
    fields: dict[str, Any] = {
        "created_by": "a test",
        "adapter": "none",
        "prompt": "p",
        "corrupted": None,
        "tokens": ("p",),
        "metric": MetricRecord(
            name="logit_difference",
            answers=(Output(text="yes", index=0),),
            distractors=(Output(text="no", index=1),),
            value=1.0,
        ),
        "method": "gradient",
        "conservation_residual": 0.0,
        "nodes": tuple(nodes),
        "edges": tuple(Edge(source=s, target=t, weight=w) for (s, t), w in edges.items()),
    }
    return Circuit(**{**fields, **changes})


LADDER = circuit(
    [
        node("a", 0, 5, "input"),
        node("b", 0, -1, "input"),
        node("c", 1, 3),
        node("d", 1, -4),
        node("yes", 2, 2, "logit"),
        node("no", 2, 1, "logit"),
    ],
    {("a", "c"): 2.0, ("a", "d"): -3.0, ("b", "d"): 0.5, ("c", "yes"): 1.0, ("d", "yes"): -2.5, ("d", "no"): 4.0},
)


Drawn = tuple[list[tuple[str, int, float]], dict[tuple[str, str], float]]


@st.composite
def layered(draw: st.DrawFn) -> Drawn:
    """Nodes and edges of a random layered circuit, every edge between adjacent layers, some weights equal."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    names = [[f"n{layer}.{k}" for k in range(size)] for layer, size in enumerate(sizes)] + [["yes"]]
    weights = st.integers(-9, 9).map(float)
    edges = {(s, t): draw(weights) for below, above in pairwise(names) for s in below for t in above}
    return [(name, layer, draw(weights)) for layer, row in enumerate(names) for name in row], edges


def built(drawn: Drawn, **changes: Any) -> Circuit:
    """The circuit (made here, because shape checks use `random`, which a strategy may not)."""
    nodes, edges = drawn
    return circuit([node(*n, "logit" if n[0] == "yes" else "feature") for n in nodes], edges, **changes)
