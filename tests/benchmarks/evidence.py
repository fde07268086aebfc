"""What each attribution method is worth on a real model: faithfulness on prompts of unseen nouns, and rank correlation
with measured effects. Prints tables; never a test.

    python -m tests.benchmarks.evidence --model smollm2-135m --saes smollm2-135m-saes --data agreement.jsonl

Circuits are found on `--pairs` pairs of the data. They are judged on `--held-out` pairs made by
`circuitlens.prompts.tasks` from nouns that the data does not have, the same for every method. A circuit is the N
strongest features and errors by |mean attribution|; everything else is set to the corrupted run. Intervals (95 %) are
of resampled nouns, since prompts of one noun are no independent evidence. Easy nouns are the half on which the two
prompts of a pair differ most in the metric.
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
from circuitlens.evaluation.curves import random_circuits, sub_circuits
from circuitlens.evaluation.faithfulness import AblationRuns
from circuitlens.literals import MethodName
from circuitlens.prompts.alignment import align
from circuitlens.prompts.pairs import Pair, read_pairs
from circuitlens.prompts.tasks import agreement
from circuitlens.prompts.words import PEOPLE, plural_of

METHODS: tuple[MethodName, ...] = ("path", "relp", "ig", "exact", "contrastive", "gradient")
BASE: MethodName = "ig"  # what the others are compared with, noun by noun
COUNTS = [3, 10, 20, 50]
TOP = 100
DRAWS = 5
RESAMPLED = 2000


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--saes", "--data"):
        parser.add_argument(name, required=True)
    parser.add_argument("--kinds", nargs="+", default=["simple", "nounpp"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--pairs", type=int, default=60, help="to find circuits on")
    parser.add_argument("--held-out", type=int, default=120, help="to judge them on")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    adapter = circuitlens.load("transformerlens", model=args.model, saes=[args.saes])
    rows = [json.loads(line) for line in Path(args.data).read_text().splitlines()]
    every, _ = read_pairs(args.data)
    known = {word for pair in every for word in [*pair.prompt.split(), *(pair.corrupted or "").split()]}
    results = {}
    for kind in args.kinds:
        found_on = [pair for pair, row in zip(every, rows, strict=True) if row["kind"] == kind][: args.pairs]
        nouns = [noun for noun in PEOPLE if noun not in known and plural_of(noun) not in known]
        held_out = agreement(kind, nouns, args.held_out, seed=1)
        out(f"\n## {kind}: {len(found_on)} pairs to find, {len(held_out)} of {len(nouns)} unseen nouns to judge\n")
        results[kind] = judge(adapter, found_on, held_out, args.methods)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def judge(adapter, found_on: list[Pair], held_out: list[Pair], methods: list[MethodName]) -> dict:
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
    nouns = [noun_of(pair) for pair in aligned.pairs]
    easy = easier_half(nouns, (runs.full_model - runs.empty_circuit).numpy())
    names = ", ".join(sorted({noun for noun, one in zip(nouns, easy, strict=True) if one}))
    out(f"{len(set(nouns))} nouns, of which easy: {names}\n")
    out("| method | seconds | nodes | errors kept | easy | hard | less ig | errors removed | random |")
    out("|---|---|---|---|---|---|---|---|---|")
    results = {}
    scores = {m: [runs(some, False).numpy() for some in sub_circuits(runs, ranked[m], COUNTS)] for m in methods}
    whole, none = runs.full_model.numpy(), runs.empty_circuit.numpy()
    for method in methods:
        keep, _ = sub_circuits(runs, ranked[method], COUNTS)
        for n, count in enumerate(COUNTS):
            kept, removed = (ByNoun.of(nouns, values[n], whole, none) for values in scores[method])
            base = ByNoun.of(nouns, scores[BASE][0][n], whole, none) if BASE in scores else kept
            halves = [(scores[method][0][n][half] - none[half]).sum() for half in (easy, ~easy)]
            halves = [h / (whole[half] - none[half]).sum() for h, half in zip(halves, (easy, ~easy), strict=True)]
            cells = [str(kept), *(f"{half:.2f}" for half in halves), kept.less(base), str(removed), ""]
            if method == methods[0]:
                drawn = random_circuits(runs.nodes, keep[n], DRAWS, torch.Generator().manual_seed(0))
                cells[-1] = f"{np.mean(runs.faithfulness(runs(drawn, False))):.2f}"
            out(f"| {method} | {seconds[method]:.0f} | {count} | {' | '.join(cells)} |")
            results[f"{method} {count}"] = cells
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


class ByNoun:
    """Faithfulness over prompts, with an interval of resampled nouns."""

    def __init__(self, mean: float, draws: np.ndarray):
        self.mean, self.draws = mean, draws

    @staticmethod
    def of(nouns: list[str], metric: np.ndarray, whole: np.ndarray, none: np.ndarray) -> ByNoun:
        """The same nouns are drawn for every circuit, so that differences are of the same prompts."""
        names = sorted(set(nouns))
        place = np.array([names.index(noun) for noun in nouns])
        above, all_of = (np.bincount(place, x - none, len(names)) for x in (metric, whole))
        drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLED, len(names)))
        return ByNoun(above.sum() / all_of.sum(), above[drawn].sum(1) / all_of[drawn].sum(1))

    def less(self, other: ByNoun) -> str:
        """The difference to another circuit's."""
        return str(ByNoun(self.mean - other.mean, self.draws - other.draws))

    def __str__(self) -> str:
        low, high = np.quantile(self.draws, [0.025, 0.975])
        return f"{self.mean:.2f} ({low:.2f} to {high:.2f})"


def noun_of(pair: Pair) -> str:
    """The subject, in the singular."""
    word = pair.prompt.split()[1]
    return next((noun for noun in PEOPLE if word == plural_of(noun)), word)


def easier_half(nouns: list[str], contrast: np.ndarray) -> np.ndarray:
    """Which prompts have a noun of the half whose mean contrast is larger."""
    means = {noun: contrast[[n == noun for n in nouns]].mean() for noun in set(nouns)}
    middle = np.median(list(means.values()))
    return np.array([means[noun] > middle for noun in nouns])


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
