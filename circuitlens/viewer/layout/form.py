"""The form for a new circuit, with the options that the chosen model's adapter declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

import dash_mantine_components as dmc
from dash import html

from circuitlens.literals import MethodName
from circuitlens.options import AdapterOption
from circuitlens.viewer.layout.parts import aria

FIELDS = ("adapter", "prompt", "answer", "distractor", "corrupted", "method")
"""The fields that every model has; their ids begin with "new-"."""


def form(models: Mapping[str, str]) -> Any:
    """The form, in a dialog; `models` are what is to be read of the adapters."""
    methods = [{"value": "", "label": "the default"}, *({"value": m, "label": m} for m in get_args(MethodName))]
    answers = [
        dmc.TextInput(id="new-answer", label="Answer", description="the output to explain; several with | between"),
        dmc.TextInput(id="new-distractor", label="Distractor", description="set against it; may be left out"),
    ]
    return dmc.Modal(
        [
            html.Div(id="examples"),
            dmc.Select(
                id="new-adapter",
                label="Model",
                data=[
                    {"value": name, "label": name if model == name else f"{model} (adapter {name})"}
                    for name, model in models.items()
                ],
                value=next(iter(models), None),
                allowDeselect=False,
            ),
            _prompt("new-prompt", "Prompt", "what the model reads"),
            _prompt(
                "new-corrupted",
                "Corrupted prompt",
                "differs in what matters, token by token as long; may be left out",
            ),
            html.Div(answers, className="two"),
            html.Div(id="new-preview", **aria(live="polite")),
            html.Button("Load the model", id="new-load", className="do", hidden=True),
            dmc.Select(
                id="new-method",
                label="Method",
                description="how attribution is measured",
                data=methods,
                value="",
                allowDeselect=False,
            ),
            html.Div(id="new-options", className="two"),
            html.Div(id="new-fault", role="alert"),
            dmc.Button("Find the circuit", id="find", mt="md", variant="default"),
        ],
        id="new-circuit",
        title="New circuit",
        size="lg",
        opened=False,
        closeButtonProps=cast(Any, aria(label="Close")),
        transitionProps=cast(Any, {"duration": 0}),
        returnFocus=True,
    )


def _prompt(name: str, label: str, description: str) -> Any:
    """A field of a prompt, which may have several lines."""
    return dmc.Textarea(id=name, label=label, description=description, autosize=True, minRows=1, maxRows=6)


def option_id(type: str, adapter: Any, name: Any) -> dict[str, Any]:
    """The id of an option's field; `ALL` stands for any adapter or name."""
    return {"type": type, "adapter": adapter, "name": name}


def option_field(type: str, adapter: str, option: AdapterOption, default: object, claim: object = None) -> Any:
    """The field of one option.

    Args:
        type: what its form is for: "option" of a new circuit, "claim" of one that is there.
        adapter: the adapter's name.
        option: the option.
        default: what it is where nothing is given, None where that is left to the adapter.
        claim: what the circuit's file says that it was, None if nothing.
    """
    said = "" if claim is None else f" The file says {str(claim)[:200]!r}."
    about: dict[str, Any] = {
        "id": option_id(type, adapter, option.name),
        "label": option.name.replace("_", " ").capitalize(),
        "description": f"{option.help}{' Separated by commas.' if option.several else ''}{said}",
        # A field that is made anew keeps what was typed in.
        "persistence": True,
        "persistence_type": "memory",
    }
    if option.type is bool:
        return dmc.Select(**about, data=["yes", "no"], clearable=True, placeholder=_told(default))
    if option.choices:
        return dmc.Select(**about, data=list(option.choices), clearable=True, placeholder=_told(default))
    if option.type is str or option.several:
        return dmc.TextInput(**about, placeholder=_told(default))
    return dmc.NumberInput(**about, allowDecimal=option.type is float, placeholder=_told(default))


def _told(default: object) -> str:
    return "the default" if default is None else str(default)
