"""What commands take in: adapters, files of prompts, and the flags that more than one command has."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from circuitlens.cli.output import print_skipped
from circuitlens.literals import Verdict

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.circuit import Circuit
    from circuitlens.prompts.pairs import Pair

MAX_SEED = 2**63 - 1
MANY = 1_000_000
"""Most of what is counted: beyond what any run would end with, and far from what a tensor's size may be."""

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


def require_apart(files: Mapping[str, Path | None]) -> None:
    """Refuse one file in two places of a command line; `files` are by the flags that name them."""
    named = [(flag, path) for flag, path in files.items() if path is not None]
    for (flag, path), (other, another) in combinations(named, 2):
        if same_file(path, another):
            raise typer.BadParameter(f"{str(path)!r} is there twice: give two files.", param_hint=f"{flag}, {other}")


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths are of one file, whether it is there or not."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or one.samefile(other)
    except (OSError, ValueError):  # of one that is not there; what is wrong with it is said where it is used
        return False


def exit_unless(required: Verdict | None, circuit: Circuit) -> None:
    """Exit with 3 if the verdict on the circuit is worse than the required one."""
    order = get_args(Verdict)
    evidence = circuit.evidence
    if required is not None and evidence is not None and order.index(evidence.verdict) > order.index(required):
        raise typer.Exit(3)
