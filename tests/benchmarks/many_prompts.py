"""Prompts a second by batch size, as ratios of one run, and peak memory by number of prompts.

    python -m tests.benchmarks.many_prompts [--rounds 3] [--batches 1 8 32] [--counts 100 1000]

Speed is that of nodes by the default method at GPT-2 small's sizes (`gpt2_shapes`; prompts of 10 tokens). A prompt's
points of the way run together already when it is alone, which is what bounds the gain: "plain" is a forward and
backward of the model without SAEs, where nothing is together at batch 1. Memory is that of whole circuits of the toy
model (`aggregation_memory`), each count in a process of its own.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from tests.benchmarks.gpt2_shapes import Case, build, interleaved, machine

LENGTH = 10


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--counts", type=int, nargs="*", default=[100, 1000])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    words = [sys.executable, "-m", "tests.benchmarks.aggregation_memory", "--method", "path", "--counts"]
    if options.counts:
        subprocess.run([*words, *map(str, options.counts)], check=True)
    adapter = build()
    cases = {size: Case(adapter, LENGTH, size) for size in options.batches}
    calls = {f"nodes {size}": case.scored_by_path for size, case in cases.items()}
    calls |= {f"plain {size}": case.plain for size, case in cases.items()}
    times = interleaved(calls, options.rounds)
    table = Table("batch", "nodes: prompts a second", "× batch of one", "plain: × batch of one", title=machine())
    first = options.batches[0]
    for size in options.batches:
        gain, plain = (size / first * times[f"{w} {first}"] / times[f"{w} {size}"] for w in ("nodes", "plain"))
        table.add_row(str(size), f"{size / times[f'nodes {size}']:.2f}", f"{gain:.2f}", f"{plain:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
