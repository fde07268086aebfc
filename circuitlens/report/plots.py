"""Figures of a circuit's evidence, as plotly figures, and files of them that ask nothing of any other machine."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlens.circuit.evidence import Curve, Effect, Evidence, Point
from circuitlens.errors import CircuitError
from circuitlens.files import write_atomically

if TYPE_CHECKING:
    import plotly.graph_objects

# Told apart by the colour-blind (after Okabe and Ito) and dark enough for a line on white; grey is no curve's.
HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00")
GREY = "#6c757d"
BAND = "rgba(108, 117, 125, 0.22)"
LINE = "#adb5bd"
INK = "#212529"

SIZE = (900, 560)
"""Width and height of a picture, in pixels, of a figure that has none of its own; a PNG has `PIXELS` times as many."""
PIXELS = 2

HELD_OUT = "held out"
SHOWN = (-0.1, 1.1)  # the faithfulness that is always in sight
MOST = (-1.0, 2.0)  # and the most that is: one wild value would flatten all others
DECADES = 4  # of a signed logarithmic axis, on each side
SUFFIXES = (".html", ".png", ".svg")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';\
 style-src 'unsafe-inline'; img-src data: blob:; worker-src blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>html, body {{ height: 100%; margin: 0; background: #fff; }}</style>
</head>
<body>{body}</body>
</html>
"""


