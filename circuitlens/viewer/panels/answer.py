"""The circuit's answer, where nothing is in focus: what the model says, by which nodes, how sure, and what without."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dash import html

from circuitlens.circuit import Circuit, Node
from circuitlens.report.answer import (
    Strong,
    Words,
    answer_path,
    core_nodes,
    describe_alone,
    describe_answer,
    describe_carriers,
    describe_known_loss,
    describe_outcome,
    describe_verdict,
    output_role,
    without_what,
)
from circuitlens.report.summary import explained_change
from circuitlens.report.text import joined, plain, signed
from circuitlens.viewer.names import bare_name, shown_name
from circuitlens.viewer.panels.parts import doing, focus_button

if TYPE_CHECKING:
    from circuitlens.evaluation.alone import Alone
    from circuitlens.evaluation.intervention import Outcome
    from circuitlens.evaluation.settings import Setting

HINT = "Click a node to see what feeds it and what it feeds, or an edge to see how it is known."
NAMED = 8
"""Nodes of a core that are named in a sentence, at most."""


def said(words: Words) -> list[Any]:
    """A sentence, with what stands out in it."""
    return [html.Strong(str(text)) if isinstance(text, Strong) else text for text in words]


def answer_panel(circuit: Circuit, labels: Mapping[str, str], can_load: bool) -> list[Any]:
    """The answer in sentences, the strongest path, and what to switch off."""
    measure = can_load and circuit.own_evidence is None and not circuit.edited
    button = html.Button("Measure the evidence", className="do", **doing("measure", "")) if measure else None
    nodes, what = without_what(circuit)
    return [
        html.P(said((*describe_answer(circuit), " ", *describe_carriers(circuit))), className="answer"),
        html.P([*said(describe_verdict(circuit)), *([" ", button] if button else [])], className=_mood(circuit)),
        *_path(circuit, labels),
        *(_without(circuit, nodes, what, labels) if nodes else []),
    ]


def answers_panel(circuits: Sequence[Circuit], titles: Sequence[str]) -> list[Any]:
    """The answers of two circuits that are compared."""
    parts = []
    for circuit, title in zip(circuits, titles, strict=True):
        parts += [
            html.H3(title),
            html.P(said((*describe_answer(circuit), " ", *describe_carriers(circuit))), className="answer"),
            html.P(said(describe_verdict(circuit)), className=_mood(circuit)),
        ]
    return [*parts, html.P(HINT, className="hint")]


def without_panel(circuit: Circuit, outcome: Outcome, settings: Mapping[str, Setting]) -> list[Any]:
    """What the model did without the nodes that the answer says."""
    return [html.P(said(describe_outcome(circuit, outcome, settings)), className="answer")]


def alone_panel(circuit: Circuit, alone: Alone, count: int) -> list[Any]:
    """What the model did with only some nodes kept."""
    return [html.P(said(describe_alone(circuit, alone, count)), className="answer")]


def not_loaded(why: str) -> list[Any]:
    """How to ask the model what is not known yet."""
    button = html.Button("Load the model", className="do", **doing("tab", "ask"))
    return [html.P([button, f" {why}"], className="hint")]


def _mood(circuit: Circuit) -> str:
    evidence = circuit.own_evidence
    if evidence is None:
        return f"verdict {'not-supported' if circuit.edited else 'unknown'}"
    return f"verdict {evidence.verdict.replace(' ', '-')}"


def _path(circuit: Circuit, labels: Mapping[str, str]) -> list[Any]:
    """The strongest path, node by node; where the token stays the same it is said once."""
    path = answer_path(circuit)
    if path is None:
        return [html.P("No path leads to the answer: its output is not in this circuit.", className="hint")]
    first, *others = path.nodes
    short = [False, *(node.pos == before.pos for before, node in pairwise(path.nodes))]
    chips = [_chip(circuit, node, brief, labels) for node, brief in zip((first, *others), short, strict=True)]
    carried = f"By its edges it carries about {signed(path.weight, 2)} of {signed(explained_change(circuit), 2)}."
    if any(map(circuit.is_bos, path.nodes)):
        carried += " It begins before the prompt (BOS), as no path within the prompt leads to the answer."
    idle = [node for node in path.nodes if node.kind in ("feature", "neuron") and not node.activation]
    if idle and circuit.from_corrupted:
        named = joined([plain(bare_name(circuit, node, labels, short=True)) for node in idle])
        are, they = ("is", "it is") if len(idle) == 1 else ("are", "they are")
        carried += f" {named} {are} active in the corrupted prompt only; that {they} 0 here is what counts."
    return [html.H3("The strongest path"), html.Ol(chips, className="path"), html.P(carried, className="hint")]


def _chip(circuit: Circuit, node: Node, short: bool, labels: Mapping[str, str]) -> Any:
    name = shown_name(circuit, node, labels, short=short or node.is_logit)
    if node.kind == "embedding" and not labels.get(node.label_key):
        name = shown_name(circuit, node).replace(f" L{node.layer} ", " ")
    classes = ["chip", node.kind, output_role(circuit, node), "raises" if node.attribution >= 0 else "lowers"]
    return html.Li(html.Button(name, title=node.hook, className=" ".join(classes), **doing("focus", node.id)))


def _without(circuit: Circuit, nodes: Sequence[Node], what: str, labels: Mapping[str, str]) -> list[Any]:
    short = len({node.pos for node in nodes}) == 1
    named = [(node, plain(bare_name(circuit, node, labels, short=short))) for node in nodes[:NAMED]]
    links = [part for node, name in named for part in (", ", focus_button(node, name))]
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    every = json.dumps([node.id for node in nodes])
    text = "Switch these off" if len(nodes) > 1 else "Switch it off"
    known = describe_known_loss(circuit)
    others = sum(node.kind in ("feature", "neuron") for node in core_nodes(circuit)) - len(nodes)
    idle = f" (without {others} of it that {'is' if others == 1 else 'are'} 0 here already)" if others > 0 else ""
    return [
        html.H3(f"Without {what}"),
        html.P(
            [*links[1:], more, idle, " ", html.Button(text, id="off-these", className="do", **doing("offs", every))],
            className="nodes",
        ),
        *([html.P(said(known), className="answer")] if known else []),
    ]
