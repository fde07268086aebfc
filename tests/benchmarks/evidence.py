"""What each attribution method is worth on a real model: faithfulness on prompts of unseen nouns, and rank correlation
with measured effects. Prints tables; never a test.

    python -m tests.benchmarks.evidence --model smollm2-135m --saes smollm2-135m-saes --data agreement.jsonl

Circuits are found on `--pairs` pairs of the data. They are judged on as many pairs made by `circuitlens.prompts.tasks`
from nouns that the data does not have. A circuit is the N strongest features and errors by |mean attribution| (in
brackets: N features); everything else is set to the corrupted run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import circuitlens
from circuitlens.circuit import Circuit, Node
from circuitlens.evaluation.curves import interval, random_circuits, sub_circuits
from circuitlens.evaluation.faithfulness import AblationRuns
from circuitlens.literals import MethodName
from circuitlens.prompts.alignment import align
from circuitlens.prompts.pairs import Pair, read_pairs
from circuitlens.prompts.tasks import agreement
from circuitlens.prompts.words import PEOPLE, plural_of

METHODS: tuple[MethodName, ...] = ("gradient", "contrastive", "relp", "ig", "exact")
REFERENCE = {  # engine.md, "Figures to beat": ig, errors kept and removed
    "simple": {3: (0.57, 0.57), 10: (0.73, 0.69), 20: (0.83, 0.77), 50: (0.94, 0.86)},
    "nounpp": {3: (0.50, None), 10: (0.67, None), 20: (0.74, None), 50: (0.89, None)},
}
COUNTS = [3, 10, 20, 50]
TOP = 100
DRAWS = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--saes", "--data"):
        parser.add_argument(name, required=True)
    parser.add_argument("--kinds", nargs="+", default=["simple", "nounpp"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    adapter = circuitlens.load("gpt2", model=args.model, saes=[args.saes])
    rows = [json.loads(line) for line in Path(args.data).read_text().splitlines()]
    every, _ = read_pairs(args.data)
    known = {word for pair in every for word in [*pair.prompt.split(), *(pair.corrupted or "").split()]}
    results = {}
    for kind in args.kinds:
        found_on = [pair for pair, row in zip(every, rows, strict=True) if row["kind"] == kind][: args.pairs]
        nouns = [noun for noun in PEOPLE if noun not in known and plural_of(noun) not in known]
        held_out = agreement(kind, nouns, args.pairs, seed=1)
        out(f"\n## {kind}: {len(found_on)} pairs to find, {len(held_out)} of {len(nouns)} unseen nouns to judge\n")
        results[kind] = judge(adapter, found_on, held_out, args.methods, REFERENCE.get(kind, {}))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def judge(adapter, found_on: list[Pair], held_out: list[Pair], methods: list[MethodName], reference) -> dict:
    circuits: dict[str, Circuit] = {}
    seconds = {}
    for method in methods:
        start = time.perf_counter()
        # Exact effects are measured of the nodes that integrated gradients put first.
        circuits[method] = circuitlens.aggregate(
            adapter, found_on, method, max_nodes=None if method != "exact" else 2 * TOP, max_edges=0
        )
        seconds[method] = time.perf_counter() - start
    ranked = {method: inner(circuit) for method, circuit in circuits.items()}
    universe = {node.id: node for nodes in ranked.values() for node in nodes}
    any_circuit = circuits[methods[0]]
    aligned = align(adapter, held_out, "position", any_circuit.tokens)
    runs = AblationRuns(adapter, any_circuit, aligned, "corrupted", list(universe.values()))
    out(
        f"metric {runs.full_model.mean():+.2f}, corrupted {runs.empty_circuit.mean():+.2f}, "
        f"{len(aligned)} usable pairs, {len(universe)} active nodes\n"
    )
    out("| method | seconds | nodes | errors kept | errors removed | random (95 %) | reference |")
    out("|---|---|---|---|---|---|---|")
    results = {}
    for method in methods:
        keep, without = sub_circuits(runs, ranked[method], COUNTS)
        kept, removed = runs.faithfulness(runs(keep, False)), runs.faithfulness(runs(without, False))
        features = [node for node in ranked[method] if node.kind != "error"]
        only = runs.faithfulness(runs(sub_circuits(runs, features, COUNTS)[0], False))
        signed = sorted(ranked[method], key=lambda node: -node.attribution)
        by_sign = runs.faithfulness(runs(sub_circuits(runs, signed, COUNTS)[0], False))
        results[f"{method} by signed mean"] = by_sign
        for n, count in enumerate(COUNTS):
            drawn = random_circuits(runs.nodes, keep[n], DRAWS, torch.Generator().manual_seed(0))
            random = interval(runs.faithfulness(runs(drawn, False)))
            beat = reference.get(count)
            out(
                f"| {method} | {seconds[method]:.0f} | {count} | {kept[n]:.2f} | {removed[n]:.2f} ({only[n]:.2f}) "
                f"| {random.mean:.2f} ({random.low:.2f} to {random.high:.2f}) | {beat or ''} |"
            )
            results[f"{method} {count}"] = [kept[n], removed[n], only[n], random.mean, random.low, random.high]
    for method in methods:
        figures = ", ".join(f"{n}: {f:.2f}" for n, f in zip(COUNTS, results[f"{method} by signed mean"], strict=True))
        out(f"\n{method}, the N most positive mean attributions: {figures}")
    if "exact" in circuits:
        out(f"\n| method | Spearman with exact, its top {TOP} | same sign | top {TOP} by exact |\n|---|---|---|---|")
        real = {node.id: node.attribution for node in ranked["exact"]}
        for method in [m for m in methods if m != "exact"]:
            said = {node.id: node.attribution for node in ranked[method]}
            cells = []
            for nodes in (ranked[method][:TOP], ranked["exact"][:TOP]):
                missing = [node for node in nodes if node.id not in real]
                real.update(effects(adapter, any_circuit, found_on, missing))
                x, y = [said.get(n.id, 0.0) for n in nodes], [real[n.id] for n in nodes]
                cells.append((spearmanr(x, y)[0], np.mean(np.sign(x) == np.sign(y))))
            out(f"| {method} | {cells[0][0]:.2f} | {cells[0][1]:.0%} | {cells[1][0]:.2f} ({cells[1][1]:.0%}) |")
            results[f"{method} spearman"] = [float(v) for cell in cells for v in cell]
    return results


def effects(adapter, circuit: Circuit, pairs: list[Pair], nodes: list[Node]) -> dict[str, float]:
    """Mean measured effects of nodes that `exact` did not patch."""
    if not nodes:
        return {}
    runs = AblationRuns(adapter, circuit, align(adapter, pairs, "position", circuit.tokens), "corrupted", nodes)
    after = runs(~torch.eye(len(nodes), dtype=torch.bool), others=True)
    return dict(zip([node.id for node in nodes], (runs.full_model.mean() - after.mean(1)).tolist(), strict=True))


def inner(circuit: Circuit) -> list[Node]:
    nodes = [node for node in circuit.nodes if node.kind in ("feature", "error")]
    return sorted(nodes, key=lambda node: -abs(node.attribution))


def out(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
