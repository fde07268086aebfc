"""`circuitlens prompts`: makes files of prompts of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitlens.cli.inputs import MAX_SEED, require_apart
from circuitlens.prompts.pairs import MAX_ROWS


def prompts(
    task: Annotated[
        str, typer.Argument(help="agreement-simple, -nounpp, -within-rc, -rc or -toy, ioi, or greater-than.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file of prompts (JSON Lines) to write.")],
    count: Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="How many.")] = 100,
    held_out: Annotated[
        Path | None, typer.Option(help="A second file, of prompts with other nouns (or names).")
    ] = None,
    held_out_count: Annotated[
        int | None, typer.Option(min=1, max=MAX_ROWS, help="How many in it; by default as many.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the choice.")] = 0,
) -> None:
    """Make prompts of a task to find circuits on, and others to judge them on, without a noun in common."""
    from circuitlens.prompts.pairs import write_pairs
    from circuitlens.prompts.tasks import TASKS

    if task not in TASKS:
        raise typer.BadParameter(f"there is no {task!r}; there are {', '.join(TASKS)}.", param_hint="TASK")
    if held_out is None and held_out_count is not None:
        raise typer.BadParameter("it is for --held-out.", param_hint="--held-out-count")
    require_apart({"--output": output, "--held-out": held_out})
    wanted = {output: count, **({held_out: held_out_count or count} if held_out else {})}
    made = TASKS[task](count, held_out_count or count, seed)
    for (path, number), pairs in zip(wanted.items(), made, strict=False):
        write_pairs(path, pairs)
        few = f" (there are no more with these words; {number} were wanted)" if len(pairs) < number else ""
        typer.echo(f"Wrote {len(pairs)} prompts to {path}{few}.")
