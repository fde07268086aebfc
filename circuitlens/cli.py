"""The command line. torch, Dash and the adapters are imported where they are needed, so that help is quick.

Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong. Errors go to stderr as one sentence.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from circuitlens.errors import CircuitLensError, ViewerError

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.circuit import Circuit
    from circuitlens.viewer import Viewer

DEFAULT_PORT = 8050

app = typer.Typer(
    name="circuitlens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find, check and show feature circuits: how a model's sparse features combine into one decision.",
)

Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help=f"Port of the page; by default {DEFAULT_PORT}, or any that is free."),
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Serve the page without opening it.")]


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or pipe that can't show "→" shows "?"
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app()
    except CircuitLensError as error:
        sys.stderr.write(f"Error: {_printable(str(error))}\n")
        sys.exit(1)


def _print_version(wanted: bool) -> bool:
    if wanted:
        import circuitlens

        typer.echo(circuitlens.__version__)
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Read the options that come before a command; what they do is done by their callbacks."""


@app.command()
def demo(port: Port = None, no_browser: NoBrowser = False) -> None:
    """Find the circuits of "The cat" and "The cats" in the toy model, check them, and show them."""
    import circuitlens

    adapter = circuitlens.load("toy")
    typer.echo(adapter.description)
    circuits = []
    for example in reversed(adapter.examples):
        circuit = circuitlens.find(adapter, example.prompt, example.answer, example.distractor)
        _print_summary(circuit)
        _print_evidence(adapter, circuit)
        circuits.append(circuit)
    _serve(circuits, port, no_browser)


@app.command()
def adapters() -> None:
    """List the installed adapters."""
    from circuitlens.registry import installed_adapters

    _print_table([("Adapter", "Package", "Version"), *((a.name, a.package, a.version) for a in installed_adapters())])


@app.command()
def find(
    adapter: Annotated[str, typer.Argument(help="An adapter's name; `circuitlens adapters` lists them.")],
    prompt: Annotated[str, typer.Argument(help="What the model reads.")],
    answer: Annotated[str, typer.Option(help="The output to explain.")],
    distractor: Annotated[str | None, typer.Option(help="The output it is set against.")] = None,
    corrupted: Annotated[str | None, typer.Option(help="A prompt that differs from PROMPT in what matters.")] = None,
    method: Annotated[
        Literal["gradient", "contrastive"] | None,
        typer.Option(help="Change from zero, or from the corrupted prompt (the default where one is given)."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The circuit file to write.")] = None,
) -> None:
    """Find the circuit of a prompt, print a summary and write it to a file."""
    from circuitlens.registry import installed_adapters, load

    known = [installed.name for installed in installed_adapters()]
    if adapter not in known:
        raise typer.BadParameter(f"there is no {adapter!r}; installed: {', '.join(known)}.", param_hint="ADAPTER")
    from circuitlens.discovery import find as find_circuit

    circuit = find_circuit(load(adapter), prompt, answer, distractor, corrupted, method)
    if output is not None:
        circuit.save(output)
    _print_summary(circuit)
    if output is not None:
        typer.echo(f"Wrote {output}; `circuitlens view {output}` shows it.")


@app.command()
def view(
    files: Annotated[list[Path], typer.Argument(help="Circuit files to switch between.")],
    port: Port = None,
    no_browser: NoBrowser = False,
) -> None:
    """Show circuit files in a local page."""
    from circuitlens.circuit import open_circuit

    _serve([open_circuit(file) for file in files], port, no_browser)


def _serve(circuits: list[Circuit], port: int | None, no_browser: bool) -> None:
    from circuitlens.viewer.server import open_page

    viewer = _start(circuits, port)
    typer.echo(f"\nViewing {viewer.url}  (Ctrl-C ends it)")
    if not no_browser:
        open_page(viewer.url)
    viewer.wait()


def _start(circuits: list[Circuit], port: int | None) -> Viewer:
    from circuitlens.viewer.server import start

    if port is not None:
        return start(circuits, port=port)
    try:
        return start(circuits, port=DEFAULT_PORT)
    except ViewerError:
        return start(circuits, port=0)


def _print_summary(circuit: Circuit) -> None:
    metric, path = circuit.metric, circuit.strongest_path()
    against = f" − {metric.distractors[0].text!r}" if metric.distractors else ""
    corrupted = "" if metric.corrupted_value is None else f" ({metric.corrupted_value:+.3f} corrupted)"
    share = f" ({circuit.conservation_residual / abs(metric.value):.0e} of the metric)" if metric.value else ""
    rows = [
        ("metric", f"logit {metric.answers[0].text!r}{against} = {metric.value:+.3f}{corrupted}"),
        (
            "method",
            f"{circuit.method}: change from {'zero' if circuit.method == 'gradient' else repr(circuit.corrupted)}",
        ),
        ("size", f"{len(circuit.nodes)} nodes, {len(circuit.edges)} edges"),
        ("strongest path", f"{path} (weakest edge {path.weight:+.3f})"),
        ("conservation", f"residual {circuit.conservation_residual:.1e}{share}"),
    ]
    typer.secho(f"\n{_printable(circuit.prompt)}", bold=True)
    _print_table(rows)


def _print_evidence(adapter: Adapter, circuit: Circuit) -> None:
    """Switch off each node of the strongest path for real, and set the result beside its attribution."""
    from circuitlens.evaluation import ablate

    typer.echo("Switched off for real, the metric falls by (a ReLU that switches on the way makes the difference)")
    rows = [("  node", "predicted", "measured")]
    for node in circuit.strongest_path().nodes[:-1]:
        result = ablate(adapter, circuit, [node.id])
        rows.append((f"  {node.label}", f"{result.predicted:+.4f}", f"{result.measured:+.4f}"))
    _print_table(rows)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of text in columns; the last may be as long as it likes."""
    clean = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    for row in clean:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _printable(text: str) -> str:
    """Text from files and models with its control characters spelled out: a terminal must not obey them."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
