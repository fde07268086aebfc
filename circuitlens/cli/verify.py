"""`circuitlens verify`: measures the evidence for a circuit file and writes it into the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitlens.cli.inputs import (
    MANY,
    MAX_SEED,
    HeldOut,
    RequiredVerdict,
    exit_unless,
    load_as_said,
    read_prompts,
    require_apart,
    same_file,
)
from circuitlens.cli.output import print_verdict, printable, write_evidence
from circuitlens.evaluation.defaults import DRAWS, PROMPTS, SEED, TOP
from circuitlens.literals import AblationKind

if TYPE_CHECKING:
    from circuitlens.circuit import Circuit

Ablation = Annotated[
    AblationKind | None,
    typer.Option(help="What nodes outside a circuit are set to; by default what attribution measures from."),
]
Thresholds = Annotated[
    list[str] | None,
    typer.Option(
        help="CHECK=PASSES or CHECK=WEAK:PASSES, e.g. faithfulness=0.7: the figure from which a check passes."
    ),
]
Plots = Annotated[
    list[Path] | None,
    typer.Option(
        help="Save the curve of faithfulness to a file: .html, .png or .svg; attribution against effect is put "
        "beside it, as NAME-effects. Several if you like."
    ),
]


def verify(
    file: Annotated[Path, typer.Argument(help="A circuit file; its evidence is written into it.")],
    held_out: HeldOut = None,
    ablation: Ablation = None,
    draws: Annotated[int, typer.Option(min=1, max=MANY, help="Random circuits to compare with.")] = DRAWS,
    top: Annotated[
        int, typer.Option(min=1, max=MANY, help="How many of the strongest nodes are patched for real.")
    ] = TOP,
    prompts: Annotated[
        int, typer.Option(min=1, max=MANY, help="How many prompts of each kind are run, at most.")
    ] = PROMPTS,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of random circuits and resampling.")] = SEED,
    threshold: Thresholds = None,
    require: RequiredVerdict = None,
    plot: Plots = None,
    run: Annotated[
        Path | None, typer.Option(help="A folder that keeps what is measured: the same call goes on there.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the circuit with its evidence here instead.")
    ] = None,
) -> None:
    """Measure whether a circuit really forms: print the evidence and one verdict, and write both into its file."""
    import circuitlens

    require_apart({"FILE": file, "--held-out": held_out})
    require_apart({"--output": output, "--held-out": held_out})
    thresholds = _read_thresholds(threshold or [])
    for path in plot or ():
        _check_plot(path)
    circuit = circuitlens.open(file)
    others = None if held_out is None else read_prompts(held_out)
    adapter = load_as_said(file, circuit)
    how: dict[str, Any] = {"draws": draws, "top": top, "prompts": prompts, "seed": seed, "run_folder": run}
    circuit = circuitlens.verify(adapter, circuit, others, ablation=ablation, thresholds=thresholds, **how)
    typer.secho(f"\n{printable(circuit.prompt)}", bold=True)
    print_verdict(circuit)
    if output is None or same_file(output, file):
        write_evidence(file, circuit)
    else:
        circuit.save(output)
    typer.echo(f"Wrote the evidence to {output or file}.")
    for path in plot or ():
        _save_plots(circuit, path)
    exit_unless(require, circuit)


def _read_thresholds(typed: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Thresholds as typed: CHECK=PASSES or CHECK=WEAK:PASSES."""
    from circuitlens.evaluation.verification import THRESHOLDS

    thresholds = {}
    for text in typed:
        name, _, values = text.partition("=")
        try:
            numbers = [float(value) for value in values.split(":")]
        except ValueError:
            numbers = [math.nan]
        finite = all(map(math.isfinite, numbers))
        if name not in THRESHOLDS or len(numbers) > 2 or not finite or numbers != sorted(numbers):
            raise typer.BadParameter(
                f"{text!r} is none: write CHECK=PASSES or CHECK=WEAK:PASSES, the lower number first and CHECK one of "
                f"{', '.join(THRESHOLDS)}.",
                param_hint="--threshold",
            )
        weak = numbers[0] if len(numbers) == 2 else min(THRESHOLDS[name][0], numbers[0])
        thresholds[name] = weak, numbers[-1]
    return thresholds


def _check_plot(path: Path) -> None:
    """Refuse a plot's name before anything is measured."""
    from circuitlens.report.plots import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{str(path)!r} has to end in {', '.join(SUFFIXES)}.", param_hint="--plot")


def _save_plots(circuit: Circuit, path: Path) -> None:
    """Save the curve of faithfulness to `path`, and attribution against effect beside it."""
    from circuitlens.circuit import full_name
    from circuitlens.report.plots import effect_plot, faithfulness_plot, save_plot

    assert circuit.evidence is not None, "plots are made of evidence"
    names = {node.id: full_name(node, circuit.positions) for node in circuit.nodes}
    beside = path.with_stem(f"{path.stem}-effects")
    save_plot(faithfulness_plot(circuit.evidence), path)
    save_plot(effect_plot(circuit.evidence, names), beside)
    typer.echo(f"Wrote {path} and {beside}.")