def faithfulness_plot(evidence: Evidence) -> plotly.graph_objects.Figure:
    """Faithfulness by the number of strongest nodes kept: with error nodes, without, and of random nodes.

    A point of no nodes has no place on the logarithmic axis and is left out; one that is too far up or down is a
    triangle at the axis' end, and its hover text says how far.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    series: list[tuple[str, list[Point], list[float], list[str]]] = []

    def draw(
        name: str, hue: str, curve: Curve, points: list[Point], value: Callable[[Point], float], **style: Any
    ) -> None:
        values = [value(point) for point in points]
        texts = [_hover(curve, point) for point in points]
        series.append((hue, points, values, texts))
        figure.add_scatter(
            name=name, x=[point.nodes for point in points], y=values, hovertext=texts, hoverinfo="text", **style
        )

    control = _control(evidence.curves)
    if control is not None:
        drawn, points = control
        intervals = [point.random for point in points if point.random is not None]
        nodes = [point.nodes for point in points]
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
        draw(
            f"random nodes, {_text(drawn.prompts, 30)} (95 % of draws)",
            GREY,
            drawn,
            points,
            lambda point: point.random.mean if point.random else math.nan,
            mode="lines+markers",
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
        extremes = [*low, *high]
    else:
        extremes = []
    for index, curve in enumerate(evidence.curves):
        hue, name, points = HUES[index % len(HUES)], _text(curve.prompts, 30), _points(curve)
        draw(
            f"{name}, errors removed",
            hue,
            curve,
            points,
            lambda point: point.errors_removed,
            mode="lines+markers",
            line={"color": hue, "width": 1.75, "dash": "dash"},
            marker={"size": 6, "symbol": "circle-open"},
            legendgroup="errors removed",
            showlegend=False,
        )
        draw(
            name,
            hue,
            curve,
            points,
            lambda point: point.faithfulness,
            mode="lines+markers",
            line={"color": hue, "width": 2.5},
            marker={"size": 7},
            legendgroup=f"curve {index}",
        )
    if evidence.curves:
        figure.add_scatter(  # the legend's one entry for every dashed line
            name="errors removed",
            x=[None],
            y=[None],
            mode="lines+markers",
            hoverinfo="skip",
            line={"color": INK, "width": 1.75, "dash": "dash"},
            marker={"size": 6, "symbol": "circle-open"},
            legendgroup="errors removed",
            legendrank=1500,
        )

    bottom, top = _limits([*extremes, *(value for _, _, values, _ in series for value in values)])
    outside = [
        (point.nodes, top if value > top else bottom, hue, "triangle-up" if value > top else "triangle-down", text)
        for hue, points, values, texts in series
        for point, value, text in zip(points, values, texts, strict=True)
        if not bottom <= value <= top
    ]
    if outside:
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
            marker={"color": hues, "symbol": symbols, "size": 11, "line": {"color": "white", "width": 1}},
        )

    core = len(evidence.core)
    sizes = [point.nodes for _, points, _, _ in series for point in points]
    left, right = _decades([*sizes, *([core] if core else [])])
    for level in (0, 1):
        figure.add_shape(
            type="line",
            x0=10**left,
            x1=10**right,
            y0=level,
            y1=level,
            layer="between",
            line={"color": GREY, "width": 1.25, "dash": "dot"},
        )
    if core:
        figure.add_shape(
            type="line",
            x0=core,
            x1=core,
            y0=bottom,
            y1=top,
            layer="between",
            line={"color": INK, "width": 1.5, "dash": "dashdot"},
        )
        place = (math.log10(core) - left) / (right - left)
        figure.add_annotation(
            x=math.log10(core),
            xref="x",
            y=1,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            xanchor="left" if place < 0.15 else "right" if place > 0.85 else "center",
            text=f"core: {_count(core, 'node')}",
        )
    _dress(
        figure,
        title=f"Verdict: {_text(evidence.verdict)}" + ("" if core else " (no core found)"),
        subtitle=f"1 = whole model, 0 = no nodes; others ablated ({_text(evidence.ablation)})",
    )
    ticks = _round_counts(left, right)
    figure.update_xaxes(
        title_text="strongest nodes kept",
        type="log",
        range=[left, right],
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
    )
    figure.update_yaxes(title_text="faithfulness", range=[bottom, top], zeroline=False, nticks=8)
    return figure


def effect_plot(evidence: Evidence, names: Mapping[str, str] | None = None) -> plotly.graph_objects.Figure:
    """Each node's predicted effect against its measured one; `names` has what to call a node, otherwise its id.

    Where most effects are tiny against the largest, both axes are linear around zero and logarithmic further out.
    """
    import plotly.graph_objects as go

    effects = evidence.effects
    values = [value for effect in effects for value in (effect.predicted, effect.measured)]
    scale = _scale(values)
    spread = _linear if scale is None else lambda value: math.asinh(value / scale)
    agreeing = [effect for effect in effects if _sign(effect.predicted) == _sign(effect.measured)]
    others = [effect for effect in effects if _sign(effect.predicted) != _sign(effect.measured)]
    low, high = spread(min([0.0, *values])), spread(max([0.0, *values]))
    pad = 0.06 * (high - low) or 1.0
    shown = [low - pad, high + pad]

    figure = go.Figure()
    figure.add_scatter(
        name="measured as predicted",
        x=shown,
        y=shown,
        mode="lines",
        hoverinfo="skip",
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        showlegend=bool(effects),
    )
    looks = (("sign agrees", agreeing, HUES[0], "circle"), ("sign differs", others, HUES[1], "x"))
    for name, chosen, hue, symbol in looks:
        figure.add_scatter(
            name=f"{name} ({len(chosen)})",
            x=[spread(effect.predicted) for effect in chosen],
            y=[spread(effect.measured) for effect in chosen],
            customdata=[[effect.predicted, effect.measured] for effect in chosen],
            hovertext=[_text((names or {}).get(effect.node, effect.node)) for effect in chosen],
            hovertemplate="%{hovertext}<br>predicted %{customdata[0]:+.4g}<br>measured %{customdata[1]:+.4g}"
            "<extra></extra>",
            mode="markers",
            showlegend=bool(effects),
            marker={
                "color": hue,
                "symbol": symbol,
                "size": 9 if len(effects) <= 40 else 7,
                "opacity": 0.8,
                "line": {"color": "white", "width": 0.75},
            },
        )
    if not effects:
        figure.add_annotation(
            text="no effect was measured", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, bgcolor="white"
        )
    correlation, why = _rank_correlation(effects)
    _dress(
        figure,
        title=f"Spearman {correlation}, sign agrees for {len(agreeing)} of {len(effects)}",
        subtitle=why
        or "the metric's fall when one node is ablated" + (", signed log scales" if scale is not None else ""),
    )
    ticks: dict[str, Any] = {"nticks": 9}
    if scale is not None:
        marks = _signed_powers(scale, max(map(abs, values)))
        texts = [f"{mark:g}".replace("-", "−") for mark in marks]
        ticks = {"tickvals": [spread(mark) for mark in marks], "ticktext": texts, "tickangle": 0}
    figure.update_xaxes(title_text="predicted effect (attribution)", range=shown, zerolinecolor=LINE, **ticks)
    figure.update_yaxes(title_text="measured effect", range=shown, zerolinecolor=LINE, **ticks)
    return figure


def save_plot(figure: plotly.graph_objects.Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as a page that needs no network (`.html`) or as a picture (`.png`, `.svg`), whole or not at all.

    Raises:
        CircuitError: another suffix; the file can't be written; or, for a picture, there is no kaleido or no browser.
    """
    name = os.fspath(path)
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise CircuitError(f"Can't draw {name!r}: expected a name that ends in {', '.join(SUFFIXES)}, got {suffix!r}.")
    if not Path(name).absolute().parent.is_dir():  # before seconds go by
        raise CircuitError(f"Can't write {name!r}: No such directory.")
    data = _page(figure, Path(name).stem) if suffix == ".html" else _picture(figure, suffix[1:])
    try:
        write_atomically(path, data)
    except OSError as error:
        raise CircuitError(f"Can't write {name!r}: {error.strerror or error}.") from error


def _page(figure: plotly.graph_objects.Figure, title: str) -> bytes:
    body = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        include_mathjax=False,
        config={"displaylogo": False, "responsive": True},
        default_height="100%",
    )
    return PAGE.format(title=_text(title), body=body).encode()


