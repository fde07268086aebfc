"""`circuitlens export` and `circuitlens import`: circuits to the formats of other tools, and graphs of theirs here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from circuitlens.cli.adapter_options import given_options
from circuitlens.cli.inputs import MANY, load_adapter, require_apart, require_installed
from circuitlens.cli.output import print_summary
from circuitlens.errors import CircuitError

Format = Literal["neuronpedia", "graphml", "gexf", "dot", "csv"]


def export(
    file: Annotated[Path, typer.Argument(help="A circuit file.")],
    to: Annotated[
        Format,
        typer.Option(help="neuronpedia: the attribution-graph JSON that circuit-tracer's page reads too."),
    ],
    scan: Annotated[
        str | None, typer.Option(help="With --to neuronpedia, what Neuronpedia calls the model, such as gpt2-small.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; by default FILE's name with the format's ending."),
    ] = None,
) -> None:
    """Write a circuit in the format of another tool: as a graph, or (csv) as a table of nodes and one of edges."""
    import circuitlens

    ending = "-graph.json" if to == "neuronpedia" else f".{to}"
    target = file.parent / f"{file.stem}{ending}" if output is None else output
    require_apart({"FILE": file, "--output": target})
    if scan is not None and to != "neuronpedia":
        raise typer.BadParameter("it goes with --to neuronpedia only.", param_hint="--scan")
    circuit = circuitlens.open(file)
    if to == "neuronpedia":
        circuitlens.write_graph(circuit, target, scan=scan)
        written = [target]
    else:
        from circuitlens.files import write_file
        from circuitlens.interchange.networks import WRITERS
        from circuitlens.viewer.tables import csv_tables

        tables = csv_tables(circuit) if to == "csv" else {"": WRITERS[to](circuit)}
        written = [target.parent / f"{target.stem}{name}{target.suffix}" for name in tables]
        for path, text in zip(written, tables.values(), strict=True):
            write_file(path, text.encode("utf-8", "replace"), CircuitError)
    typer.echo(f"Wrote {' and '.join(map(str, written))}.")


def import_(
    file: Annotated[Path, typer.Argument(help="An attribution graph (JSON) of circuit-tracer, Neuronpedia or export.")],
    adapter: Annotated[
        str | None, typer.Option(help="The adapter of the model that it is of, so that it can be verified.")
    ] = None,
    max_nodes: Annotated[
        int | None, typer.Option(min=0, max=MANY, help="How many nodes to keep beside the outputs; by default 2,000.")
    ] = None,
    max_edges: Annotated[
        int | None, typer.Option(min=0, max=MANY, help="How many edges to keep; by default 20,000.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The circuit file to write; by default the graph's name with -circuit."),
    ] = None,
) -> None:
    """Read an attribution graph as a circuit file, which `view` shows, and `verify` checks where it names an adapter.

    With `--adapter` its model is loaded: its flags are those of `find`.
    """
    import circuitlens
    from circuitlens.interchange.graph_reading import KEPT_EDGES, KEPT_NODES
    from circuitlens.report.summary import describe_scores

    target = file.parent / f"{file.stem}-circuit.json" if output is None else output
    require_apart({"FILE": file, "--output": target})
    model = None
    if adapter is not None:
        name = require_installed(adapter)
        model = load_adapter(name, given_options(name))
    sizes = {"max_nodes": KEPT_NODES if max_nodes is None else max_nodes}
    sizes["max_edges"] = KEPT_EDGES if max_edges is None else max_edges
    circuit = circuitlens.read_graph(file, model, **sizes)
    circuit.save(target)
    scores = describe_scores(circuit)
    print_summary(circuit, [("graph scores", scores)] if scores else [])
    typer.echo(f"Wrote {target}.")
