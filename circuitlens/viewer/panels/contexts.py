"""What a feature does on a text of one's own: how often it is active, how strongly, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dash import html

from circuitlens.report.text import count, percent, plain, visible
from circuitlens.viewer.layout.parts import aria

if TYPE_CHECKING:
    from circuitlens.corpus.reading import Context, FeatureRecord

SHOWN = 5
"""Of the contexts in which a feature is strongest, how many are shown; all are in `circuitlens corpus show`."""

BEFORE, AFTER = 5, 8
"""Tokens shown before and after the one at which it is active."""


def contexts_panel(record: FeatureRecord | None) -> list[Any]:
    """A feature's density, histogram and contexts; nothing where no corpus knows of it."""
    if record is None:
        return []
    told = f"Active at {percent(record.density)} of {count(record.tokens)} tokens of the corpus"
    if not record.contexts:
        return [html.H3("On the corpus"), html.P(f"{told}.", className="hint")]
    weaker = [html.H4("Less strongly"), html.Ul([*map(_context, record.weaker)])] if record.weaker else []
    return [
        html.H3("On the corpus"),
        html.P(f"{told}, most strongly in:", className="hint"),
        html.Div(
            [html.Ul([*map(_context, record.contexts[:SHOWN])]), *weaker, *_histogram(record)], className="contexts"
        ),
    ]


def _context(context: Context) -> Any:
    first, last = max(0, context.pos - BEFORE), context.pos + 1 + AFTER
    parts = context.tokens[first : context.pos], context.tokens[context.pos + 1 : last]
    before, after = (plain("".join(part).replace("\n", " ")) for part in parts)
    return html.Li([before, html.Mark(visible(context.token)), after], title=f"{context.value:.2f} at the marked token")


def _histogram(record: FeatureRecord) -> list[Any]:
    """How often it has which size, from its smallest to its largest, in half octaves."""
    sizes = [n for n, (_, _, times) in enumerate(record.histogram) if times]
    bins = record.histogram[sizes[0] : sizes[-1] + 1]
    if len(bins) == 1:
        return [
            html.P(f"Its size is from {bins[0][0]:.3g} to {bins[0][1]:.3g} wherever it is active.", className="hint")
        ]
    most = max(times for *_, times in bins)
    bars = [
        html.I(style={"height": f"{100 * times / most:.0f}%"}, title=f"{low:.3g}–{high:.3g}: {count(times)}")
        for low, high, times in bins
    ]
    told = (
        f"Sizes from {bins[0][0]:.3g} to {bins[-1][1]:.3g}, most often {max(bins, key=lambda b: b[2])[0]:.3g} and more."
    )
    return [html.Div(bars, className="histogram", role="img", **aria(label=told)), html.P(told, className="hint")]
