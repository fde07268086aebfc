"""What the model answers with nodes set otherwise, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dash import html

from circuitlens.circuit import Circuit, Node
from circuitlens.report.text import percent, signed, visible
from circuitlens.viewer.panels.parts import terms

if TYPE_CHECKING:
    from circuitlens.evaluation.intervention import Outcome
    from circuitlens.evaluation.settings import Setting


def outcome_panel(circuit: Circuit, outcome: Outcome, settings: Mapping[str, Setting]) -> list[Any]:
    """The outputs before and after, and the metric's change as predicted and as measured."""
    scaled = [node for node in outcome.nodes if settings[node.id] != "corrupted"]
    metric = [("Metric", f"{circuit.metric}"), ("Before", signed(outcome.before))]
    if outcome.nodes:
        change = outcome.predicted_change
        predicted = "can't be said of this change" if change is None else signed(change)
        metric += [
            ("After", signed(outcome.after)),
            ("Measured change", signed(outcome.measured_change)),
            ("Predicted by attribution", predicted),
        ]
    mean = [html.P(f"Means over {len(circuit.pairs)} prompts.", className="hint")] if circuit.pairs else []
    return [html.H2("What the model answers"), _outputs(outcome), terms(metric), *_idle(circuit, scaled), *mean]


def _outputs(outcome: Outcome) -> Any:
    changed = bool(outcome.nodes)
    largest = max((max(o.before, o.after) for o in outcome.outputs), default=1.0) or 1.0
    rows = [
        html.Tr(
            [
                html.Th(visible(output.label), scope="row", className="asked" if output.asked else ""),
                _probability(output.before, largest, "before"),
                *([_probability(output.after, largest, "after")] if changed else []),
            ]
        )
        for output in (sorted(outcome.outputs, key=lambda o: -o.after) if changed else outcome.outputs)
    ]
    columns = ["Output", "Before", "After"] if changed else ["Output", "Probability"]
    heads = html.Thead(html.Tr([html.Th(text, scope="col") for text in columns]))
    return html.Table([heads, html.Tbody(rows)], className="outputs")


def _idle(circuit: Circuit, nodes: Sequence[Node]) -> list[Any]:
    """Why factors change nothing: of nodes that are 0 anyway, or before the prompt."""
    before = [node for node in nodes if circuit.is_bos(node)]
    zero = [node for node in nodes if node.activation == 0 and node not in before]
    told = []
    if before:
        token = visible(circuit.tokens[0])
        told.append(f"{_names(before)}: at {token}, a token before the prompt (BOS), which factors leave alone.")
    if zero:
        told.append(f"{_names(zero)}: 0 on this prompt already, so a factor changes nothing.")
    if (before or zero) and circuit.has_corrupted:
        told.append("Attribution says what the value of the corrupted prompt does instead: choose “As corrupted”.")
    return [html.P(" ".join(told), className="hint")] if told else []


def _names(nodes: Sequence[Node]) -> str:
    return " and ".join(visible(node.label) for node in nodes)


def _probability(value: float, largest: float, when: str) -> Any:
    return html.Td(
        [
            html.Div(className=f"meter {when}", style={"width": f"{48 * value / largest:.0f}%"}),
            html.Span(percent(value)),
        ],
        className="probability",
    )
