"""What the page says in words: a node, a circuit, its evidence, and what an intervention did. Text only, never HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import dcc, html

from circuitlens.circuit import ANSWER, Circuit, Edge, Node, full_name
from circuitlens.circuit.comparison import Comparison
from circuitlens.errors import CircuitError
from circuitlens.viewer.elements import count, visible

if TYPE_CHECKING:
    from circuitlens.adapter import Example
    from circuitlens.evaluation.features import Feature
    from circuitlens.evaluation.intervention import Outcome, Setting

ABLATED = {"corrupted": "as in the corrupted prompt", "mean": "at its mean", "zero": "off"}
LISTED = 20
"""Edges listed of each sign, each way of a node."""
SPOKEN = 8
"""Outputs listed that a feature promotes, and that it suppresses."""

KINDS = {
    "input": "input",
    "embedding": "embedding",
    "neuron": "neuron",
    "feature": "SAE feature",
    "error": "SAE error",
    "logit": "logit",
}
EXAMPLES = 8
"""Questions offered, at most."""
MARKS = {"passed": "✓", "weak": "~", "failed": "✗", "not tested": "–"}


def circuit_name(circuit: Circuit) -> str:
    """What a circuit is called where there are several: its prompt and answer."""
    return f"{circuit.prompt} → {circuit.metric.answers[0].text if circuit.metric.answers else ANSWER}"


def names(circuits: Sequence[Circuit]) -> list[str]:
    """What each circuit is called in the switch, numbered where two are alike."""
    found: list[str] = []
    for circuit in circuits:
        name = circuit_name(circuit)
        alike = sum(other == name or other.startswith(f"{name} (") for other in found)
        found.append(f"{name} ({alike + 1})" if alike else name)
    return found


# A node


def node_panel(circuit: Circuit, node: Node) -> list[Any]:
    """What the file knows of a node: what it is, its numbers, and its edges by sign."""
    effect = _exact_effect(circuit, node)
    rows = [
        ("Kind", KINDS[node.kind]),
        ("Hook", node.hook),
        ("Position", f"{node.pos}: “{visible(circuit.tokens[node.pos])}”"),
        *([("Index", str(node.index))] if node.index is not None else []),
        ("Norm" if node.kind in ("error", "embedding") else "Activation", f"{node.activation:.3f}"),
        ("Attribution", f"{signed(node.attribution)}{_error(node)} of {signed(circuit.metric.value)}"),
        *([("Exact effect", effect)] if effect else []),
    ]
    page = [html.A("Page of this feature", href=node.url, target="_blank", rel="noreferrer")] if node.url else []
    return [_terms(rows), *page, *_edge_lists(circuit, node)]


def compared_panel(comparison: Comparison, node_id: str) -> list[Any]:
    """A node in two circuits beside each other, and how its edges differ."""
    difference = comparison.difference
    node = difference.node(node_id)
    rows = [("Kind", KINDS[node.kind]), ("Hook", node.hook), ("Position", difference.tokens[node.pos])]
    for name, circuit in (("First", comparison.first), ("Second", comparison.second)):
        here = next((n for n in circuit.nodes if n.id == node_id), None)
        what = "not in this circuit"
        if here is not None:
            what = f"attribution {signed(here.attribution)}{_error(here)}, activation {here.activation:.3f}"
        rows.append((name, what))
    rows.append(("Difference", f"attribution {signed(node.attribution)}"))
    hint = html.P("Edges below are differences, first less second.", className="hint")
    return [_terms(rows), hint, *_edge_lists(difference, node)]


def known_activations(circuit: Circuit, node: Node) -> list[float | None]:
    """The activation of a node's feature at every position, as far as the circuit's own nodes tell."""
    seen: list[float | None] = [None] * len(circuit.tokens)
    for other in circuit.nodes:
        if (other.hook, other.index, other.kind) == (node.hook, node.index, node.kind):
            seen[other.pos] = other.activation
    return seen


def told_panel(circuit: Circuit, node: Node, told: Feature | None) -> list[Any]:
    """The heat strip over the prompt's tokens and, where the model is loaded, the outputs the feature speaks for."""
    if node.kind not in ("feature", "neuron", "input"):
        return []
    tokens = circuit.tokens if told is None else told.tokens
    values = known_activations(circuit, node) if told is None else list(told.activations)
    many = "Mean activation" if told is None else "Activation on one of its prompts"
    strip = [html.H3(many if circuit.pairs else "Activation on the prompt"), heat_strip(tokens, values)]
    if told is None:
        hint = "Tokens without a number have no node of this feature in the circuit; load the model to see them all."
        return [*strip, html.P(hint, className="hint")] if None in values else strip
    promoted = [(text, value) for text, value in told.promoted if value > 0]
    suppressed = [(text, value) for text, value in told.suppressed if value < 0]
    return [*strip, *_spoken("Promotes", promoted), *_spoken("Suppresses", suppressed)]


