"""The flags that installed adapters declare, as flags of a command.

1. What adapters declare is gathered by flag: two adapters that declare `--dtype` share one, whose help names both.
2. The flags are added to a command when it is run, so that other commands don't look for plugins.
3. Once the adapter is known, the values are read as it declares them, and a flag that it does not declare is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from functools import cached_property
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from circuitlens.options import AdapterOption
from circuitlens.registry import declared_options

log = logging.getLogger(__name__)

Flags = Mapping[str, Mapping[str, AdapterOption]]
"""Flags, and the option that each is of every adapter that declares it, by the adapter's name."""

_typed: ContextVar[tuple[Flags, Mapping[str, Any]]] = ContextVar("_typed")
"""The flags of the command that runs, and the values that were typed."""


class AdapterCommand(TyperCommand):
    """A command that takes the flags of all adapters beside its own; `given_options` has what was given."""

    @cached_property
    def _flags(self) -> Flags:
        return gather_flags({"--help", *(flag for parameter in self.params for flag in parameter.opts)})

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own parameters, the adapters' flags, and `--help`."""
        *own, last = super().get_params(ctx)
        return [*own, *_parameters(self._flags), last]

    def invoke(self, ctx: Any) -> Any:
        """Run the command's function with its own parameters; it asks `given_options` for the adapters'."""
        values = {flag: ctx.params.pop(_parameter_name(flag)) for flag in self._flags}
        _typed.set((self._flags, {flag: value for flag, value in values.items() if value or value is False}))
        return super().invoke(ctx)


def gather_flags(taken: Collection[str]) -> Flags:
    """The flags that installed adapters declare; one that means something else already is left out, with a warning."""
    flags: dict[str, dict[str, AdapterOption]] = {flag: {} for flag in taken}
    for adapter, options in declared_options().items():
        for option in options:
            sharing = flags.get(option.flag)
            if sharing is None or any((option.type is bool) == (other.type is bool) for other in sharing.values()):
                flags.setdefault(option.flag, {})[adapter] = option
            else:
                flag, owner = option.flag, " and ".join(sharing) or "the command itself"
                log.warning("%s of the adapter %r is left out: %s has another %s.", flag, adapter, owner, flag)
    return {flag: options for flag, options in flags.items() if flag not in taken}


def given_options(adapter: str) -> dict[str, object]:
    """The options of `adapter` that were given on the command line, by the names that its `load` takes.

    Raises:
        typer.BadParameter: a flag was given that the adapter does not declare, or a value that it can't have.
    """
    flags, typed = _typed.get()
    given: dict[str, object] = {}
    for flag, value in typed.items():
        option = flags[flag].get(adapter)
        if option is None:
            others = " and ".join(map(repr, flags[flag])) + (" do" if len(flags[flag]) > 1 else " does")
            raise typer.BadParameter(f"the adapter {adapter!r} does not take it; {others}.", param_hint=flag)
        given[option.name] = _read(option, value)
    return given


def _read(option: AdapterOption, value: bool | list[str]) -> object:
    if isinstance(value, bool):
        return value
    try:
        values = [option.parse(text) for text in value]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option.flag) from None
    return values if option.several else values[-1]


def _parameters(flags: Flags) -> list[Any]:
    """The flags as parameters of a command: typer makes them from the signature of a function that is never called."""

    def function() -> None:
        raise AssertionError("only its signature is of use")

    parameters = [
        Parameter(_parameter_name(flag), Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(flag, options))
        for flag, options in flags.items()
    ]
    function.__signature__ = Signature(parameters)
    alone = typer.Typer(add_completion=False)
    alone.command()(function)
    return get_command(alone).params


def _parameter_name(flag: str) -> str:
    return "adapter_" + flag.removeprefix("--").replace("-", "_")


def _annotation(flag: str, options: Mapping[str, AdapterOption]) -> Any:
    """What typer is told of a flag; every value is taken as text here and read when the adapter is known."""
    adapters_by_help: dict[str, list[str]] = {}
    for adapter, option in options.items():
        adapters_by_help.setdefault(option.help, []).append(adapter)
    help = " ".join(f"{', '.join(adapters)}: {text}" for text, adapters in adapters_by_help.items())
    types = {option.type.__name__ for option in options.values()}
    if "bool" in types:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag.removeprefix('--')}", help=help)]
    choices = dict.fromkeys(choice for option in options.values() for choice in option.choices)
    values = choices if all(option.choices for option in options.values()) else sorted(types)
    return Annotated[list[str] | None, typer.Option(flag, help=help, metavar=f"<{'|'.join(values)}>")]
