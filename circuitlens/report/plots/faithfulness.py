"""The figure of faithfulness by the number of strongest nodes kept, on each set of prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuitlens.circuit.evidence import Curve, Evidence, Point
from circuitlens.report.palette import GREY, HUES
from circuitlens.report.plots.style import BAND, GROUND, INK, dress, text_of

if TYPE_CHECKING:
    import plotly.graph_objects

HELD_OUT = "held out"
SHOWN = (-0.1, 1.1)
"""The faithfulness that is always in sight."""
MOST = (-1.0, 2.0)
"""The most that is: one wild value would flatten all others."""
REMOVED: dict[str, Any] = {"marker": {"size": 6, "symbol": "circle-open"}, "legendgroup": "errors removed"}
"""What all lines of circuits without their errors look like."""


@dataclass(frozen=True)
class _Line:
    """One value of some points of a curve, as a line of the figure."""

    name: str
    hue: str
    curve: Curve
    points: list[Point]
    values: list[float]

    @property
    def texts(self) -> list[str]:
        return [_hover(self.curve, point) for point in self.points]

    def draw(self, figure: plotly.graph_objects.Figure, **style: Any) -> None:
        look = {"mode": "lines+markers", "hoverinfo": "text", **style}
        x = [point.nodes for point in self.points]
        figure.add_scatter(name=self.name, x=x, y=self.values, hovertext=self.texts, **look)


def faithfulness_plot(evidence: Evidence) -> plotly.graph_objects.Figure:
    """Faithfulness by the number of strongest nodes kept: with error nodes, without, and of random nodes.

    A point of no nodes has no place on the logarithmic axis and is left out; one that is too far up or down is a
    triangle at the axis' end, and its hover text says how far.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    lines, intervals = _add_random(figure, evidence.curves)
    lines += _add_curves(figure, evidence.curves)
    bottom, top = _limits([*intervals, *(value for line in lines for value in line.values)])
    _add_beyond(figure, lines, bottom, top)
    core = len(evidence.core)
    left, right = _decades([*(point.nodes for line in lines for point in line.points), *([core] if core else [])])
    for level in (0, 1):
        dotted = {"color": GREY, "width": 1.25, "dash": "dot"}
        figure.add_shape(type="line", x0=10**left, x1=10**right, y0=level, y1=level, layer="between", line=dotted)
    if core:
        _add_core(figure, core, (math.log10(core) - left) / (right - left), bottom, top)
    dress(
        figure,
        title=f"Verdict: {text_of(evidence.word)}" + ("" if core else " (no core found)"),
        subtitle=f"1 = whole model, 0 = no nodes; others ablated ({text_of(evidence.ablation)})",
    )
    ticks = _round_counts(left, right)
    texts = [f"{tick:,}" for tick in ticks]
    figure.update_xaxes(
        title_text="strongest nodes kept", type="log", range=[left, right], tickvals=ticks, ticktext=texts
    )
    figure.update_yaxes(title_text="faithfulness", range=[bottom, top], zeroline=False, nticks=8)
    return figure


def _add_random(figure: plotly.graph_objects.Figure, curves: Sequence[Curve]) -> tuple[list[_Line], list[float]]:
    """Draw one curve's random control, that of most points, of several the held-out one; returns it and the ends of its
    intervals.
    """
    held_out_first = sorted(curves, key=lambda curve: curve.prompts != HELD_OUT)
    controlled = [(curve, [p for p in _points(curve) if p.random is not None]) for curve in held_out_first]
    curve, points = max(controlled, key=lambda each: len(each[1]), default=(None, []))
    if curve is None or not points:
        return [], []
    intervals = [point.random for point in points if point.random is not None]
    nodes, means = [point.nodes for point in points], [each.mean for each in intervals]
    low, high = [each.low for each in intervals], [each.high for each in intervals]
    if len(points) > 1:
        figure.add_scatter(
            x=nodes + nodes[::-1],
            y=high + low[::-1],
            fill="toself",
            fillcolor=BAND,
            line_width=0,
            mode="lines",
            hoverinfo="skip",
            legendgroup="random",
            showlegend=False,
            name="95 % of random draws",
        )
    line = _Line(f"random nodes, {text_of(curve.prompts, 30)} (95 % of draws)", GREY, curve, points, means)
    line.draw(
        figure,
        line={"color": GREY, "width": 1.5},
        marker={"size": 5, "symbol": "diamond"},
        legendgroup="random",
        legendrank=2000,
        error_y={
            "visible": len(points) == 1,
            "symmetric": False,
            "color": GREY,
            "array": [each.high - each.mean for each in intervals],
            "arrayminus": [each.mean - each.low for each in intervals],
        },
    )
    return [line], [*low, *high]


