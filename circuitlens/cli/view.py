"""`circuitlens view` and `circuitlens demo`: serve the page of circuits until Ctrl-C."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitlens.cli.inputs import Corpus, same_file
from circuitlens.cli.output import print_path_effects, print_summary
from circuitlens.errors import CorpusError, ViewerError

if TYPE_CHECKING:
    import circuitlens.corpus as corpora
    from circuitlens.adapter import Adapter
    from circuitlens.circuit import Circuit

DEFAULT_PORT = 8050

log = logging.getLogger(__name__)

Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help=f"Port of the page; by default {DEFAULT_PORT}, or any that is free."),
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Serve the page without opening it.")]


def view(
    files: Annotated[list[Path], typer.Argument(help="Circuit files to switch between.")],
    corpus: Corpus = None,
    port: Port = None,
    no_browser: NoBrowser = False,
) -> None:
    """Show circuit files in a local page."""
    from circuitlens.circuit import open_circuit

    once: list[Path] = []
    for file in files:
        if any(same_file(file, other) for other in once):
            typer.echo(f"{file} is given twice, and shown once.", err=True)
        else:
            once.append(file)
    circuits = [open_circuit(file) for file in once]
    opened = None
    if corpus is not None:
        from circuitlens.corpus import read
        from circuitlens.meaning.labelling import label

        opened = read(corpus)
        circuits = [label(circuit, corpus=opened) for circuit in circuits]
    _serve(circuits, port, no_browser, paths=once, corpus=opened)


def demo(port: Port = None, no_browser: NoBrowser = False) -> None:
    """Find the circuits of "The cat" and "The cats" in the toy model, check them, and show them."""
    import circuitlens
    from circuitlens.files import cache_folder

    adapter = circuitlens.load("toy")
    typer.echo(adapter.description)
    corpus = sample_corpus(adapter, cache_folder() / "toy-corpus")
    circuits = []
    for example in reversed(adapter.examples):
        circuit = circuitlens.find(adapter, example.prompt, example.answer, example.distractor)
        circuit = circuitlens.label(circuit, adapter, corpus=corpus)
        print_summary(circuit)
        print_path_effects(adapter, circuit)
        circuits.append(circuit)
    _serve(circuits, port, no_browser, adapters=[adapter], corpus=corpus)


def sample_corpus(adapter: Adapter, folder: Path) -> corpora.Corpus | None:
    """What the features of an adapter do on its sample, made in a folder unless it is there already; None where it
    can't be kept, or is of another model.
    """
    from circuitlens.corpus import build

    try:
        return build(adapter, folder)
    except CorpusError as fault:
        log.warning("%s", fault)
        return None


def _serve(
    circuits: list[Circuit],
    port: int | None,
    no_browser: bool,
    *,
    adapters: Sequence[Adapter] = (),
    paths: Sequence[Path] | None = None,
    corpus: corpora.Corpus | None = None,
) -> None:
    """Serve the page until Ctrl-C, on any free port where no port was asked for and the default one is taken."""
    from circuitlens.viewer.server import open_page, start

    how: dict[str, Any] = {"adapters": adapters, "paths": paths, "corpus": corpus}
    try:
        viewer = start(circuits, **how, port=DEFAULT_PORT if port is None else port)
    except ViewerError:
        if port is not None:
            raise
        viewer = start(circuits, **how)
    typer.echo(f"\nViewing {viewer.url}  (Ctrl-C ends it)")
    if not no_browser:
        open_page(viewer.url)
    viewer.wait()
