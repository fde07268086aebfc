"""`circuitlens label`: says what the features of circuit files stand for, and writes it into them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitlens.cli.inputs import Corpus, Labels, load_as_said, load_once, meaning_sources
from circuitlens.cli.output import print_table, printable


def label(
    files: Annotated[list[Path], typer.Argument(help="Circuit files; the labels are written into them.")],
    corpus: Corpus = None,
    labels: Labels = None,
) -> None:
    """Label the features of circuits, print the labels with their sources, and write them into the files.

    Without `--labels`, or with `--corpus`, the model is loaded, once for circuits of it that follow each other: its
    flags are those of `find`.
    """
    import circuitlens
    from circuitlens.circuit import update_file
    from circuitlens.report.summary import meaning_rows

    sources = meaning_sources(corpus, labels)
    load = load_once()
    for file in files:
        circuit = circuitlens.open(file)
        adapter = load_as_said(file, circuit, load) if corpus is not None or not labels else None
        circuit = circuitlens.label(circuit, adapter, **sources)
        typer.secho(f"\n{printable(circuit.prompt)}", bold=True)
        print_table(meaning_rows(circuit))
        told = circuit.meanings
        update_file(file, circuit, lambda now, told=told: now.with_meanings(told))
        typer.echo(f"Wrote the labels to {file}.")
