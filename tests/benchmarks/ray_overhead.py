"""What Ray costs: a run by one worker of Ray against the same run by this process, after start-up.

`python -m tests.benchmarks.ray_overhead 200`, with CIRCUITLENS_SMOLLM2 and CIRCUITLENS_SMOLLM2_SAES set as for tests.
The time is from the first batch's begin to the last one's end, without Ray's start and the second loading of the model.
Where no batch was in work, batches were handed out, carried and written.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import circuitlens
from circuitlens.discovery import search_many
from circuitlens.prompts.tasks import TASKS
from circuitlens.runfolder import RunFolder, run_in_folder
from circuitlens.runfolder.ray_engine import RayEngine


def spent(folder: Path) -> tuple[float, float]:
    """The seconds from the first batch's begin to the last one's end, and those in which one was in work."""
    records = list(RunFolder.open(folder).records())
    begin, end = min(r.ended - r.seconds for r in records), max(r.ended for r in records)
    return end - begin, sum(r.seconds for r in records)


def main(prompts: int) -> None:
    """Print both, and whether the circuits are equal."""
    options = {"model": os.environ["CIRCUITLENS_SMOLLM2"], "saes": os.environ["CIRCUITLENS_SMOLLM2_SAES"]}
    pairs, _ = TASKS["agreement-simple"](prompts, 1, 0)
    search = search_many(circuitlens.load("transformerlens", **options), pairs)
    with tempfile.TemporaryDirectory() as name:
        local = run_in_folder(search, Path(name) / "local")
        with RayEngine(search, options, workers=1) as engine:
            ray = run_in_folder(search, Path(name) / "ray", engine=engine)
        for kind in ("local", "ray"):
            span, busy = spent(Path(name) / kind)
            sys.stdout.write(f"{kind}: {len(pairs)} prompts in {span:.1f} s, {span - busy:.2f} s of it between batches")
            sys.stdout.write(f" ({100 * (span - busy) / busy:.1f} %)\n")
    sys.stdout.write(f"equal: {local == ray}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
