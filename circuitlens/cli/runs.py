"""Runs as folders on the command line: flags of `circuitlens find`, and `circuitlens merge` and `circuitlens runs`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from circuitlens.cli.inputs import MANY, load_for_run
from circuitlens.cli.output import print_summary, print_table

if TYPE_CHECKING:
    from circuitlens.circuit import Circuit
    from circuitlens.pipeline import Search
    from circuitlens.runfolder.running import Engine
    from circuitlens.runfolder.state import StageState

Run = Annotated[
    Path | None,
    typer.Option(
        help="A folder that keeps what is done, batch by batch (with --prompts): the same call goes on there, and "
        "several processes may share the work."
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", help="With --run, do the batches of one share only, such as 3/16; `circuitlens merge` joins them."
    ),
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="With --run, what computes: this process, or workers of Ray (the extra `ray`)."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address", metavar="HOST:PORT", help="With --engine ray, the head of the cluster that this machine is in."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MANY,
        help="With --engine ray, how many: by default one a GPU, or as many as there are cores for.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MANY,
        help="Prompts that run together (with --prompts): by default up to 16, as many as fit in memory, and in a "
        "run's folder as many as it was begun with.",
    ),
]
FEW_SECONDS = 5.0
"""How long a search may take without its time and memory being told first."""


def read_shard(text: str) -> tuple[int, int]:
    """A shard as typed: its number, from 1, and how many there are."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(
            f"{text!r} is none: write its number and how many there are, such as 3/16.", param_hint="--shard"
        )
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Ray:
    """Where workers of Ray are, how many, and the options that they load the adapter with."""

    options: Mapping[str, object]
    address: str | None
    workers: int | None


def with_batch_size(search: Search, given: int | None, folder: Path | None) -> Search:
    """The search with the batch size that was given, that a run's folder has, or that fits in memory.

    Where it takes more than a few seconds it is told first how many and how much memory, by a trial.
    """
    from circuitlens.files import format_bytes
    from circuitlens.pipeline.estimate import estimate
    from circuitlens.runfolder.record import DOCUMENT

    if folder is not None and (folder / DOCUMENT).is_file():
        return search if given is not None else _as_begun(search, folder)
    found = estimate(search)
    search = search if given is not None else replace(search, batch_size=found.largest_batch())
    seconds, size = found.seconds(search), min(search.batch_size, len(search.prompts))
    if seconds > FEW_SECONDS:
        memory = format_bytes(found.held + found.growth(size))
        tried = "one prompt" if found.tried == 1 else f"{found.tried} prompts"
        typer.echo(
            f"{len(search.prompts):,} prompts in {len(search.batches):,} batches of {size}, {len(search.stages)} "
            f"stages: about {_duration(seconds)} and {memory} of memory here (measured on {tried}).",
            err=True,
        )
    return search


def find_in_folder(search: Search, given: int | None, folder: Path, shard: str | None, ray: Ray | None) -> Circuit:
    """The circuit of a run's folder; ends the command where other shards have to do theirs first.

    `given` is the batch size that was asked for: without one, that of a process which began the run meanwhile is taken.
    """
    from circuitlens.errors import RunError
    from circuitlens.runfolder import RunFolder, Shard, run_in_folder

    share = None if shard is None else Shard(*read_shard(shard))
    try:
        with _engine(search, ray) as engine:
            circuit = run_in_folder(search, folder, shard=share, engine=engine)
    except RunError:
        begun = _as_begun(search, folder)
        if given is not None or begun.batch_size == search.batch_size:
            raise
        return find_in_folder(begun, begun.batch_size, folder, shard, ray)
    if circuit is None:
        typer.echo(f"Shard {shard} has done its part. {_missing(RunFolder.open(folder))}")
        raise typer.Exit
    return circuit


def _as_begun(search: Search, folder: Path) -> Search:
    """The search with the batch size of a run that was begun; as it is where none was."""
    from circuitlens.runfolder.record import DOCUMENT, read_record

    return replace(search, batch_size=read_record(folder).batch_size) if (folder / DOCUMENT).is_file() else search


def _engine(search: Search, ray: Ray | None) -> AbstractContextManager[Engine | None]:
    if ray is None:
        return nullcontext()
    from circuitlens.runfolder.ray_engine import RayEngine

    return RayEngine(search, ray.options, ray.address, ray.workers)


def merge(
    folder: Annotated[Path, typer.Argument(help="A run's folder, from `circuitlens find --run`.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The circuit file to write.")] = None,
) -> None:
    """Join the pieces of a run into its circuit, print a summary and write it to a file; nothing is computed."""
    from circuitlens.errors import RunError
    from circuitlens.runfolder import RunFolder, join
    from circuitlens.torch_modes import own_modes

    run = RunFolder.open(folder)
    if any(run.missing(stage) for stage in run.record.stages):
        raise RunError(_missing(run))
    record, pairs = run.record, run.pairs()
    adapter = load_for_run(folder, record)
    with own_modes(gradients=True):
        circuit = join(record.search(adapter, pairs), run)
    if circuit is None:
        raise RunError(_missing(run))
    if output is not None:
        circuit.save(output)
    print_summary(circuit)
    if output is not None:
        typer.echo(f"Wrote {output}; `circuitlens view {output}` shows it.")


def runs(folder: Annotated[Path, typer.Argument(help="A run's folder, from `circuitlens find --run`.")]) -> None:
    """Print how far a run is: its stages, speed, time left, and what could not be done, with the reasons."""
    from circuitlens.runfolder import RunFolder
    from circuitlens.runfolder.state import state_of

    run = RunFolder.open(folder)
    record, state = run.record, state_of(run)
    typer.echo(f"{record.prompts} prompts in {record.batches} batches of {record.batch_size}, method {record.method}")
    rows = [("stage", "done", "in work", "workers", "prompts/s", "time left")]
    rows += [_row(each) for each in state.stages]
    print_table(rows)
    if state.failures:
        print_table([("failed", "batch", "because"), *((f.stage, str(f.batch), f.reason) for f in state.failures)])
    if state.done:
        typer.echo(f"All is done: `circuitlens merge {folder} -o FILE` writes the circuit.")


def _row(state: StageState) -> tuple[str, ...]:
    speed = "–" if state.speed is None else f"{state.speed:.2f}"
    left = "–" if state.left is None else _duration(state.left)
    return (
        *(state.stage, f"{state.done} of {state.batches}", str(state.claimed), str(len(state.workers))),
        *(speed, left),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _missing(run: Any) -> str:
    """What has to be done before a run can go on, in a sentence."""
    stage = next((stage for stage in run.record.stages if run.missing(stage)), None)
    if stage is None:
        return (
            f"A piece of {str(run.path)!r} is damaged, or has only just been written: start the run again, which "
            "computes what is damaged."
        )
    missing = run.missing(stage)
    told = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
    return (
        f"{len(missing)} of {run.record.batches} batches of stage {stage!r} are missing ({told}): run their shards, or "
        "`circuitlens find --run` without a shard, which does all that is missing."
    )
