"""What commands print: circuits, evidence, tables and lists, all of it literally and safe for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitlens.errors import CircuitError

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.circuit import Circuit
    from circuitlens.prompts.pairs import Skipped

SKIPPED = 10
"""How many skipped rows are listed one by one."""

UNBOUNDED = 10**6
"""Columns of what is no terminal: no line is as long, so none is wrapped."""


def print_summary(circuit: Circuit, more: Sequence[tuple[str, str]] = ()) -> None:
    """What a circuit explains, how it was made, and what it comes to; `more` are rows of the caller's own."""
    from circuitlens.report.summary import summary_rows

    typer.secho(f"\n{printable(circuit.prompt)}", bold=True)
    print_table([*summary_rows(circuit), *more])


def print_path_effects(adapter: Adapter, circuit: Circuit) -> None:
    """Ablate each node of the strongest path in the model, and move the path by itself, beside what is predicted."""
    from circuitlens.circuit import full_name
    from circuitlens.evaluation.features import describe
    from circuitlens.evaluation.intervention import ablate
    from circuitlens.evaluation.paths import path_effect

    baseline = "its value in the corrupted run" if circuit.from_corrupted else "zero"
    typer.echo(f"Set to {baseline} for real, the metric falls by (a nonlinearity on the way makes the difference)")
    rows = [("  node", "predicted", "measured", "speaks for")]
    path = path_effect(adapter, circuit)
    for node in path.nodes[:-1]:
        result = ablate(adapter, circuit, [node.id])
        promoted = ""
        if node.kind in ("feature", "neuron"):
            outputs = describe(adapter, circuit, node.id, outputs=4).promoted
            promoted = ", ".join(repr(text) for text, logit in outputs if logit > 0)
        name = full_name(node, circuit.positions)
        rows.append((f"  {name}", f"{result.predicted_drop:+.4f}", f"{result.measured_drop:+.4f}", promoted))
    alone = "–" if path.measured is None else f"{path.measured:+.4f}"
    rows.append(("  the path alone", f"{path.weight:+.4f}", alone, ""))
    print_table(rows)


def print_verdict(circuit: Circuit) -> None:
    """The checks of a circuit's evidence as a table, the curves, and the verdict with its reasons."""
    from circuitlens.report.summary import check_rows, curve_rows, describe_scores

    evidence = circuit.evidence
    assert evidence is not None, "verify measured it"
    for rows in (check_rows(evidence), curve_rows(evidence)):
        if len(rows) > 1:
            print_table(rows)
            typer.echo("")
    if scores := describe_scores(circuit):
        typer.echo(f"Graph scores: {scores}")
    typer.secho(f"Verdict: {evidence.word}", bold=True)
    for reason in evidence.reasons:
        typer.echo(printable(f"  {reason}"))


def write_evidence(path: Path, circuit: Circuit) -> None:
    """Write a circuit's evidence into its file, which may have been annotated while it was measured.

    Raises:
        CircuitError: the file can't be read or written, or holds another circuit by now.
    """
    from circuitlens.circuit import update_file

    try:
        update_file(path, circuit, lambda now: now.model_copy(update={"evidence": circuit.evidence}))
    except CircuitError as error:
        raise CircuitError(
            f"{error} The evidence above was not written: to keep it, measure it again with -o FILE."
        ) from error


def print_skipped(path: str, skipped: Sequence[Skipped], count: int, what: str) -> None:
    """Say on stderr which of a file's `count` rows (or prompts: `what`) are left out, the first ten one by one."""
    if not skipped:
        return
    typer.echo(f"{path}: {len(skipped)} of {count} {what}s can't be used and are skipped:", err=True)
    for row in skipped[:SKIPPED]:
        typer.echo(printable(f"  {what} {row.line}, {row.text!r}: {row.reason}"), err=True)
    if len(skipped) > SKIPPED:
        typer.echo(f"  and {len(skipped) - SKIPPED} more", err=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns; a terminal wraps the widest to its width, elsewhere every row is one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for _ in rows[0]:
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else UNBOUNDED)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().removesuffix("\n").split("\n"):
        typer.echo(line.rstrip())


def printable(text: str) -> str:
    """Text from files and models with its control characters spelled out: a terminal must not obey them."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