def _add_curves(figure: plotly.graph_objects.Figure, curves: Sequence[Curve]) -> list[_Line]:
    """Draw each curve, dashed without its errors; the dashed lines share one entry of the legend."""
    lines = []
    for index, curve in enumerate(curves):
        hue, name, points = HUES[index % len(HUES)], text_of(curve.prompts, 30), _points(curve)
        removed = _Line(f"{name}, errors removed", hue, curve, points, [point.errors_removed for point in points])
        removed.draw(figure, line={"color": hue, "width": 1.75, "dash": "dash"}, showlegend=False, **REMOVED)
        kept = _Line(name, hue, curve, points, [point.faithfulness for point in points])
        looks = {"line": {"color": hue, "width": 2.5}, "marker": {"size": 7}}
        kept.draw(figure, legendgroup=f"curve {index}", **looks)
        lines += [removed, kept]
    if curves:
        dashed = {"color": INK, "width": 1.75, "dash": "dash"}
        entry = {"x": [None], "y": [None], "hoverinfo": "skip", "legendrank": 1500}
        figure.add_scatter(name="errors removed", mode="lines+markers", line=dashed, **entry, **REMOVED)
    return lines


def _add_beyond(figure: plotly.graph_objects.Figure, lines: Sequence[_Line], bottom: float, top: float) -> None:
    """Mark points beyond the axis by triangles at its end."""
    outside = [
        (point.nodes, top if value > top else bottom, line.hue, "triangle-up" if value > top else "triangle-down", text)
        for line in lines
        for point, value, text in zip(line.points, line.values, line.texts, strict=True)
        if not bottom <= value <= top
    ]
    if not outside:
        return
    x, y, hues, symbols, texts = zip(*outside, strict=True)
    figure.add_scatter(
        name="beyond the axis",
        x=x,
        y=y,
        mode="markers",
        cliponaxis=False,
        legendrank=3000,
        hovertext=[f"{text}<br><b>beyond the axis</b>" for text in texts],
        hoverinfo="text",
        marker={"color": hues, "symbol": symbols, "size": 11, "line": {"color": GROUND, "width": 1}},
    )


def _add_core(figure: plotly.graph_objects.Figure, core: int, place: float, bottom: float, top: float) -> None:
    """Mark the core's size, which is at `place` of the axis' length."""
    line = {"color": INK, "width": 1.5, "dash": "dashdot"}
    figure.add_shape(type="line", x0=core, x1=core, y0=bottom, y1=top, layer="between", line=line)
    beside = "left" if place < 0.15 else "right" if place > 0.85 else "center"
    above = {"y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
    figure.add_annotation(x=math.log10(core), xref="x", xanchor=beside, text=f"core: {_count(core, 'node')}", **above)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _hover(curve: Curve, point: Point) -> str:
    lines = [
        f"<b>{text_of(curve.prompts)}</b>, {_count(curve.pairs, 'pair')}",
        f"{_count(point.nodes, 'node')} kept",
        f"faithfulness {point.faithfulness:.4g}",
        f"errors removed {point.errors_removed:.4g}",
        f"all other nodes {point.completeness:.4g}",
    ]
    if point.random is not None:
        lines.append(f"random nodes {point.random.mean:.4g} ({point.random.low:.4g} … {point.random.high:.4g})")
    return "<br>".join(lines)


def _points(curve: Curve) -> list[Point]:
    return sorted((point for point in curve.points if point.nodes), key=lambda point: point.nodes)


def _limits(values: Iterable[float]) -> tuple[float, float]:
    """The ends of the axis of faithfulness, in which all values are unless they are wild."""
    every = [*values, *SHOWN]
    bottom, top = max(min(every), MOST[0]), min(max(every), MOST[1])
    pad = 0.03 * (top - bottom)
    return bottom - pad, top + pad


def _decades(sizes: Sequence[int]) -> tuple[float, float]:
    """The ends of the logarithmic axis of node counts."""
    low, high = min(sizes, default=1), max([*sizes, 10])
    pad = 0.04 * math.log10(high / low) or 0.1
    return math.log10(low) - pad, math.log10(high) + pad


def _round_counts(left: float, right: float) -> list[int]:
    """1, 2, 5, 10, 20, … between two powers of ten; powers of ten alone where that would be many."""
    steps = (1, 2, 5) if right - left < 4 else (1,)
    counts = [
        step * 10**power for power in range(math.floor(left), math.ceil(right) + 1) if power >= 0 for step in steps
    ]
    return [count for count in counts if left <= math.log10(count) <= right]
