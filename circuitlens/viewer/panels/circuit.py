"""A circuit or a comparison in words: what it explains, how it was made, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import html

from circuitlens.circuit import ANSWER, Circuit
from circuitlens.circuit.comparison import STRONGEST, Comparison, Graph
from circuitlens.report.answer import describe_verdict, output_role, without_what
from circuitlens.report.summary import (
    describe_conservation,
    describe_method,
    describe_metric,
    describe_path,
    describe_size,
)
from circuitlens.report.text import plain, signed, visible
from circuitlens.viewer.models import model_name
from circuitlens.viewer.panels.parts import KINDS, LISTED, terms


def circuit_name(circuit: Circuit) -> str:
    """What a circuit is called where there are several: its prompt and answer."""
    answer = circuit.metric.answers[0].text if circuit.metric.answers else ANSWER
    return plain(f"{circuit.prompt} → {answer.strip() or answer}")


def names(circuits: Sequence[Circuit]) -> list[str]:
    """What each circuit is called in the switch, numbered where two are alike."""
    found: list[str] = []
    for circuit in circuits:
        name = circuit_name(circuit)
        alike = sum(other == name or other.startswith(f"{name} (") for other in found)
        found.append(f"{name} ({alike + 1})" if alike else name)
    return found


def circuit_panel(circuit: Circuit) -> list[Any]:
    """What a circuit explains, how it was made, and what it comes to."""
    options = ", ".join(f"{name}={value}" for name, value in circuit.options.items())
    rows = [
        ("Model", model_name(circuit.adapter, circuit.options)),
        ("Metric", describe_metric(circuit)),
        ("Method", describe_method(circuit)),
        ("Strongest path", describe_path(circuit)),
        ("Size", describe_size(circuit)),
        ("Conservation", describe_conservation(circuit)),
        ("Evidence", "".join(describe_verdict(circuit))),
        ("Made by", f"{circuit.created_by}, adapter {circuit.adapter}{options and f' ({options})'}"),
    ]
    return [html.H2("This circuit"), terms(rows)]


def comparison_panel(first: Circuit, second: Circuit, comparison: Comparison) -> list[Any]:
    """What two circuits have in common."""
    rows = [
        ("First", f"{first.metric} = {signed(first.metric.value)}"),
        ("Second", f"{second.metric} = {signed(second.metric.value)}"),
        ("Nodes", comparison.summary),
        *([("Features", told)] if (told := carriers(comparison)) else []),
    ]
    return [html.H2("This comparison"), terms(rows)]


def carriers(comparison: Comparison) -> str:
    """The strongest features that both have, in a sentence, "" where there are none."""
    if not comparison.carriers:
        return ""
    told = [
        f"{plain(label)} ({' · '.join(dict.fromkeys(f'“{visible(token)}”' for token in tokens))})"
        for label, *tokens in comparison.carriers
    ]
    what = f"The same {len(told)} features are" if len(told) > 1 else "The same feature is"
    return f"{what} among the {STRONGEST} strongest of both, wherever they stand: {', '.join(told)}."


def legend(graph: Graph, difference: bool = False) -> list[Any]:
    """The shapes that the graph's nodes have, and the two signs."""
    signs = {"positive": "more in the first", "negative": "less in the first"}
    if not difference:
        signs = {"positive": "raises the metric", "negative": "lowers it", "holds": "holds an output back"}
    kinds = {f"positive {kind}": KINDS[kind] for kind in KINDS if any(node.kind == kind for node in graph.nodes)}
    for role in ("answer", "distractor"):
        if any(output_role(graph, node) == role for node in graph.nodes):
            kinds.pop("positive logit", None)
            kinds[f"logit {role}"] = role
    return [
        *(html.Span([html.I(className=f"swatch {kind}"), told]) for kind, told in kinds.items()),
        *(html.Span([html.I(className=f"stroke {sign}"), told]) for sign, told in signs.items()),
    ]


def sums_panel(parts: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The edges of the subgraph as a list, which a screen reader can read."""
    data = [part["data"] for part in parts]
    labels = {one["id"]: one["label"] for one in data if "label" in one}
    edges = sorted((one for one in data if "weight" in one), key=lambda one: -abs(one["weight"]))
    rows = [
        html.Tr(
            [
                html.Td(f"{labels[edge['source']]} → {labels[edge['target']]}"),
                html.Td(signed(edge["weight"]), className="weight"),
            ],
            className="positive" if edge["weight"] >= 0 else "negative",
        )
        for edge in edges[:LISTED]
    ]
    if not rows:
        return []
    return [html.H3("Edges between them"), html.Table(html.Tbody(rows))]


def page_data(circuits: Sequence[Circuit]) -> dict[str, Any]:
    """What the page's script has to know of the circuits that are open."""
    return {
        "names": names(circuits),
        "circuits": [
            {
                "corrupted": circuit.has_corrupted,
                "strongest": _strongest_feature(circuit),
                "annotations": None if circuit.annotations is None else circuit.annotations.model_dump(mode="json"),
            }
            for circuit in circuits
        ],
    }


def _strongest_feature(circuit: Circuit) -> str | None:
    """The strongest of the nodes that it is worth to switch off, a feature where there is one."""
    nodes = without_what(circuit)[0]
    strongest = max(nodes, key=lambda node: (node.kind == "feature", abs(node.attribution)), default=None)
    return strongest and strongest.id