def heat_strip(tokens: Sequence[str], values: Sequence[float | None]) -> Any:
    """The prompt with every token's activation as the depth of its ground, and the number beside it."""
    most = max((abs(value) for value in values if value is not None), default=0.0) or 1.0
    cells = [
        html.Li(
            [html.Span(visible(token)), html.Small("–" if value is None else f"{value:.2f}")],
            className="lowers" if (value or 0) < 0 else "raises",
            style={"--share": f"{100 * abs(value or 0) / most:.0f}%"},
        )
        for token, value in zip(tokens, values, strict=True)
    ]
    return html.Ol(cells, className="strip")


def _spoken(title: str, outputs: Sequence[tuple[str, float]]) -> list[Any]:
    if not outputs:
        return []
    words = [
        html.Li([html.Span(visible(text)), html.Small(signed(value, 2))], className="word")
        for text, value in outputs[:SPOKEN]
    ]
    return [html.H3(title), html.Ol(words, className="words")]


def _exact_effect(circuit: Circuit, node: Node) -> str:
    evidence = circuit.evidence
    if evidence is None or evidence.digest != circuit.content_digest:
        return ""
    measured = next((effect.measured for effect in evidence.effects if effect.node == node.id), None)
    return (
        ""
        if measured is None
        else f"{signed(measured)} (how far the metric falls with it alone {ABLATED[evidence.ablation]})"
    )


def _edge_lists(circuit: Circuit, node: Node) -> list[Any]:
    lists: list[Any] = []
    for title, edges, end in (
        ("In-edges", circuit.in_edges(node.id), "source"),
        ("Out-edges", circuit.out_edges(node.id), "target"),
    ):
        lists.append(html.H3(title))
        if not edges:
            lists.append(html.P("none", className="hint"))
        heaviest = abs(edges[0].weight) if edges else 1.0
        for sign, part in (
            ("Raising the metric", [edge for edge in edges if edge.weight >= 0]),
            ("Lowering it", [edge for edge in edges if edge.weight < 0]),
        ):
            if part:
                lists.append(html.H4(f"{sign} ({count(len(part))})"))
                lists.append(_edge_table(circuit, [(circuit.node(getattr(e, end)), e) for e in part], heaviest or 1.0))
    return lists


def _edge_table(circuit: Circuit, edges: Sequence[tuple[Node, Edge]], heaviest: float) -> Any:
    rows = [
        html.Tr(
            [
                html.Td(focus_button(other, full_name(other, circuit.tokens))),
                html.Td(
                    html.Div(className="meter", style={"width": f"{100 * abs(edge.weight) / heaviest:.0f}%"}),
                    className="bar",
                ),
                html.Td(f"{signed(edge.weight)}{_error(edge)}", className="weight"),
            ],
            className="positive" if edge.weight >= 0 else "negative",
        )
        for other, edge in edges[:LISTED]
    ]
    more = len(edges) - LISTED
    rest = [html.P(f"and {count(more)} weaker", className="hint")] if more > 0 else []
    return html.Div([html.Table(html.Tbody(rows)), *rest])


