"""The page's looks, made of the palette: its CSS variables, the graphs' stylesheet, and figures on its ground."""

from __future__ import annotations

from typing import Any

from circuitlens.report.palette import DARK, LIGHT, PALETTES, Palette

Style = dict[str, Any]


def css_variables() -> str:
    """The palette as CSS custom properties (`--page-ground`, `--page-positive-fill`, …), light and dark."""
    # Mantine sets its attribute when its script runs; until then the ground must not flash white.
    return (
        f":root {{ {_variables(LIGHT)} }}\n"
        f':root[data-mantine-color-scheme="dark"] {{ {_variables(DARK)} }}\n'
        "@media (prefers-color-scheme: dark) "
        f"{{ html:not([data-mantine-color-scheme]) {{ background: {DARK['ground']}; }} }}\n"
    )


def _variables(palette: Palette) -> str:
    return " ".join(f"--page-{name}: {colour};" for name, colour in palette.items())


def stylesheet(scheme: str) -> list[dict[str, Any]]:
    """The Cytoscape stylesheet for the "light" or the "dark" page; of two rules the later one counts."""
    palette = PALETTES[scheme]
    rules = {**_node_rules(palette), **_kind_rules(palette), **_edge_rules(palette), **_state_rules(palette)}
    return [{"selector": selector, "style": style} for selector, style in rules.items()]


def _node_rules(c: Palette) -> dict[str, Style]:
    """Nodes and their labels, by how much room there is."""
    named = {"text-opacity": 1, "z-index": 2}
    return {
        "node": {
            "font-family": "system-ui, sans-serif",
            "font-size": 12,
            "color": c["text"],
            "border-width": 1.5,
            "border-color": c["border"],
            "background-color": c["ground"],
        },
        "node[label]": {
            "label": "data(label)",
            "text-valign": "center",
            "text-outline-width": 2,
            "text-outline-color": c["ground"],
        },
        "node[size]": {"width": "mapData(size,0,1,8,22)", "height": "mapData(size,0,1,8,22)"},
        ".crowded": {"text-valign": "top", "text-margin-y": -2, "text-opacity": 0, "font-size": 11},
        ".crowded.focused, .crowded.near, .crowded.hovered, .crowded.pinned": named,
        "node[name]": {"label": "data(name)"},
        ".crowded.named": {"text-opacity": 1, "z-index": 1},
        "node[told]": {"label": "data(told)", "text-wrap": "wrap", "line-height": 1.15},
        "node[size].roomy": {"width": "mapData(size,0,1,34,56)", "height": "mapData(size,0,1,34,56)"},
        "node[w].roomy": {"width": "data(w)"},
    }


def _kind_rules(c: Palette) -> dict[str, Style]:
    """What each kind of node looks like."""
    raises = {"background-color": c["positive-fill"], "border-color": c["positive"]}
    lowers = {"background-color": c["negative-fill"], "border-color": c["negative"]}
    chip = {"shape": "round-rectangle", "text-outline-width": 0, "font-size": "data(font)"}
    return {
        ".feature, .neuron": {"text-outline-width": 0, "border-color": c["faint"]},
        ".feature": {"shape": "ellipse"},
        ".neuron": {"shape": "hexagon"},
        ".feature.raises, .neuron.raises": raises,
        ".feature.lowers, .neuron.lowers": lowers,
        ".error": {"shape": "diamond", "background-color": c["error"], "text-outline-width": 0},
        ".chip[w]": {**chip, "width": "data(w)", "height": "data(h)"},
        "node[text]": {"text-max-width": "data(text)", "text-wrap": "ellipsis"},
        ".below": {"text-valign": "bottom", "text-margin-y": 3, "text-outline-width": 2},
        # Names keep their size on the screen, and so does what is about them.
        ".crowded[font]": {
            "font-size": "data(font)",
            "text-margin-y": "data(away)",
            "text-outline-width": "data(halo)",
        },
        ".input, .embedding": {"background-color": c["input"]},
        ".logit": {"background-color": c["logit"]},
        ".logit.answer": {"font-weight": "bold", "border-width": 2.5},
        ".logit.distractor": {"background-color": c["ground"], "border-style": "dashed", "color": c["faint"]},
        ".band": {"events": "no", "border-width": 0, "z-compound-depth": "bottom"},
        ".band[w]": {"shape": "rectangle", "background-color": c["raised"], "width": "data(w)", "height": "data(h)"},
        ".group": {"shape": "round-rectangle", "border-width": 3, "border-style": "double", "border-color": c["pin"]},
        ".sub[w]": {"width": "data(w)", "height": 24, "shape": "round-rectangle", "font-size": 11},
    }


def _edge_rules(c: Palette) -> dict[str, Style]:
    """Edges: as wide and as strong in colour as their weight, the negative ones dashed."""
    return {
        "edge": {
            "curve-style": "bezier",
            "line-color": c["positive"],
            "target-arrow-color": c["positive"],
            "target-arrow-shape": "triangle",
            "arrow-scale": 0.8,
            "width": "mapData(strength,0,1,0.6,6)",
            "opacity": "mapData(strength,0,1,0.2,0.9)",
        },
        "edge.negative": {"line-color": c["negative"], "target-arrow-color": c["negative"], "line-style": "dashed"},
        # It raises or lowers the metric by holding an output back.
        "edge.holds": {"target-arrow-shape": "tee", "arrow-scale": 1.2, "target-distance-from-node": 4},
        "edge.hovered, edge.focused": {
            "opacity": 1,
            "underlay-color": c["focus"],
            "underlay-opacity": 0.35,
            "underlay-padding": 3,
        },
        "edge[text]": {
            "label": "data(text)",
            "font-size": 10,
            "color": c["text"],
            "text-background-color": c["ground"],
            "text-background-opacity": 0.85,
        },
    }


def _state_rules(c: Palette) -> dict[str, Style]:
    """What the page's script marks: thresholds, the focus, pins and interventions."""
    return {
        ".off, .away": {"display": "none"},
        ".off.revealed, .away.revealed": {"display": "element"},
        ".faded": {"opacity": 0.15},
        "edge.faded": {"line-style": "solid"},  # a dash costs a browser far more to draw
        ".input.faded, .embedding.faded, .logit.faded": {"opacity": 0.6},
        ".pinned": {"border-width": 3, "border-color": c["pin"]},
        ".intervened": {"border-style": "dashed", "background-opacity": 0.35},
        ".focused": {"border-width": 4, "border-color": c["focus"]},
    }


def themed(figure: Any, scheme: str) -> Any:
    """A plotly figure on the page's ground."""
    c = PALETTES[scheme]
    figure.update_layout(
        height=460,
        paper_bgcolor=c["ground"],
        plot_bgcolor=c["ground"],
        font_color=c["text"],
        title_font_color=c["text"],
        title_subtitle_font_color=c["faint"],
        legend_font_color=c["text"],
        legend_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"bgcolor": c["raised"], "font": {"color": c["text"]}},
    )
    # What is drawn in dark ink can't be seen on a dark ground.
    figure.update_traces(line_color=c["text"], selector={"line.color": LIGHT["text"]})
    figure.update_shapes(line_color=c["text"], selector={"line.color": LIGHT["text"]})
    figure.for_each_annotation(lambda annotation: annotation.update(font_color=c["text"]))
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(linecolor=c["axis"], tickcolor=c["axis"], gridcolor=c["grid"], zerolinecolor=c["axis"], color=c["text"])
    return figure
