"""The figure of predicted against measured effects, a point a node."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from circuitlens.circuit.evidence import Effect, Evidence
from circuitlens.report.palette import GREY, HUES
from circuitlens.report.plots.style import GROUND, LINE, dress, text_of

if TYPE_CHECKING:
    import plotly.graph_objects

DECADES = 4
"""How many powers of ten a signed logarithmic axis shows, at most, on each side of zero."""
HOVER = "%{hovertext}<br>predicted %{customdata[0]:+.4g}<br>measured %{customdata[1]:+.4g}<extra></extra>"


def effect_plot(evidence: Evidence, names: Mapping[str, str] | None = None) -> plotly.graph_objects.Figure:
    """Each node's predicted effect against its measured one; `names` has what to call a node, otherwise its id.

    Where most effects are tiny against the largest, both axes are linear around zero and logarithmic further out.
    """
    import plotly.graph_objects as go

    effects = evidence.effects
    values = [value for effect in effects for value in (effect.predicted, effect.measured)]
    scale = _scale(values)

    def spread(value: float) -> float:  # where it is on the axes
        return value if scale is None else math.asinh(value / scale)

    low, high = spread(min([0.0, *values])), spread(max([0.0, *values]))
    pad = 0.06 * (high - low) or 1.0
    shown = [low - pad, high + pad]
    dashed: dict[str, Any] = {"color": GREY, "width": 1.5, "dash": "dash"}
    figure = go.Figure()
    figure.add_scatter(name="measured as predicted", x=shown, y=shown, mode="lines", hoverinfo="skip", line=dashed)
    agreeing = [effect for effect in effects if _sign(effect.predicted) == _sign(effect.measured)]
    others = [effect for effect in effects if _sign(effect.predicted) != _sign(effect.measured)]
    for name, chosen, hue, symbol in (("agrees", agreeing, HUES[0], "circle"), ("differs", others, HUES[1], "x")):
        line, size = {"color": GROUND, "width": 0.75}, 9 if len(effects) <= 40 else 7
        figure.add_scatter(
            name=f"sign {name} ({len(chosen)})",
            x=[spread(effect.predicted) for effect in chosen],
            y=[spread(effect.measured) for effect in chosen],
            customdata=[[effect.predicted, effect.measured] for effect in chosen],
            hovertext=[text_of((names or {}).get(effect.node, effect.node)) for effect in chosen],
            hovertemplate=HOVER,
            mode="markers",
            marker={"color": hue, "symbol": symbol, "size": size, "opacity": 0.8, "line": line},
        )
    figure.update_traces(showlegend=bool(effects))
    if not effects:
        figure.add_annotation(
            text="no effect was measured", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, bgcolor=GROUND
        )
    correlation, why = _rank_correlation(effects)
    signed = ", signed log scales" if scale is not None else ""
    dress(
        figure,
        title=f"Spearman {correlation}, sign agrees for {len(agreeing)} of {len(effects)}",
        subtitle=why or f"the metric's fall when one node is ablated{signed}",
    )
    axis = {"range": shown, "zerolinecolor": LINE, **_ticks(scale, values)}
    figure.update_xaxes(title_text="predicted effect (attribution)", **axis)
    figure.update_yaxes(title_text="measured effect", **axis)
    return figure


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _scale(values: Iterable[float]) -> float | None:
    """Up to which size a signed logarithmic axis is linear; None where a linear axis shows the values well."""
    sizes = sorted(abs(value) for value in values if value)
    if not sizes or sizes[len(sizes) // 2] >= 0.05 * sizes[-1]:
        return None
    return min(max(sizes[len(sizes) // 10], sizes[-1] * 10.0**-DECADES), sizes[-1] / 10)


def _ticks(scale: float | None, values: Sequence[float]) -> dict[str, Any]:
    """The ticks of an axis: on a signed logarithmic one 0 and up to three powers of ten of each sign, so that no labels
    meet.
    """
    if scale is None:
        return {"nticks": 9}
    exponents = range(math.ceil(math.log10(2 * scale)), math.floor(math.log10(max(map(abs, values)))) + 1)
    powers = [10.0**exponent for exponent in exponents[:: -math.ceil(len(exponents) / 3) or -1]][::-1]
    marks = [*(-power for power in reversed(powers)), 0.0, *powers]
    texts = [f"{mark:g}".replace("-", "−") for mark in marks]
    return {"tickvals": [math.asinh(mark / scale) for mark in marks], "ticktext": texts, "tickangle": 0}


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
