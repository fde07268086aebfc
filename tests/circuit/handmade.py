"""Circuits made by hand, or drawn at random."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from circuitlens.circuit import Circuit, Edge, MetricRecord, Node, Output
from circuitlens.circuit.evidence import Curve, Evidence, Point


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


# A circuit with an answer

YES, NO = Output(text=" yes", index=0), Output(text=" no", index=1)


def at(pos: int, made: Node, **changes: Any) -> Node:
    return made.model_copy(update={"pos": pos, **changes})


def chain(**changes: Any) -> Circuit:
    """Two features on the last of three tokens, the first of which stands before the prompt."""
    fields = {
        "prompt": "The cats",
        "corrupted": "The cat",
        "tokens": ("<|endoftext|>", "The", " cats"),
        "method": "contrastive",
        "metric": MetricRecord(
            name="logit_difference", answers=(YES,), distractors=(NO,), value=4.266, corrupted_value=-2.314
        ),
        **changes,
    }
    nodes = [
        at(2, node("a", 0, 5.0)),
        at(0, node("bos", 0, 9.0)),
        at(2, node("b", 1, 4.0)),
        at(1, node("idle", 1, 3.0), activation=0.0),
        at(2, node("yes", 2, kind="logit"), label=" yes"),
        at(2, node("no", 2, kind="logit"), label=" no"),
    ]
    edges = {("a", "b"): 4.0, ("bos", "b"): 8.0, ("b", "yes"): 2.0, ("b", "no"): 2.0, ("idle", "yes"): 1.0}
    return circuit(nodes, edges, **fields)


def measured(made: Circuit, **changes: Any) -> Circuit:
    """The circuit with evidence that its core is a and b."""
    point = Point(nodes=2, faithfulness=1.03, errors_removed=1.0, completeness=0.25)
    curve = Curve(
        prompts="found on", pairs=1, ablation="corrupted", whole=4.0, none=-4.0, points=(point,), cpr=1.0, cmd=0.0
    )
    fields: dict[str, Any] = {
        "verdict": "supported",
        "reasons": ("2 of 4 nodes alone give 1.03 of the decision",),
        "digest": made.content_digest,
        "created_by": "a test",
        "ablation": "corrupted",
        "core": ("b", "a"),
        "checks": (),
        "curves": (curve,),
        "effects": (),
        "seed": 0,
        "draws": 1,
        **changes,
    }
    return made.model_copy(update={"evidence": Evidence(**fields)})
