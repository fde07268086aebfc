"""A circuit's evidence in words and figures, or how to measure it."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from circuitlens.circuit import Circuit
from circuitlens.circuit.evidence import Evidence
from circuitlens.report.answer import core_nodes
from circuitlens.report.summary import describe_scores
from circuitlens.report.text import count
from circuitlens.viewer.names import shown_name
from circuitlens.viewer.panels.circuit import circuit_name
from circuitlens.viewer.panels.parts import LISTED, focus_button
from circuitlens.viewer.theme import themed

MARKS = {"passed": "✓", "weak": "~", "failed": "✗", "not tested": "–"}


def evidence_panel(circuit: Circuit, scheme: str, file: str | None, can_load: bool) -> list[Any]:
    """The evidence in words and figures, or how to measure it."""
    words, evidence = evidence_words(circuit, file, can_load), circuit.own_evidence
    if evidence is None:
        return words
    import numpy  # noqa: F401 (waits until it is whole: plotly takes it half imported where another thread loads torch)

    from circuitlens.report.plots import effect_plot, faithfulness_plot

    labels = {node.id: shown_name(circuit, node) for node in circuit.nodes}
    figures = faithfulness_plot(evidence), effect_plot(evidence, labels)
    plots = [dcc.Graph(figure=themed(figure, scheme), config={"displaylogo": False}) for figure in figures]
    return [*words, html.Div(plots, className="plots")]


def evidence_words(circuit: Circuit, file: str | None, can_load: bool) -> list[Any]:
    """The evidence in words: the verdict, its reasons, and every check; or how to measure it."""
    head = html.H2(f"Does this circuit really form? {circuit_name(circuit)}")
    evidence = circuit.own_evidence
    if evidence is None:
        return [head, *_how_to_measure(circuit, file, can_load), _conservation(circuit)]
    return [
        head,
        html.P(html.Strong(f"Verdict: {evidence.word}"), className=f"verdict {evidence.verdict.replace(' ', '-')}"),
        html.Ul([html.Li(reason) for reason in evidence.reasons]),
        _core(circuit),
        _checks(evidence),
        *([html.P(f"Scores of the graph: {scores}.")] if (scores := describe_scores(circuit)) else []),
        _conservation(circuit),
    ]


def _how_to_measure(circuit: Circuit, file: str | None, can_load: bool) -> list[Any]:
    why = "Nothing was measured of this circuit yet"
    if circuit.evidence is not None:
        why = "The file was edited after it was written" if circuit.edited else "Another circuit than this was measured"
    how = "Measure it here with the button below, or " if can_load else "Its model can't be loaded here. Elsewhere "
    python = "circuit = circuitlens.verify(adapter, circuit)"
    return [
        html.P(f"{why}: it is a claim about the model, and attribution alone does not say if it holds."),
        html.P([how, "run ", html.Code(f"circuitlens verify {file}" if file else python), "."]),
    ]


def _conservation(circuit: Circuit) -> Any:
    residual = circuit.conservation_residual
    largest = max((abs(node.attribution) for node in circuit.nodes), default=0.0)
    return html.P(
        f"Conservation: a node's outgoing edges sum to its attribution; the largest gap is {residual:.1e}"
        + (f", {residual / largest:.0e} of the largest attribution." if largest else ".")
    )


def _core(circuit: Circuit) -> Any:
    core = core_nodes(circuit)
    buttons = [part for node in core[:LISTED] for part in (focus_button(node, shown_name(circuit, node)), " ")]
    more = [f"and {count(len(core) - LISTED)} more"] if len(core) > LISTED else []
    return html.P([f"Its core, {count(len(core))} node{'' if len(core) == 1 else 's'}: ", *buttons, *more])


def _checks(evidence: Evidence) -> Any:
    heads = [html.Th(text, scope="col") for text in ("Result", "Check", "Figure", "Wanted", "What it is")]
    rows = [
        html.Tr(
            [
                html.Td(html.Span(MARKS[check.status], title=check.status), className=check.status.replace(" ", "-")),
                html.Th(check.name, scope="row"),
                html.Td("" if check.value is None else f"{check.value:.3g}", className="weight"),
                html.Td("" if check.supported is None else f"{check.supported:.3g}", className="weight"),
                html.Td(check.reason),
            ]
        )
        for check in evidence.checks
    ]
    table = html.Table([html.Thead(html.Tr(heads)), html.Tbody(rows)], className="checks")
    over = "A part that gives more than the whole decision counts as one that gives as much too little: 1.03 as 0.97."
    return html.Div([table, html.P(over, className="hint")])
