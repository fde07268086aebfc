"""A circuit as one file of HTML that needs no server and no network: its answer, its graph, what is known of each node
and edge, and the evidence.

It is made of what the page is made of: its panels as text, its graph's elements, layouts, styles and scripts, and
Cytoscape as it comes with dash-cytoscape. A policy in the file lets no script run but those, and asks for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from circuitlens.circuit import Circuit
from circuitlens.report.text import plain
from circuitlens.viewer.elements import elements, within_budget
from circuitlens.viewer.layout.parts import graph
from circuitlens.viewer.names import shown_name
from circuitlens.viewer.opening import layouts
from circuitlens.viewer.panels.answer import HINT, answer_panel
from circuitlens.viewer.panels.circuit import circuit_name, circuit_panel, legend
from circuitlens.viewer.panels.edge import edge_panel
from circuitlens.viewer.panels.evidence import evidence_words
from circuitlens.viewer.panels.node import node_panel
from circuitlens.viewer.panels.prompt import prompt_strip
from circuitlens.viewer.sharing.markup import markup
from circuitlens.viewer.theme import css_variables, stylesheet

NODES, EDGES = 300, 2000
"""Most that a shared page has, the strongest: what is known of each is in the file."""
HERE = Path(__file__).parent
ASSETS = HERE.parent / "assets"
SCRIPTS = [ASSETS / f"{name}.js" for name in ("naming", "layouts", "marks", "graphs")] + [HERE / "shared.js"]
TITLE = "CircuitLens"


def share(circuit: Circuit) -> bytes:
    """A circuit as a page: one file of HTML, in UTF-8, of which a browser needs nothing else."""
    drawn, left_out = within_budget(circuit, NODES, EDGES, rest="the circuit's own file has all")
    labels = circuit.annotations.labels if circuit.annotations else {}
    scripts = [*_libraries(), *(path.read_text("utf-8") for path in SCRIPTS)]
    sheets = [path.read_text("utf-8") for path in (ASSETS / "page.css", HERE / "shared.css")]
    parts = {
        "policy": escape(_policy(scripts)),
        "title": escape(f"{circuit_name(circuit)} · {TITLE}"),
        "css": "\n".join((css_variables(), *sheets)),
        "heading": escape(circuit_name(circuit)),
        "prompt": markup(prompt_strip(circuit, chosen=False)),
        "left-out": escape(left_out),
        "legend": markup(legend(drawn)),
        "hint": escape(HINT),
        **_panels(circuit, drawn, labels),
        "data": _data(circuit, drawn),
        "scripts": "".join(f"<script>{script}</script>\n" for script in scripts),
    }
    return _filled((HERE / "shared.html").read_text("utf-8"), parts).encode()


def _filled(page: str, parts: Mapping[str, str]) -> str:
    """A page with its parts in their places; what a part itself has in braces stays as it is."""
    pieces = page.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        filled += [parts[name], rest]
    return "".join(filled)


def _panels(circuit: Circuit, drawn: Circuit, labels: Mapping[str, str]) -> dict[str, str]:
    """What is said of the circuit, of its evidence, and of each node and edge that is drawn."""
    there = {node.id for node in drawn.nodes}
    notes = circuit.annotations.notes if circuit.annotations else {}
    told = []
    for node in drawn.nodes:
        note = f'<p class="claim">{escape(plain(notes[node.id]))}</p>' if node.id in notes else ""
        panel = markup(node_panel(circuit, node, labels), there)
        told.append(
            f'<template data-node="{escape(node.id)}"><h2>{escape(shown_name(circuit, node, labels))}</h2>'
            f"{note}{panel}</template>"
        )
    for edge in drawn.edges:
        panel = markup(edge_panel(drawn, edge.source, edge.target, labels), there)
        ends = f'data-source="{escape(edge.source)}" data-target="{escape(edge.target)}"'
        told.append(f"<template {ends}>{panel}</template>")
    return {
        "answer": markup(answer_panel(circuit, labels, can_load=False), there),
        "about": markup(circuit_panel(circuit), there),
        "evidence": markup(evidence_words(circuit, "FILE", can_load=False), there),
        "details": "\n".join(told),
    }


def _data(circuit: Circuit, drawn: Circuit) -> str:
    """What the scripts draw, as JSON that can stand in HTML."""
    annotations = circuit.annotations
    data = {
        "graph": graph("graph", minZoom=0.2, maxZoom=5).to_plotly_json()["props"],
        "elements": elements(drawn),
        "layouts": layouts(drawn, circuit),
        "sheets": {scheme: stylesheet(scheme) for scheme in ("light", "dark")},
        "labels": {key: plain(text) for key, text in annotations.labels.items()} if annotations else {},
        "pins": [] if annotations is None else annotations.pins,
    }
    return _safe(data)


def _safe(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _libraries() -> list[str]:
    """React and Cytoscape, as they come with Dash and dash-cytoscape."""
    import dash
    import dash_cytoscape

    folder = Path(dash.__file__).parent / "deps"
    react = [max(folder.glob(f"{name}@18*.min.js")) for name in ("react", "react-dom")]
    cytoscape = Path(dash_cytoscape.__file__).parent / "dash_cytoscape.min.js"
    return [path.read_text("utf-8").replace("</script", "<\\/script") for path in (*react, cytoscape)]


def _policy(scripts: list[str]) -> str:
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    rules = {
        "default-src": ["'none'"],
        "script-src": hashes,
        "style-src": ["'unsafe-inline'"],  # Cytoscape writes styles of its own
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    return "; ".join(f"{name} {' '.join(sources)}" for name, sources in rules.items())
