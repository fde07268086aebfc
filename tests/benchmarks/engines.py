"""One run by one process, by shards, and by one and two workers of Ray: are the circuits equal, what each costs

    python -m tests.benchmarks.engines 100 [--method contrastive]

With CIRCUITLENS_SMOLLM2 and CIRCUITLENS_SMOLLM2_SAES set as for tests; the toy without them. The time is from the first
batch's begin to the last one's end, without Ray's start and what loads the model once more. Where no batch was in work,
batches were handed out, carried and written.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.discovery import search_many
from circuitlens.pipeline import Search
from circuitlens.prompts.tasks import TASKS
from circuitlens.runfolder import RunFolder, Shard, run_in_folder
from circuitlens.runfolder.ray_engine import RayEngine


def spent(folder: Path) -> tuple[float, float]:
    """The seconds from the first batch's begin to the last one's end, and those in which one was in work."""
    records = list(RunFolder.open(folder).records())
    begin, end = min(r.ended - r.seconds for r in records), max(r.ended for r in records)
    return end - begin, sum(r.seconds for r in records)


def by_shards(search: Search, folder: Path, count: int = 3) -> Circuit:
    """The circuit once each of three shards has done its part of each stage."""
    shards = cycle(Shard(n, count) for n in range(1, count + 1))
    while (found := run_in_folder(search, folder, shard=next(shards))) is None:
        pass
    return found


def by_ray(search: Search, folder: Path, options: dict[str, Any], workers: int) -> Circuit | None:
    """The circuit by a cluster of this machine."""
    with RayEngine(search, options, workers=workers) as engine:
        return run_in_folder(search, folder, engine=engine)


def main() -> None:
    """Measure each and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prompts", type=int)
    parser.add_argument("--method", default=None)
    chosen = parser.parse_args()
    options: dict[str, Any] = {}
    if folder := os.environ.get("CIRCUITLENS_SMOLLM2"):
        options = {"model": folder, "saes": os.environ["CIRCUITLENS_SMOLLM2_SAES"]}
    pairs, _ = TASKS["agreement-simple" if options else "agreement-toy"](chosen.prompts, 1, 0)
    search = search_many(circuitlens.load("transformerlens" if options else "toy", **options), pairs, chosen.method)
    ways: dict[str, Callable[[Path], Circuit | None]] = {
        "one process": lambda folder: run_in_folder(search, folder),
        "three shards": lambda folder: by_shards(search, folder),
        "Ray, one worker": lambda folder: by_ray(search, folder, options, 1),
        "Ray, two workers": lambda folder: by_ray(search, folder, options, 2),
    }
    table = Table("by", "seconds", "between batches", "equal", title=f"{len(pairs)} prompts, {search.adapter.name}")
    with tempfile.TemporaryDirectory() as name:
        found = []
        for number, (way, run) in enumerate(ways.items()):
            found.append(run(Path(name) / str(number)))
            span, busy = spent(Path(name) / str(number))
            between = "" if "two" in way else f"{span - busy:.2f} s ({100 * (span - busy) / busy:.1f} %)"
            table.add_row(way, f"{span:.1f}", between, str(found[-1] == found[0]))
    Console().print(table)


if __name__ == "__main__":
    main()
