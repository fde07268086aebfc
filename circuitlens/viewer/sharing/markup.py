"""Parts of the page as text of HTML: what Dash would have React make of them in the browser."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from html import escape
from typing import Any

from dash.development.base_component import Component

NAMES = {"className": "class", "htmlFor": "for", "tabIndex": "tabindex", "colSpan": "colspan"}


def markup(part: Any, focusable: Collection[str] = ()) -> str:
    """A part, or several, as HTML; every text and attribute in it is escaped.

    Of its buttons those stay that put a node in focus which is `focusable`; one of another node is its text, and what
    only a server can do is left out.
    """
    if part is None:
        return ""
    if isinstance(part, list | tuple):
        return "".join(markup(one, focusable) for one in part)
    if not isinstance(part, Component):
        return escape(str(part))
    kind, props = _kind_of(part), part.to_plotly_json()["props"]
    children = markup(props.pop("children", None), focusable)
    if kind == "button" and not (props.get("data-do") == "focus" and props.get("data-on") in focusable):
        return f"<span>{children}</span>" if props.get("data-do") == "focus" else ""
    return f"<{kind}{''.join(map(_attribute, sorted(props.items())))}>{children}</{kind}>"


def _kind_of(part: Component) -> str:
    told = part.to_plotly_json()
    assert told["namespace"] == "dash_html_components", f"{told['type']} is no element of HTML"
    return str(told["type"]).lower()


def _attribute(item: tuple[str, Any]) -> str:
    name, value = item
    if value is None or value is False or name == "key":
        return ""
    if value is True:
        return f" {name}"
    text = _style(value) if name == "style" else str(value)
    return f' {NAMES.get(name, name)}="{escape(text)}"'


def _style(style: Mapping[str, object]) -> str:
    return "; ".join(f"{re.sub('[A-Z]', lambda c: f'-{c[0].lower()}', name)}: {value}" for name, value in style.items())
