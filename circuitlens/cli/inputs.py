"""What commands take in: adapters, files of prompts, and the flags that more than one command has."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from circuitlens.claims import Unsaid, harmless, unsaid
from circuitlens.cli.adapter_options import given_options
from circuitlens.cli.output import print_skipped
from circuitlens.errors import CircuitError, CircuitLensError
from circuitlens.literals import NEURONPEDIA, Verdict
from circuitlens.registry import ALIASES

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.circuit import Circuit
    from circuitlens.prompts.pairs import Pair
    from circuitlens.runfolder import RunRecord

MAX_SEED = 2**63 - 1
MANY = 1_000_000
"""Most of what is counted: beyond what any run would end with, and far from what a tensor's size may be."""


def complete_adapter(incomplete: str) -> list[str]:
    """The installed adapters whose names begin so, for a shell."""
    return [name for name in installed_names() if name.startswith(incomplete)]


AdapterName = Annotated[
    str,
    typer.Argument(help="An adapter's name; `circuitlens adapters` lists them.", autocompletion=complete_adapter),
]
HeldOut = Annotated[
    Path | None,
    typer.Option(help="A file of prompts of the same task that the circuit was not found on; by default other nouns."),
]
Corpus = Annotated[
    Path | None, typer.Option(help="A corpus's folder (`circuitlens corpus build`), for what features stand for.")
]
Labels = Annotated[
    list[str] | None,
    typer.Option(help="What features are called: a file (JSON or CSV), or `neuronpedia` to ask that; or several."),
]
RequiredVerdict = Annotated[
    Literal["supported", "weak"] | None,
    typer.Option(help="Exit with 3 if the verdict is not this one or a better one."),
]


Load = Callable[[str, Mapping[str, object]], "Adapter"]
"""Loads an adapter by its name, with options."""


def installed_names() -> list[str]:
    """The names of the installed adapters."""
    from circuitlens.registry import installed_adapters

    return [installed.name for installed in installed_adapters()]


def require_installed(adapter: str) -> str:
    """The name of an adapter that is installed, for that or an older name of it; refuses any other."""
    name = ALIASES.get(adapter, adapter)
    if name not in (known := installed_names()):
        raise typer.BadParameter(f"there is no {adapter!r}; installed: {', '.join(known)}.", param_hint="ADAPTER")
    return name


def meaning_sources(corpus: Path | None, labels: Sequence[str] | None) -> dict[str, Any]:
    """What says what features stand for, as `circuitlens.label` takes it: read before long work, so that what is wrong
    with it shows at once. Nothing where nothing was given.
    """
    if corpus is None and not labels:
        return {}
    from circuitlens.corpus import read
    from circuitlens.meaning.files import read_labels

    for file in labels or ():
        if file != NEURONPEDIA:
            read_labels(file)
    return {"corpus": None if corpus is None else read(corpus), "labels": labels or ()}


def load_adapter(adapter: str, options: Mapping[str, object]) -> Adapter:
    """The adapter of that name; a terminal is told that it is being loaded."""
    from circuitlens.registry import load

    if sys.stderr.isatty():
        typer.echo(f"Loading {adapter} …", err=True)
    return load(adapter, **options)


def load_once() -> Load:
    """`load_adapter` for several circuits: one after another of the same adapter and options share what is loaded."""
    last: list[tuple[tuple[str, Mapping[str, object]], Adapter]] = []

    def load(adapter: str, options: Mapping[str, object]) -> Adapter:
        if not last or last[0][0] != (adapter, options):
            last.clear()  # two models may be more than memory holds
            last.append(((adapter, options), load_adapter(adapter, options)))
        return last[0][1]

    return load


def load_as_said(file: Path, circuit: Circuit, load: Load = load_adapter) -> Adapter:
    """The adapter of a circuit's file with the options that were typed, set against what the file says that it was.

    Raises:
        CircuitLensError: no command loads it, or it is another one.
    """
    _check_loadable(circuit)
    return _load_as_said(file, circuit, given_options(circuit.adapter), load)


def _check_loadable(circuit: Circuit) -> None:
    if "wrapped" in circuit.options:
        raise CircuitLensError(
            "The circuit was made with circuitlens.wrap, whose model no command loads: call "
            "circuitlens.verify(adapter, circuit) from Python."
        )
    if circuit.adapter not in installed_names():
        raise CircuitLensError(
            f"The circuit was made with the adapter {circuit.adapter!r}, which is not installed. If it was made with "
            "circuitlens.wrap, call circuitlens.verify(adapter, circuit) from Python."
        )


def _load_as_said(file: Path, circuit: Circuit, given: Mapping[str, object], load: Load) -> Adapter:
    """The adapter with a person's own options, set against what the circuit's file says that it was."""
    from circuitlens.evaluation.circuit_inputs import require_same_adapter

    options, what = {**harmless(circuit.adapter, circuit.options), **given}, f"The circuit of {str(file)!r}"
    _refuse(what, unsaid(circuit.adapter, circuit.options, options))
    adapter = load(circuit.adapter, options)
    try:
        require_same_adapter(adapter, circuit)
    except CircuitError:
        _refuse(what, unsaid(circuit.adapter, circuit.options, options, adapter.options))
        raise
    return adapter


def load_for_run(folder: Path, record: RunRecord) -> Adapter:
    """The adapter of a run with the options that were typed, set against what its folder says that it was.

    Raises:
        CircuitLensError: it is another one.
    """
    require_installed(record.adapter)
    options = {**harmless(record.adapter, record.options), **given_options(record.adapter)}
    what = f"The run of {str(folder)!r}"
    _refuse(what, unsaid(record.adapter, record.options, options))
    adapter = load_adapter(record.adapter, options)
    _refuse(what, unsaid(record.adapter, record.options, options, adapter.options))
    return adapter


def _refuse(what: str, wrong: Unsaid | None) -> None:
    """Say what a file claims and nobody said, with the flags that say it."""
    if wrong is None:
        return
    words = [word for option, value in wrong.options for word in option.flags(value)]
    if words and all(word.isprintable() and len(word) <= 200 for word in words):
        raise CircuitLensError(f"{what} {wrong}: if you trust it, add {shlex.join(words)}")
    raise CircuitLensError(f"{what} {wrong}: no flags load its adapter alike. Was the file edited?")


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
