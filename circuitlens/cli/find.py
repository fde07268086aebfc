"""`circuitlens find`: finds the circuit of a prompt, or the common one of a file of prompts."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import circuitlens
from circuitlens.cli.adapter_options import given_options
from circuitlens.cli.inputs import (
    MANY,
    AdapterName,
    Corpus,
    HeldOut,
    Labels,
    RequiredVerdict,
    exit_unless,
    load_adapter,
    meaning_sources,
    read_prompts,
    require_apart,
    require_installed,
)
from circuitlens.cli.output import print_path_effects, print_skipped, print_summary, print_verdict, write_evidence
from circuitlens.cli.runs import (
    BatchSize,
    EngineOption,
    Ray,
    RayAddress,
    Run,
    ShardOption,
    Workers,
    find_in_folder,
    read_shard,
    with_batch_size,
)
from circuitlens.literals import MethodName, MetricName, PositionGrouping

if TYPE_CHECKING:
    from circuitlens.adapter import Adapter
    from circuitlens.circuit import Circuit
    from circuitlens.prompts.pairs import Pair

Prompts = Annotated[
    Path | None, typer.Option(help="A file of prompts (JSON Lines) instead of PROMPT: the circuit they have in common.")
]
Grouping = Annotated[
    PositionGrouping | None,
    typer.Option(
        help="How positions of many prompts are brought together: from the first token (the default), by role, or "
        "summed."
    ),
]
Metric = Annotated[
    MetricName | None,
    typer.Option(help="What is explained; by default the logit difference, or the logit without a distractor."),
]
Method = Annotated[
    MethodName | None,
    typer.Option(
        help="The change from zero (gradient, the default) or from the corrupted prompt (contrastive), by the gradient "
        "at the prompt; the latter by rules of relevance (relp), or on one way between the prompts (path, the default "
        "with a corrupted prompt); integrated gradients (ig); or each node's measured effect (exact)."
    ),
]

Nodes = Annotated[int | None, typer.Option(min=0, max=MANY, help="How many nodes to keep beside the logits.")]
Measured = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MANY,
        help="How many of the strongest edges to measure by path patching: by default 100 of a prompt and 20 of a file "
        "of prompts where the method is the default one for corrupted prompts, else none.",
    ),
]
Heads = Annotated[
    bool, typer.Option("--heads", help="Tell which attention heads carry the strongest edges between positions.")
]
Chat = Annotated[
    bool, typer.Option("--chat", help="The prompts are a person's turns in a chat, by the model's own template.")
]
Verify = Annotated[bool, typer.Option("--verify", help="Measure the evidence, as `circuitlens verify` does.")]


def find(
    adapter: AdapterName,
    prompt: Annotated[str | None, typer.Argument(help="What the model reads.")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="The output to explain; several count together.")] = None,
    distractor: Annotated[list[str] | None, typer.Option(help="The output it is set against, or several.")] = None,
    corrupted: Annotated[str | None, typer.Option(help="A prompt that differs from PROMPT in what matters.")] = None,
    chat: Chat = False,
    prompts: Prompts = None,
    by: Grouping = None,
    metric: Metric = None,
    method: Method = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Hold attention patterns and layer-norm scales.")] = False,
    max_nodes: Nodes = None,
    max_edges: Annotated[int | None, typer.Option(min=0, max=MANY, help="How many edges to keep.")] = None,
    measured_edges: Measured = None,
    verify: Verify = False,
    heads: Heads = False,
    corpus: Corpus = None,
    labels: Labels = None,
    held_out: HeldOut = None,
    require: RequiredVerdict = None,
    run: Run = None,
    shard: ShardOption = None,
    engine: EngineOption = "local",
    ray_address: RayAddress = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The circuit file to write.")] = None,
) -> None:
    """Find the circuit of a prompt, or of a file of prompts, print a summary and write it to a file."""
    adapter = require_installed(adapter)
    _check_prompts(prompt, answer, bool(distractor or corrupted), prompts, by, heads)
    _check_run(prompts, run, shard, batch_size, engine, ray_address, workers)
    _check_evidence(verify, held_out, require)
    require_apart({"--prompts": prompts, "--held-out": held_out, "--output": output})
    options = given_options(adapter)
    pairs, others = (None if file is None else read_prompts(file) for file in (prompts, held_out))
    sources = meaning_sources(corpus, labels)
    loaded = load_adapter(adapter, options)
    prompt, corrupted, pairs, others = _in_chat(loaded, chat, prompt, corrupted, pairs, others)
    how: dict[str, Any] = {"method": method, "metric": metric, "frozen": frozen, "max_nodes": max_nodes}
    how |= {"max_edges": max_edges, "measured_edges": measured_edges, "batch_size": batch_size}
    how = {name: value for name, value in how.items() if value is not None}
    start = time.perf_counter()
    if prompts is None or pairs is None:
        circuit = circuitlens.find(loaded, prompt or "", answer or [], distractor or None, corrupted, **how)
        circuit = circuitlens.with_heads(loaded, circuit) if heads else circuit
    else:
        ray = Ray(options, ray_address, workers) if engine == "ray" else None
        circuit = _of_many(loaded, prompts, pairs, by or "position", how, run, shard, ray)
    seconds = time.perf_counter() - start
    circuit = _kept(loaded, circuit, sources, output)
    print_summary(circuit, [("time", f"{seconds:.1f} s, peak memory {_peak_memory() / 1e9:.1f} GB")])
    if verify:
        circuit = _verified(loaded, circuit, others, output, run)
    else:
        print_path_effects(loaded, circuit)
    if output is not None:
        typer.echo(f"Wrote {output}; `circuitlens view {output}` shows it.")
    exit_unless(require, circuit)


def _in_chat(
    adapter: Adapter,
    chat: bool,
    prompt: str | None,
    corrupted: str | None,
    pairs: list[Pair] | None,
    others: list[Pair] | None,
) -> tuple[str | None, str | None, list[Pair] | None, list[Pair] | None]:
    """The prompts as they were given, or each as a person's turn in a chat."""
    if not chat:
        return prompt, corrupted, pairs, others
    from circuitlens.prompts.chat import chat_pair, chat_prompt

    one, other = (text and chat_prompt(adapter, text) for text in (prompt, corrupted))
    many = [None if file is None else [chat_pair(adapter, pair) for pair in file] for file in (pairs, others)]
    return one, other, many[0], many[1]


