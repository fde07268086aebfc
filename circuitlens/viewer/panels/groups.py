"""Groups of nodes with what was measured of them: those that are suggested, and the reader's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dash import html

from circuitlens.circuit import Circuit, Group
from circuitlens.report.answer import describe_ablation
from circuitlens.report.text import plain
from circuitlens.viewer.names import shown_name
from circuitlens.viewer.panels.answer import said
from circuitlens.viewer.panels.parts import LISTED, doing, focus_button

if TYPE_CHECKING:
    from circuitlens.evaluation.intervention import Ablation

UNMEASURED = "What it does was not measured."
NEEDED = "A group is kept with its measured effect beside it: load the model and suggest groups again."


def groups_panel(
    circuit: Circuit,
    own: Sequence[Group],
    suggested: Sequence[Group] | None,
    effect: Callable[[Collection[str]], Ablation | None],
    labels: Mapping[str, str],
) -> list[Any]:
    """The reader's own groups with what the model does without them, and suggested ones to keep.

    Args:
        circuit: the circuit.
        own: the reader's own groups.
        suggested: other groups; None where none were asked for.
        effect: what was measured of the nodes of a group.
        labels: the reader's own labels.
    """
    known = [group for group in own if suggested is not None or effect(group.nodes) is not None]
    parts: list[Any] = []
    if known:
        rows = [html.Li([html.Strong(plain(group.name)), _effect(circuit, effect(group.nodes))]) for group in known]
        parts += [html.H3("What your groups do"), html.Ul(rows)]
    if suggested is None:
        return parts
    if not suggested:
        return [*parts, html.P("No two features are alike that are in no group yet.", className="hint")]
    rows = [_suggestion(circuit, group, effect(group.nodes), labels) for group in suggested]
    return [
        *parts,
        html.H3("Suggested groups"),
        html.P(
            "Features with similar edges in and out, or of one meaning. Only the effect says what they do.",
            className="hint",
        ),
        html.Ul(rows),
    ]


def _suggestion(circuit: Circuit, group: Group, effect: Ablation | None, labels: Mapping[str, str]) -> Any:
    kept = doing("keep", json.dumps({"name": group.name, "nodes": group.nodes}))
    keep = html.Button("Keep", className="do", disabled=effect is None, title=NEEDED if effect is None else "", **kept)
    nodes = [circuit.node(node) for node in group.nodes[:LISTED]]
    members = [html.Li(focus_button(node, shown_name(circuit, node, labels))) for node in nodes]
    if len(group.nodes) > LISTED:
        members.append(html.Li(f"and {len(group.nodes) - LISTED} more", className="hint"))
    return html.Li(
        [html.Strong(plain(group.name)), keep, _effect(circuit, effect), html.Ul(members)], className="group"
    )


def _effect(circuit: Circuit, effect: Ablation | None) -> Any:
    if effect is None:
        return html.P(UNMEASURED, className="hint")
    return html.P(said(describe_ablation(circuit, effect)), className="nodes")