def focus_button(node: Node, text: str) -> Any:
    """A button that puts a node in focus; the page's script listens for it."""
    return html.Button(text, className="link", title=node.hook, **_doing("focus", node.id))


def _doing(what: str, on: str) -> dict[str, Any]:
    """What the page's script is to do when a button is pressed, and on what."""
    return {"data-do": what, "data-on": on}


# A circuit


def circuit_panel(circuit: Circuit) -> list[Any]:
    """What a circuit explains, how it was made, and what it comes to."""
    metric = circuit.metric
    source = (
        "zero" if not circuit.from_corrupted else "the corrupted prompts" if circuit.pairs else f"“{circuit.corrupted}”"
    )
    frozen = "; attention patterns and layer-norm scales held constant" if circuit.frozen else ""
    options = ", ".join(f"{name}={value}" for name, value in circuit.options.items())
    rows = [
        ("Metric", f"{metric} = {signed(metric.value)}"),
        *([("Corrupted", signed(metric.corrupted_value))] if metric.corrupted_value is not None else []),
        ("Method", f"{circuit.method}, change from {source}{frozen}"),
        ("Strongest path", strongest_path(circuit)),
        ("Size", size(circuit)),
        ("Conservation", f"residual {circuit.conservation_residual:.1e}"),
        ("Evidence", verdict(circuit)),
        ("Made by", f"{circuit.created_by}, adapter {circuit.adapter}{options and f' ({options})'}"),
    ]
    return [html.H2("This circuit"), _terms(rows)]


def comparison_panel(comparison: Comparison) -> list[Any]:
    """What two circuits have in common, in words."""
    first, second = comparison.first, comparison.second
    rows = [
        ("First", f"{first.metric} = {signed(first.metric.value)}"),
        ("Second", f"{second.metric} = {signed(second.metric.value)}"),
        ("Nodes", comparison.summary),
    ]
    return [html.H2("This comparison"), _terms(rows)]


def verdict(circuit: Circuit) -> str:
    """The verdict with its reasons, or why there is none."""
    if circuit.edited:
        return "the file was edited after it was written"
    if circuit.evidence is None:
        return "not measured; circuitlens verify does it"
    if circuit.evidence.digest != circuit.content_digest:
        return "measured of another circuit than this"
    return f"{circuit.evidence.verdict}: {'; '.join(circuit.evidence.reasons)}"


def size(circuit: Circuit) -> str:
    """How many nodes and edges there are, and how much of what was found they are where more was."""
    nodes, edges = f"{count(len(circuit.nodes))} nodes", f"{count(len(circuit.edges))} edges"
    if (found := circuit.found) is not None:
        kept = [abs(node.attribution) for node in circuit.nodes if node.kind != "logit"]
        if len(kept) < found.nodes:
            share = 100 * sum(kept) / (found.attribution or 1)
            nodes = f"{count(len(kept))} of {count(found.nodes)} nodes ({share:.0f} % of the attribution)"
        if len(circuit.edges) < found.edges:
            edges = f"{count(len(circuit.edges))} of {count(found.edges)} edges"
    return f"{nodes}, {edges}"


def strongest_path(circuit: Circuit) -> str:
    """The strongest path to the answer in words."""
    try:
        return str(circuit.strongest_path())
    except CircuitError:  # pruned or edited so that the answer's logit is gone
        return "none: the answer's logit is not in this circuit"


def legend(circuit: Circuit, difference: bool = False) -> list[Any]:
    """The shapes that the circuit's nodes have, and the two signs."""
    kinds = [kind for kind in KINDS if any(node.kind == kind for node in circuit.nodes)]
    shapes = [html.Span([html.I(className=f"swatch positive {kind}"), KINDS[kind]]) for kind in kinds]
    return [
        *shapes,
        html.Span([html.I(className="stroke positive"), "more in the first" if difference else "raises the metric"]),
        html.Span([html.I(className="stroke negative"), "less in the first" if difference else "lowers it"]),
    ]


