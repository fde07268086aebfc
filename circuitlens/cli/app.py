"""The command line. torch, Dash and the adapters are imported where they are needed, so that help is quick.

Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong, 3 the verdict is not the required one.
Errors go to stderr as one sentence.
"""

from __future__ import annotations

import io
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from circuitlens.errors import CircuitLensError, ViewerError

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.circuit import Circuit
    from circuitlens.circuit.evidence import Evidence
    from circuitlens.prompts.pairs import Pair, Skipped

DEFAULT_PORT = 8050
SKIPPED = 10
"""How many skipped rows are listed one by one."""
METHODS = {
    "gradient": "gradient: change",
    "contrastive": "contrastive: change",
    "ig": "ig: gradients integrated on the way",
    "exact": "exact: measured change",
}
MARKS = {"passed": "yes", "weak": "weak", "failed": "no", "not tested": "–"}

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
    _serve(circuits, port, no_browser, adapters=[adapter])


@app.command()
def adapters() -> None:
    """List the installed adapters."""
    from circuitlens.registry import installed_adapters

    _print_table([("Adapter", "Package", "Version"), *((a.name, a.package, a.version) for a in installed_adapters())])


Saes = Annotated[
    list[str] | None, typer.Option("--sae", help="A SAE-Lens release, RELEASE/SAE_ID, or a folder of SAEs; or several.")
]
Layers = Annotated[str | None, typer.Option(help="Layers whose SAEs are taken: 8, 0-11 or 0,4,8-10.")]
Model = Annotated[str | None, typer.Option(help="The model's name on the hub, or its folder.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, typer.Option(help="Where to compute.")]
Dtype = Annotated[
    Literal["float32", "float64", "bfloat16", "float16"] | None, typer.Option(help="Numbers to compute in.")
]
Bos = Annotated[
    bool | None, typer.Option("--bos/--no-bos", help="Begin prompts with the BOS token; by default as the SAEs ask.")
]
HeldOut = Annotated[
    Path | None,
    typer.Option(help="A file of prompts of the same task that the circuit was not found on; by default other nouns."),
]
Ablation = Annotated[
    Literal["corrupted", "mean", "zero"] | None,
    typer.Option(help="What nodes outside a circuit are set to; by default what attribution measures from."),
]
Require = Annotated[
    Literal["supported", "weak"] | None,
    typer.Option(help="Exit with 3 if the verdict is not this one or a better one."),
]
Plot = Annotated[
    list[Path] | None,
    typer.Option(
        help="Save the curve of faithfulness to a file: .html, .png or .svg; attribution against effect is put "
        "beside it, as NAME-effects. Several if you like."
    ),
]


@app.command()
def find(
    adapter: Annotated[str, typer.Argument(help="An adapter's name; `circuitlens adapters` lists them.")],
    prompt: Annotated[str | None, typer.Argument(help="What the model reads.")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="The output to explain; several count together.")] = None,
    distractor: Annotated[list[str] | None, typer.Option(help="The output it is set against, or several.")] = None,
    corrupted: Annotated[str | None, typer.Option(help="A prompt that differs from PROMPT in what matters.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file of prompts (JSON Lines) instead of PROMPT: the circuit they have in common."),
    ] = None,
    by: Annotated[
        Literal["position", "role", "sum"] | None,
        typer.Option(
            help="How positions of many prompts are brought together: from the first token (the default), by role, or "
            "summed."
        ),
    ] = None,
    metric: Annotated[
        Literal["logit_difference", "logit", "log_probability", "probability_difference", "kl_divergence"] | None,
        typer.Option(help="What is explained; by default the logit difference, or the logit without a distractor."),
    ] = None,
    method: Annotated[
        Literal["gradient", "contrastive", "ig", "exact"] | None,
        typer.Option(
            help="Gradient at the prompt (change from zero, or from the corrupted prompt), integrated gradients (the "
            "default where there is a corrupted prompt), or each node's measured effect."
        ),
    ] = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Hold attention patterns and layer-norm scales.")] = False,
    max_nodes: Annotated[int | None, typer.Option(min=0, help="How many nodes to keep beside the logits.")] = None,
    max_edges: Annotated[int | None, typer.Option(min=0, help="How many edges to keep.")] = None,
    sae: Saes = None,
    layers: Layers = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Measure the evidence, as `circuitlens verify` does.")
    ] = False,
    held_out: HeldOut = None,
    require: Require = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The circuit file to write.")] = None,
) -> None:
    """Find the circuit of a prompt, or of a file of prompts, print a summary and write it to a file."""
    from circuitlens.registry import installed_adapters

    known = [installed.name for installed in installed_adapters()]
    if adapter not in known:
        raise typer.BadParameter(f"there is no {adapter!r}; installed: {', '.join(known)}.", param_hint="ADAPTER")
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give a prompt, or a file of them with --prompts.", param_hint="PROMPT")
    if prompts is None and not answer:
        raise typer.BadParameter("give at least one.", param_hint="--answer")
    if prompts is not None and (answer or distractor or corrupted):
        raise typer.BadParameter("the file has these itself.", param_hint="--answer, --distractor, --corrupted")
    if by is not None and prompts is None:
        raise typer.BadParameter("it is for --prompts.", param_hint="--by")
    if (held_out or require) and not verify:
        raise typer.BadParameter("it is for --verify.", param_hint="--held-out" if held_out else "--require")
    pairs = None if prompts is None else _read(prompts)
    others = None if held_out is None else _read(held_out)
    loaded = _load(adapter, _given(sae, layers, model, device, dtype, bos))
    from circuitlens import aggregation, discovery
    from circuitlens.prompts import alignment

    start = time.perf_counter()
    limits = {"max_edges": discovery.MAX_EDGES if max_edges is None else max_edges, "metric": metric, "frozen": frozen}
    if pairs is None:
        assert prompt is not None, "checked above"
        assert answer, "checked above"
        nodes = discovery.MAX_NODES if max_nodes is None else max_nodes
        circuit = discovery.find(
            loaded, prompt, answer, distractor or None, corrupted, method, max_nodes=nodes, **limits
        )
    else:
        aligned = alignment.align(loaded, pairs, by or "position")
        _print_skipped(str(prompts), aligned.skipped, len(pairs), "prompt")
        nodes = aggregation.MAX_NODES if max_nodes is None else max_nodes
        circuit = aggregation.aggregate(loaded, aligned, method, max_nodes=nodes, **limits)
    seconds = time.perf_counter() - start
    if output is not None:
        circuit.save(output)  # before the evidence, which may take a while
    _print_summary(circuit, [("time", f"{seconds:.1f} s, peak memory {_peak_memory() / 1e9:.1f} GB")])
    if verify:
        from circuitlens.evaluation.verification import verify as verified

        circuit = verified(loaded, circuit, others)
        assert circuit.evidence is not None, "that is what verify adds"
        _print_verdict(circuit.evidence)
        if output is not None:
            circuit.save(output)
    else:
        _print_evidence(loaded, circuit)
    if output is not None:
        typer.echo(f"Wrote {output}; `circuitlens view {output}` shows it.")
    _end_with(circuit.evidence, require)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A circuit file; its evidence is written into it.")],
    held_out: HeldOut = None,
    ablation: Ablation = None,
    draws: Annotated[int, typer.Option(min=1, help="Random circuits to compare with.")] = 20,
    top: Annotated[int, typer.Option(min=1, help="How many of the strongest nodes are patched for real.")] = 100,
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts of each kind are run, at most.")] = 32,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of random circuits and resampling.")] = 0,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="CHECK=PASSES or CHECK=WEAK:PASSES, e.g. faithfulness=0.7: from when on a check passes."),
    ] = None,
    require: Require = None,
    plot: Plot = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the circuit with its evidence here instead.")
    ] = None,
    sae: Saes = None,
    layers: Layers = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
) -> None:
    """Measure whether a circuit really forms: print the evidence and one verdict, and write both into its file."""
    from circuitlens.circuit import open_circuit
    from circuitlens.registry import installed_adapters

    thresholds = _thresholds(threshold or [])
    for path in plot or ():
        _check_plot(path)
    circuit = open_circuit(file)
    others = None if held_out is None else _read(held_out)
    if circuit.adapter not in [installed.name for installed in installed_adapters()]:
        raise CircuitLensError(
            f"The circuit was made with the adapter {circuit.adapter!r}, which is not installed. If it was made with "
            "circuitlens.wrap, call circuitlens.verify(adapter, circuit) from Python."
        )
    given = {**circuit.options, **_given(sae, layers, model, device, dtype, bos)}
    loaded = _load(circuit.adapter, given)
    from circuitlens.evaluation.verification import verify as verified

    circuit = verified(
        loaded,
        circuit,
        others,
        ablation=ablation,
        thresholds=thresholds,
        draws=draws,
        top=top,
        prompts=prompts,
        seed=seed,
    )
    assert circuit.evidence is not None, "that is what verify adds"
    typer.secho(f"\n{_printable(circuit.prompt)}", bold=True)
    _print_verdict(circuit.evidence)
    circuit.save(output or file)
    typer.echo(f"Wrote the evidence to {output or file}.")
    for path in plot or ():
        _save_plots(circuit, path)
    _end_with(circuit.evidence, require)


