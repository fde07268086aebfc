"""What commands take in: adapters, files of prompts, and the flags that more than one command has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from circuitlens.cli.output import print_skipped
from circuitlens.literals import Verdict

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.circuit import Circuit
    from circuitlens.prompts.pairs import Pair

HeldOut = Annotated[
    Path | None,
    typer.Option(help="A file of prompts of the same task that the circuit was not found on; by default other nouns."),
]
RequiredVerdict = Annotated[
    Literal["supported", "weak"] | None,
    typer.Option(help="Exit with 3 if the verdict is not this one or a better one."),
]


def installed_names() -> list[str]:
    """The names of the installed adapters."""
    from circuitlens.registry import installed_adapters

    return [installed.name for installed in installed_adapters()]


def load_adapter(adapter: str, options: Mapping[str, object]) -> Adapter:
    """The adapter of that name; a terminal is told that it is being loaded."""
    from circuitlens.registry import load

    if sys.stderr.isatty():
        typer.echo(f"Loading {adapter} …", err=True)
    return load(adapter, **options)


def read_prompts(path: Path) -> list[Pair]:
    """The prompts of a file; rows that can't be used are listed on stderr."""
    from circuitlens.prompts.pairs import read_pairs

    pairs, skipped = read_pairs(path)
    print_skipped(str(path), skipped, len(pairs) + len(skipped), "row")
    return pairs


def exit_unless(required: Verdict | None, circuit: Circuit) -> None:
    """Exit with 3 if the verdict on the circuit is worse than the required one."""
    order = get_args(Verdict)
    evidence = circuit.evidence
    if required is not None and evidence is not None and order.index(evidence.verdict) > order.index(required):
        raise typer.Exit(3)