def _of_many(
    adapter: Adapter,
    file: Path,
    pairs: list[Pair],
    by: PositionGrouping,
    how: dict[str, Any],
    run: Path | None,
    shard: str | None,
    ray: Ray | None,
) -> Circuit:
    """The circuit that the prompts of a file have in common, found in a run's folder if there is to be one."""
    from circuitlens.discovery import search_many
    from circuitlens.pipeline import run as run_here
    from circuitlens.prompts.alignment import align
    from circuitlens.torch_modes import own_modes

    aligned = align(adapter, pairs, by)
    print_skipped(str(file), aligned.skipped, len(pairs), "prompt")
    search = search_many(adapter, aligned, **how)
    with own_modes(gradients=True):
        given = how.get("batch_size")
        search = with_batch_size(search, given, run)
        return run_here(search) if run is None else find_in_folder(search, given, run, shard, ray)


def _kept(adapter: Adapter, circuit: Circuit, sources: dict[str, Any], output: Path | None) -> Circuit:
    """The circuit with its labels, saved before those, which may be another model's, and before the evidence, which may
    take a while.
    """
    if output is not None:
        circuit.save(output)
    if sources:
        circuit = circuitlens.label(circuit, adapter, **sources)
        if output is not None:
            circuit.save(output)
    return circuit


def _verified(
    adapter: Adapter, circuit: Circuit, held_out: list[Pair] | None, output: Path | None, run: Path | None
) -> Circuit:
    """The circuit with its evidence, which is printed and written into its file."""
    circuit = circuitlens.verify(adapter, circuit, held_out, run_folder=run)
    print_verdict(circuit)
    if output is not None:
        write_evidence(output, circuit)
    return circuit


def _check_evidence(verify: bool, held_out: Path | None, require: str | None) -> None:
    if (held_out or require) and not verify:
        raise typer.BadParameter("it is for --verify.", param_hint="--held-out" if held_out else "--require")


def _check_prompts(
    prompt: str | None,
    answer: list[str] | None,
    others: bool,
    prompts: Path | None,
    by: PositionGrouping | None,
    heads: bool,
) -> None:
    """Refuse a call that names no prompts, or one prompt and a file, or flags of the one with the other.

    `others` says whether a distractor or a corrupted prompt was given.
    """
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give a prompt, or a file of them with --prompts.", param_hint="PROMPT")
    if prompts is None and not answer:
        raise typer.BadParameter("give at least one.", param_hint="--answer")
    if prompts is not None and (answer or others):
        raise typer.BadParameter("the file has these itself.", param_hint="--answer, --distractor, --corrupted")
    if prompts is not None and heads:
        raise typer.BadParameter("it is for one prompt.", param_hint="--heads")
    if prompts is None and by is not None:
        raise typer.BadParameter("it is for --prompts.", param_hint="--by")


def _check_run(
    prompts: Path | None,
    run: Path | None,
    shard: str | None,
    batch_size: int | None,
    engine: str,
    ray_address: str | None,
    workers: int | None,
) -> None:
    """Refuse flags of many prompts with one, of a run's folder without one, and of Ray without Ray."""
    if prompts is None and (run or batch_size):
        raise typer.BadParameter("it is for --prompts.", param_hint="--run" if run else "--batch-size")
    if run is None and (shard or engine != "local"):
        raise typer.BadParameter("it is for --run.", param_hint="--shard" if shard else "--engine")
    if engine != "ray" and (ray_address or workers):
        raise typer.BadParameter("it is for --engine ray.", param_hint="--ray-address" if ray_address else "--workers")
    if shard is not None:
        read_shard(shard)


def _peak_memory() -> int:
    """The most bytes that this process has held."""
    import psutil

    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