@app.command()
def prompts(
    task: Annotated[
        str,
        typer.Argument(help="agreement-simple, -nounpp, -within-rc, -rc or -toy, ioi, or greater-than."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file of prompts (JSON Lines) to write.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    held_out: Annotated[
        Path | None, typer.Option(help="A second file, of prompts with other nouns (or names).")
    ] = None,
    held_out_count: Annotated[int | None, typer.Option(min=1, help="How many in it; by default as many.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
) -> None:
    """Make prompts of a task to find circuits on, and others to judge them on, without a noun in common."""
    from circuitlens.prompts.pairs import write_pairs
    from circuitlens.prompts.tasks import TASKS

    if task not in TASKS:
        raise typer.BadParameter(f"there is no {task!r}; there are {', '.join(TASKS)}.", param_hint="TASK")
    if held_out is None and held_out_count is not None:
        raise typer.BadParameter("it is for --held-out.", param_hint="--held-out-count")
    if held_out is not None and held_out.resolve() == output.resolve():
        raise typer.BadParameter("the two files have to be two.", param_hint="--output, --held-out")
    wanted = {output: count, **({held_out: held_out_count or count} if held_out else {})}
    made = TASKS[task](count, held_out_count or count, seed)
    for (path, number), pairs in zip(wanted.items(), made, strict=False):
        write_pairs(path, pairs)
        few = f" (there are no more with these words; {number} were wanted)" if len(pairs) < number else ""
        typer.echo(f"Wrote {len(pairs)} prompts to {path}{few}.")


@app.command()
def view(
    files: Annotated[list[Path], typer.Argument(help="Circuit files to switch between.")],
    port: Port = None,
    no_browser: NoBrowser = False,
) -> None:
    """Show circuit files in a local page."""
    from circuitlens.circuit import open_circuit

    _serve([open_circuit(file) for file in files], port, no_browser, paths=files)


def _given(
    sae: list[str] | None,
    layers: str | None,
    model: str | None,
    device: str | None,
    dtype: str | None,
    bos: bool | None,
) -> dict[str, object]:
    """The adapter's options that were given."""
    options = {
        "saes": sae or None,
        "layers": layers,
        "model": model,
        "device": device,
        "dtype": dtype,
        "prepend_bos": bos,
    }
    return {name: value for name, value in options.items() if value is not None}


def _load(adapter: str, options: Mapping[str, object]) -> Adapter:
    from circuitlens.registry import load

    if sys.stderr.isatty():
        typer.echo(f"Loading {adapter} …", err=True)
    return load(adapter, **options)


def _read(path: Path) -> list[Pair]:
    """A file of prompts; the rows that are none are listed."""
    from circuitlens.prompts.pairs import read_pairs

    pairs, skipped = read_pairs(path)
    _print_skipped(str(path), skipped, len(pairs) + len(skipped))
    return pairs


def _print_skipped(path: str, skipped: Sequence[Skipped], count: int, what: str = "row") -> None:
    """Say what was left out of a file's rows, or of the prompts that they hold, the first ten one by one."""
    if not skipped:
        return
    typer.echo(f"{path}: {len(skipped)} of {count} {what}s can't be used and are skipped:", err=True)
    for row in skipped[:SKIPPED]:
        typer.echo(_printable(f"  {what} {row.line}, {row.text!r}: {row.reason}"), err=True)
    if len(skipped) > SKIPPED:
        typer.echo(f"  and {len(skipped) - SKIPPED} more", err=True)


def _thresholds(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Thresholds as typed: CHECK=PASSES or CHECK=WEAK:PASSES."""
    from circuitlens.evaluation.verification import THRESHOLDS

    wanted = {}
    for text in given:
        name, _, values = text.partition("=")
        try:
            numbers = [float(value) for value in values.split(":")]
            finite = all(map(math.isfinite, numbers))
            if name not in THRESHOLDS or len(numbers) > 2 or not finite or numbers != sorted(numbers):
                raise ValueError
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is none: write CHECK=PASSES or CHECK=WEAK:PASSES, the lower number first and CHECK one of "
                f"{', '.join(THRESHOLDS)}.",
                param_hint="--threshold",
            ) from None
        wanted[name] = (min(THRESHOLDS[name][0], numbers[0]), numbers[0]) if len(numbers) == 1 else (*numbers,)
    return wanted


def _print_verdict(evidence: Evidence) -> None:
    """The checks as a table, the curves, and the verdict with its reasons."""
    rows = [("check", "", "found", "passes from", "what was found")]
    for check in evidence.checks:
        value = "" if check.value is None else f"{check.value:.2f}"
        wanted = "" if check.supported is None else f"{check.supported:g}"
        rows.append((check.name, MARKS[check.status], value, wanted, check.reason))
    _print_table(rows)
    typer.echo("")
    table = [("faithfulness of", "nodes", "errors kept", "removed", "completeness", "random (95 %)")]
    for curve in evidence.curves:
        for point in curve.points:
            random = "" if (r := point.random) is None else f"{r.mean:.2f} ({r.low:.2f} to {r.high:.2f})"
            kept, removed, left = point.faithfulness, point.errors_removed, point.completeness
            name = f"{curve.prompts} ({curve.pairs})" if point is curve.points[0] else ""
            table.append((name, f"{point.nodes}", f"{kept:.2f}", f"{removed:.2f}", f"{left:.2f}", random))
    if evidence.curves:
        _print_table(table)
        typer.echo("")
    typer.secho(f"Verdict: {evidence.verdict}", bold=True)
    for reason in evidence.reasons:
        typer.echo(_printable(f"  {reason}"))


def _check_plot(path: Path) -> None:
    """Refuse a plot's name before anything is measured."""
    from circuitlens.report.plots import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{str(path)!r} has to end in {', '.join(SUFFIXES)}.", param_hint="--plot")


def _save_plots(circuit: Circuit, path: Path) -> None:
    from circuitlens.circuit import full_name
    from circuitlens.report.plots import effect_plot, faithfulness_plot, save_plot

    assert circuit.evidence is not None, "plots are made of evidence"
    names = {node.id: full_name(node, circuit.tokens) for node in circuit.nodes}
    beside = path.with_stem(f"{path.stem}-effects")
    save_plot(faithfulness_plot(circuit.evidence), path)
    save_plot(effect_plot(circuit.evidence, names), beside)
    typer.echo(f"Wrote {path} and {beside}.")


def _end_with(evidence: Evidence | None, require: str | None) -> None:
    """Exit with 3 if the verdict is worse than the one that is required."""
    order = ("supported", "weak", "not supported")
    if evidence is not None and require is not None and order.index(evidence.verdict) > order.index(require):
        raise typer.Exit(3)


def _serve(
    circuits: list[Circuit],
    port: int | None,
    no_browser: bool,
    *,
    adapters: Sequence[Adapter] = (),
    paths: Sequence[Path] | None = None,
) -> None:
    from circuitlens.viewer.server import open_page, start

    try:
        viewer = start(circuits, adapters=adapters, paths=paths, port=DEFAULT_PORT if port is None else port)
    except ViewerError:
        if port is not None:
            raise
        viewer = start(circuits, adapters=adapters, paths=paths)
    typer.echo(f"\nViewing {viewer.url}  (Ctrl-C ends it)")
    if not no_browser:
        open_page(viewer.url)
    viewer.wait()


def _baseline(circuit: Circuit) -> str:
    """What attribution measures from."""
    if not circuit.from_corrupted:
        return "zero"
    return "the corrupted prompts" if circuit.pairs else repr(circuit.corrupted)


def _print_summary(circuit: Circuit, more: Sequence[tuple[str, str]] = ()) -> None:
    metric, path, found = circuit.metric, circuit.strongest_path(), circuit.found
    corrupted = "" if metric.corrupted_value is None else f" ({metric.corrupted_value:+.3f} corrupted)"
    share = f" ({circuit.conservation_residual / abs(metric.value):.0e} of the metric)" if metric.value else ""
    gaps = ", ".join(f"{gap:+.3f} ({name})" for name, gap in circuit.completeness_gaps.items())
    kept = [node for node in circuit.nodes if node.kind != "logit"]
    size = f"{len(circuit.nodes)} nodes, {len(circuit.edges)} edges"
    if found is not None and (len(kept) < found.nodes or len(circuit.edges) < found.edges):
        part = sum(abs(node.attribution) for node in kept) / found.attribution if found.attribution else 1.0
        size += f", the strongest of {found.nodes} and {found.edges} ({part:.0%} of the nodes' |attribution|)"
    rows = [
        ("metric", f"{metric} = {metric.value:+.3f}{corrupted}"),
        (
            "method",
            f"{METHODS[circuit.method]} from {_baseline(circuit)}"
            + (", attention patterns and layer-norm scales held" if circuit.frozen else ""),
        ),
        *([] if found is None else [("active", f"{found.features} features, {len(circuit.tokens)} tokens")]),
        ("size", size),
        ("strongest path", f"{path} (weakest edge {path.weight:+.3f})"),
        ("conservation", f"residual {circuit.conservation_residual:.1e}{share}"),
        *([("integration", f"gaps {gaps} of the metric's change")] if gaps else []),
        *more,
    ]
    typer.secho(f"\n{_printable(circuit.prompt)}", bold=True)
    _print_table(rows)


def _print_evidence(adapter: Adapter, circuit: Circuit) -> None:
    """Switch off each node of the strongest path for real, and set the result beside its attribution."""
    from circuitlens.circuit import full_name
    from circuitlens.evaluation.features import describe
    from circuitlens.evaluation.intervention import ablate

    away = "its value in the corrupted run" if circuit.from_corrupted else "zero"
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