# Its evidence


def evidence_panel(circuit: Circuit, theme: str, file: str | None, can_ask: bool) -> list[Any]:
    """The evidence in words and figures, or how to measure it."""
    head = [html.H2(f"Does this circuit really form? {circuit_name(circuit)}")]
    residual = f"{circuit.conservation_residual:.1e}"
    largest = max((abs(node.attribution) for node in circuit.nodes), default=0.0)
    conservation = html.P(
        f"Conservation: a node's outgoing edges sum to its attribution; the largest gap is {residual}"
        + (f", {circuit.conservation_residual / largest:.0e} of the largest attribution." if largest else ".")
    )
    evidence = circuit.evidence
    if evidence is None or evidence.digest != circuit.content_digest or circuit.edited:
        why = "Nothing was measured of this circuit yet" if evidence is None else verdict(circuit).capitalize()
        how = "Measure it here with the button below, or " if can_ask else "Its model can't be loaded here. Elsewhere "
        python = "circuit = circuitlens.verify(adapter, circuit)"
        return [
            *head,
            html.P(f"{why}: it is a claim about the model, and attribution alone does not say if it holds."),
            html.P([how, "run ", html.Code(f"circuitlens verify {file}" if file else python), "."]),
            conservation,
        ]
    from circuitlens.report.plots import effect_plot, faithfulness_plot

    checks = [
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
    heads = html.Thead(
        html.Tr([html.Th(text, scope="col") for text in ("Result", "Check", "Figure", "Wanted", "What it is")])
    )
    by_id = {node.id: node for node in circuit.nodes}
    core = [by_id[name] for name in evidence.core if name in by_id]
    labels = {node.id: full_name(node, circuit.tokens) for node in circuit.nodes}
    return [
        *head,
        html.P(html.Strong(f"Verdict: {evidence.verdict}"), className=f"verdict {evidence.verdict.replace(' ', '-')}"),
        html.Ul([html.Li(reason) for reason in evidence.reasons]),
        html.P(
            [f"Its core, {len(core)} of {len(circuit.nodes)} nodes: "]
            + [part for node in core[:LISTED] for part in (focus_button(node, full_name(node, circuit.tokens)), " ")]
            + ([f"and {count(len(core) - LISTED)} more"] if len(core) > LISTED else [])
        ),
        html.Table([heads, html.Tbody(checks)], className="checks"),
        html.Div(
            [
                dcc.Graph(figure=_themed(faithfulness_plot(evidence), theme), config={"displaylogo": False}),
                dcc.Graph(figure=_themed(effect_plot(evidence, labels), theme), config={"displaylogo": False}),
            ],
            className="plots",
        ),
        conservation,
    ]


def _themed(figure: Any, theme: str) -> Any:
    """A figure on the page's ground."""
    if theme == "dark":
        ink, line = "#f1f3f5", "#6c757d"
        figure.update_layout(
            paper_bgcolor="#242424",
            plot_bgcolor="#242424",
            font_color=ink,
            title_font_color=ink,
            legend_font_color=ink,
            legend_bgcolor="rgba(0,0,0,0)",
            hoverlabel={"bgcolor": "#2e2e32", "font": {"color": ink}},
        )
        figure.for_each_annotation(lambda annotation: annotation.update(font_color=ink))
        for axes in (figure.update_xaxes, figure.update_yaxes):
            axes(linecolor=line, tickcolor=line, gridcolor="#3a3a3f", zerolinecolor=line, color=ink)
    figure.update_layout(height=460)
    return figure


# What was asked of the model


def outcome_panel(circuit: Circuit, outcome: Outcome, settings: Mapping[str, Setting]) -> list[Any]:
    """The outputs before and after, and the metric's change as predicted and as measured."""
    changed = bool(outcome.nodes)
    idle = [node.label for node in outcome.nodes if node.activation == 0 and settings[node.id] != "corrupted"]
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
    table = html.Table(
        [html.Thead(html.Tr([html.Th(text, scope="col") for text in columns])), html.Tbody(rows)], className="outputs"
    )
    metric = [("Metric", f"{circuit.metric}"), ("Before", signed(outcome.before))]
    if changed:
        predicted = (
            "can't be said of this change" if outcome.predicted_change is None else signed(outcome.predicted_change)
        )
        metric += [
            ("After", signed(outcome.after)),
            ("Measured change", signed(outcome.after - outcome.before)),
            ("Predicted by attribution", predicted),
        ]
    mean = [html.P(f"Means over {len(circuit.pairs)} prompts.", className="hint")] if circuit.pairs else []
    return [html.H2("What the model answers"), table, _terms(metric), *_idle(circuit, idle), *mean]


def _idle(circuit: Circuit, labels: Sequence[str]) -> list[Any]:
    """Why nothing changed: of nodes that are 0 anyway."""
    if not labels:
        return []
    told = f"{' and '.join(map(visible, labels))}: 0 on this prompt already, so a factor changes nothing."
    if summary(circuit)["corrupted"]:
        told += " Attribution says what the value of the corrupted prompt does instead: choose “As corrupted”."
    return [html.P(told, className="hint")]


def examples_panel(examples: Sequence[tuple[str, Example]], circuits: Sequence[Circuit]) -> list[Any]:
    """Questions to begin with: those of loaded models, and those of the circuits that are open."""
    asked = [
        {
            "adapter": adapter,
            "prompt": example.prompt,
            "corrupted": example.corrupted,
            "answer": example.answer,
            "distractor": example.distractor,
        }
        for adapter, example in examples
    ]
    for circuit in circuits:
        pair = circuit.questions[0]
        asked.append(
            {
                "adapter": circuit.adapter,
                "prompt": pair.prompt,
                "corrupted": pair.corrupted or "",
                "answer": pair.answer[0],
                "distractor": pair.distractor[0] if pair.distractor else "",
            }
        )
    different = list({json.dumps(question, sort_keys=True): question for question in asked}.items())[:EXAMPLES]
    buttons = [
        html.Button(
            f"{question['prompt']} → {question['answer']}"
            + (f", against {question['corrupted']}" if question["corrupted"] else ""),
            className="do",
            **_doing("example", text),
        )
        for text, question in different
    ]
    return [html.P("Examples", className="hint"), *buttons] if buttons else []


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


def _probability(value: float, largest: float, when: str) -> Any:
    return html.Td(
        [
            html.Div(className=f"meter {when}", style={"width": f"{48 * value / largest:.0f}%"}),
            html.Span(percent(value)),
        ],
        className="probability",
    )


def summary(circuit: Circuit) -> Mapping[str, Any]:
    """What the page's script has to know of a circuit to begin with."""
    # A feature may matter by its absence; one that is active comes first, since that can be switched off.
    strongest = max(
        (node for node in circuit.nodes if node.kind == "feature"),
        key=lambda node: (node.activation != 0, abs(node.attribution)),
        default=None,
    )
    return {
        "answer": circuit.metric.answers[0].text if circuit.metric.answers else ANSWER,
        "corrupted": all(pair.corrupted is not None for pair in circuit.questions),
        "strongest": strongest and strongest.id,
        "annotations": None if circuit.annotations is None else circuit.annotations.model_dump(mode="json"),
    }


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """A probability as people read it."""
    return f"{100 * value:.1f} %" if value >= 0.01 else f"{100 * value:.2f} %" if value >= 0.0001 else "< 0.01 %"


def _error(value: Node | Edge) -> str:
    return "" if value.standard_error is None else f" ± {value.standard_error:.3f}"


def _terms(rows: Sequence[tuple[str, str]]) -> Any:
    return html.Dl([part for term, text in rows for part in (html.Dt(term), html.Dd(text))])


def message(text: str, kind: str = "red") -> Any:
    """A sentence that something could not be done."""
    return dmc.Alert(text, color=kind, variant="light", p="xs")
