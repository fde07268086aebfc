"""Peak memory of `aggregate` by number of prompts: a process each, so that no run keeps memory for the next.

python -m tests.benchmarks.aggregation_memory
python -m tests.benchmarks.aggregation_memory --model smollm2-135m --saes smollm2-135m-saes --data agreement.jsonl
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--saes", "--data"):
        parser.add_argument(name)
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--method", default="ig")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        measure(args)
        return
    sys.stdout.write("| prompts | nodes found | seconds | peak memory above the loaded model |\n|---|---|---|---|\n")
    for count in args.counts:
        words = [sys.executable, "-m", "tests.benchmarks.aggregation_memory", *sys.argv[1:], "--one", str(count)]
        done = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        sys.stdout.write(f"| {count} | {done['nodes']} | {done['seconds']:.1f} | {done['megabytes']:.0f} MB |\n")
        sys.stdout.flush()


def measure(args: argparse.Namespace) -> None:
    import circuitlens
    from circuitlens.prompts.tasks import TASKS

    if args.model:
        adapter = circuitlens.load("transformerlens", model=args.model, saes=[args.saes])
        pairs = [pair for pair in circuitlens.read_pairs(args.data)[0] if len(pair.prompt.split()) == 2]
    else:
        adapter = circuitlens.load("toy")
        pairs = TASKS["agreement-toy"](max(args.counts), 0, 0)[0]
    # What imports and first runs allocate is no matter of prompts.
    circuitlens.aggregate(adapter, pairs[:20], args.method)
    pairs = (pairs * args.one)[: args.one]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    circuit = circuitlens.aggregate(adapter, pairs, args.method)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert circuit.found is not None, "a circuit that was just made says what was found"
    found = {"nodes": circuit.found.nodes, "seconds": seconds, "megabytes": (peak - before) / 1024}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