def _picture(figure: plotly.graph_objects.Figure, form: str) -> bytes:
    try:
        import kaleido
        from kaleido.errors import (
            BrowserClosedError,
            BrowserFailedError,
            ChromeNotFoundError,
            JavascriptError,
            KaleidoError,
        )
    except ImportError as error:
        raise CircuitError(
            "A picture needs kaleido 1 or newer, which is not installed: "
            "pip install 'circuitlens[plots]', or save the figure as .html."
        ) from error
    layout: Any = figure.layout
    size = {"width": layout.width or SIZE[0], "height": layout.height or SIZE[1]}
    try:
        # Not `figure.to_image`, which always lets the browser fetch MathJax from a server.
        return kaleido.calc_fig_sync(
            figure.to_dict(),
            opts={"format": form, "scale": PIXELS if form == "png" else 1, **size},
            kopts={"mathjax": False},
        )
    except ChromeNotFoundError as error:
        named = os.environ.get("BROWSER_PATH")
        found = f"BROWSER_PATH names {named!r}, which is not there" if named else "none was found"
        raise CircuitError(
            f"A picture is drawn by an installed Chrome or Chromium, and {found}: install one "
            "(Debian: apt-get install chromium), name it in BROWSER_PATH, or save the figure as .html."
        ) from error
    except (BrowserFailedError, BrowserClosedError, TimeoutError) as error:
        raise CircuitError(
            "A picture is drawn by an installed Chrome or Chromium, and it did not start or closed while drawing: "
            "name another one in BROWSER_PATH, or save the figure as .html."
        ) from error
    except (JavascriptError, KaleidoError) as error:
        raise CircuitError(f"The figure can't be drawn as a picture ({error}): save it as .html.") from error


def _dress(figure: plotly.graph_objects.Figure, title: str, subtitle: str) -> None:
    """What both figures have in common: the legend stands below the axes, where it covers nothing."""
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif", "size": 13, "color": INK},
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": 13, "color": GREY}},
            "x": 0.02,
            "xanchor": "left",
            "y": 0.97,
            "yanchor": "top",
            "yref": "container",
            "font": {"size": 16},
        },
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        margin={"l": 70, "r": 24, "t": 84, "b": 60},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": INK}},
        hovermode="closest",
    )
    figure.update_xaxes(showline=True, linecolor=LINE, ticks="outside", tickcolor=LINE, title_standoff=8)
    figure.update_yaxes(showline=True, linecolor=LINE, ticks="outside", tickcolor=LINE, title_standoff=8)


def _text(value: str, most: int = 80) -> str:
    """Foreign text as plotly shows it literally: its labels are a subset of HTML."""
    short = value if len(value) <= most else value[: most - 1] + "…"
    return html.escape(short.encode("utf-8", "replace").decode(), quote=False)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _hover(curve: Curve, point: Point) -> str:
    lines = [
        f"<b>{_text(curve.prompts)}</b>, {_count(curve.pairs, 'pair')}",
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


def _control(curves: Sequence[Curve]) -> tuple[Curve, list[Point]] | None:
    """The curve whose random control is drawn, the held-out one if there is one, and its points that have one."""
    for curve in sorted(curves, key=lambda curve: curve.prompts != HELD_OUT):
        points = [point for point in _points(curve) if point.random is not None]
        if points:
            return curve, points
    return None


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


def _linear(value: float) -> float:
    return value


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _scale(values: Iterable[float]) -> float | None:
    """Up to which size a signed logarithmic axis is linear; None where a linear axis shows the values well."""
    sizes = sorted(abs(value) for value in values if value)
    if not sizes or sizes[len(sizes) // 2] >= 0.05 * sizes[-1]:
        return None
    return min(max(sizes[len(sizes) // 10], sizes[-1] * 10.0**-DECADES), sizes[-1] / 10)


def _signed_powers(scale: float, largest: float) -> list[float]:
    """0 and up to three powers of ten of each sign, none of them so near to 0 that the labels would meet."""
    exponents = range(math.ceil(math.log10(2 * scale)), math.floor(math.log10(largest)) + 1)
    powers = [10.0**exponent for exponent in exponents[:: -math.ceil(len(exponents) / 3) or -1]][::-1]
    return [*(-power for power in reversed(powers)), 0.0, *powers]


def _rank_correlation(effects: Sequence[Effect]) -> tuple[str, str]:
    """Spearman's correlation, or "undefined" and why."""
    predicted, measured = [effect.predicted for effect in effects], [effect.measured for effect in effects]
    if len(effects) < 2:
        return "undefined", "a correlation needs 2 nodes or more"
    for what, values in (("predicted", predicted), ("measured", measured)):
        if len(set(values)) == 1:
            return "undefined", f"no correlation: every {what} effect is the same"
    from scipy.stats import spearmanr

    result: Any = spearmanr(predicted, measured)
    return f"{result.statistic:+.2f}", ""
