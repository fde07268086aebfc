"""The command line. torch, Dash and the adapters are imported where they are needed, so that help is quick.

Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong. Errors go to stderr as one sentence.
"""

from __future__ import annotations

import io
import logging
import sys
import time
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
    logging.getLogger("circuitlens_saelens").setLevel(logging.INFO)  # what is downloaded, and how large it is
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
    answer: Annotated[list[str], typer.Option(help="The output to explain; several count together.")],
    distractor: Annotated[list[str] | None, typer.Option(help="The output it is set against, or several.")] = None,
    corrupted: Annotated[str | None, typer.Option(help="A prompt that differs from PROMPT in what matters.")] = None,
    metric: Annotated[
        Literal["logit_difference", "logit", "log_probability", "probability_difference", "kl_divergence"] | None,
        typer.Option(help="What is explained; by default the logit difference, or the logit without a distractor."),
    ] = None,
    method: Annotated[
        Literal["gradient", "contrastive"] | None,
        typer.Option(help="Change from zero, or from the corrupted prompt (the default where one is given)."),
    ] = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Hold attention patterns and layer-norm scales.")] = False,
    max_nodes: Annotated[int | None, typer.Option(min=0, help="How many nodes to keep beside the logits.")] = None,
    max_edges: Annotated[int | None, typer.Option(min=0, help="How many edges to keep.")] = None,
    sae: Annotated[
        list[str] | None, typer.Option(help="A SAE-Lens release, RELEASE/SAE_ID, or a folder of SAEs; or several.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers whose SAEs are taken: 8, 0-11 or 0,4,8-10.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name on the hub, or its folder.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, typer.Option(help="Where to compute.")] = None,
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"] | None, typer.Option(help="Numbers to compute in.")
    ] = None,
    bos: Annotated[
        bool | None,
        typer.Option("--bos/--no-bos", help="Begin prompts with the BOS token; by default as the SAEs ask."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The circuit file to write.")] = None,
) -> None:
    """Find the circuit of a prompt, print a summary and write it to a file."""
    from circuitlens.registry import installed_adapters, load

    known = [installed.name for installed in installed_adapters()]
    if adapter not in known:
        raise typer.BadParameter(f"there is no {adapter!r}; installed: {', '.join(known)}.", param_hint="ADAPTER")
    given = {
        "saes": sae or None,
        "layers": layers,
        "model": model,
        "device": device,
        "dtype": dtype,
        "prepend_bos": bos,
    }
    if sys.stderr.isatty():
        typer.echo(f"Loading {adapter} …", err=True)
    from circuitlens.discovery import MAX_EDGES, MAX_NODES
    from circuitlens.discovery import find as find_circuit

    loaded = load(adapter, **{name: value for name, value in given.items() if value is not None})
    start = time.perf_counter()
    circuit = find_circuit(
        loaded,
        prompt,
        answer,
        distractor or None,
        corrupted,
        method,
        metric=metric,
        frozen=frozen,
        max_nodes=MAX_NODES if max_nodes is None else max_nodes,
        max_edges=MAX_EDGES if max_edges is None else max_edges,
    )
    seconds = time.perf_counter() - start
    if output is not None:
        circuit.save(output)
    _print_summary(circuit, [("time", f"{seconds:.1f} s, peak memory {_peak_memory() / 1e9:.1f} GB")])
    _print_evidence(loaded, circuit)
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


def _print_summary(circuit: Circuit, more: Sequence[tuple[str, str]] = ()) -> None:
    metric, path, found = circuit.metric, circuit.strongest_path(), circuit.found
    corrupted = "" if metric.corrupted_value is None else f" ({metric.corrupted_value:+.3f} corrupted)"
    share = f" ({circuit.conservation_residual / abs(metric.value):.0e} of the metric)" if metric.value else ""
    kept = [node for node in circuit.nodes if node.kind != "logit"]
    size = f"{len(circuit.nodes)} nodes, {len(circuit.edges)} edges"
    if found is not None and (len(kept) < found.nodes or len(circuit.edges) < found.edges):
        part = sum(abs(node.attribution) for node in kept) / found.attribution if found.attribution else 1.0
        size += f", the strongest of {found.nodes} and {found.edges} ({part:.0%} of the nodes' |attribution|)"
    rows = [
        ("metric", f"{metric} = {metric.value:+.3f}{corrupted}"),
        (
            "method",
            f"{circuit.method}: change from {'zero' if circuit.method == 'gradient' else repr(circuit.corrupted)}"
            + (", attention patterns and layer-norm scales held" if circuit.frozen else ""),
        ),
        *([] if found is None else [("active", f"{found.features} features, {len(circuit.tokens)} tokens")]),
        ("size", size),
        ("strongest path", f"{path} (weakest edge {path.weight:+.3f})"),
        ("conservation", f"residual {circuit.conservation_residual:.1e}{share}"),
        *more,
    ]
    typer.secho(f"\n{_printable(circuit.prompt)}", bold=True)
    _print_table(rows)


def _print_evidence(adapter: Adapter, circuit: Circuit) -> None:
    """Switch off each node of the strongest path for real, and set the result beside its attribution."""
    from circuitlens.circuit import full_name
    from circuitlens.evaluation import ablate
    from circuitlens.features import describe

    away = "zero" if circuit.method == "gradient" else "its value in the corrupted run"
    typer.echo(f"Set to {away} for real, the metric falls by (a nonlinearity on the way makes the difference)")
    rows = [("  node", "predicted", "measured", "speaks for")]
    for node in circuit.strongest_path().nodes[:-1]:
        result = ablate(adapter, circuit, [node.id])
        words = ""
        if node.kind in ("feature", "neuron"):
            promoted = describe(adapter, circuit, node.id, outputs=4).promoted
            words = ", ".join(repr(text) for text, logit in promoted if logit > 0)
        name = full_name(node, circuit.tokens)
        rows.append((f"  {name}", f"{result.predicted:+.4f}", f"{result.measured:+.4f}", words))
    _print_table(rows)


def _peak_memory() -> int:
    """The most bytes that this process has held."""
    import psutil

    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of text in columns; the last may be as long as it likes."""
    clean = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    for row in clean:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _printable(text: str) -> str:
    """Text from files and models with its control characters spelled out: a terminal must not obey them."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
