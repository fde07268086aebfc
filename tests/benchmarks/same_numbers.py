"""Does this tree give the numbers that another revision gave? Compares attributions, edges, effects and verdicts.

    python -m tests.benchmarks.same_numbers REVISION [--model FOLDER --saes FOLDER]

Each of the two trees runs in a process of its own, on the toy and, where its folders are named, on a real model,
through the public calls alone. Prints a row a case: how many numbers there are, the largest difference as a share of
the largest number of the case, and what else differs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlens.literals import MethodName, PositionGrouping

ROOT = Path(__file__).parent.parent.parent
ROUNDING = 2e-4
"""The share of the largest number of its kind that float32 may be off by."""
NOUNS = ("cat", "dog", "boy", "girl", "car", "book", "king", "bird")


def main() -> int:
    """Run both trees and print the comparison; 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--model", help="the folder of a language model")
    parser.add_argument("--saes", help="the folder of its SAEs")
    parser.add_argument("--dump", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.dump:
        Path(given.dump).write_text(json.dumps(dict(_cases(given.model, given.saes))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", old, given.revision], cwd=ROOT, check=True)
        try:
            dumps = [_dump(tree, Path(folder) / f"{name}.json", given) for name, tree in (("old", old), ("new", ROOT))]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)
    return _compare(*dumps)


def _dump(tree: Path, file: Path, given: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, "HEAD", "--dump", str(file)]
    if given.model and given.saes:
        words += ["--model", str(Path(given.model).resolve()), "--saes", str(Path(given.saes).resolve())]
    paths = os.pathsep.join([str(tree), str(tree / "plugins")])
    subprocess.run(words, cwd=file.parent, env={**os.environ, "PYTHONPATH": paths}, check=True)
    return json.loads(file.read_text())


def _cases(model: str | None, saes: str | None) -> Iterator[tuple[str, Any]]:
    """Every case by name: numbers and texts, as JSON has them."""
    import circuitlens

    toy = circuitlens.load("toy", dtype="float64")
    pairs = [_pair(noun, "run", "runs") for noun in NOUNS] + [_pair(noun, "runs", "run", turned=True) for noun in NOUNS]
    methods: tuple[MethodName, ...] = ("gradient", "contrastive", "ig", "exact")
    for method in methods:
        for other in (None, "The cat"):
            if other is None and method == "contrastive":
                continue
            circuit = circuitlens.find(toy, "The cats", "run", "runs", other, method)
            yield from _all_of(f"toy {method} {'from zero' if other is None else 'contrast'}", toy, circuit)
        bys: tuple[PositionGrouping, ...] = ("position", "sum")
        for by in bys:
            circuit = circuitlens.aggregate(toy, pairs, method, by=by, batch_size=5)
            yield from _all_of(f"toy {method} of {len(pairs)} by {by}", toy, circuit)
    if not (model and saes):
        return
    adapter = circuitlens.load("transformerlens", model=model, saes=saes)
    for method, most in zip(methods, (100, 100, 100, 20), strict=True):
        circuit = circuitlens.find(adapter, "The cats", " run", " runs", "The cat", method, max_nodes=most)
        yield from _all_of(f"model {method}", adapter, circuit, effects=method == "ig")
    circuit = circuitlens.find(adapter, "The cats", " run", " runs", max_nodes=20, method="exact")
    yield from _all_of("model exact from zero", adapter, circuit, effects=False, evidence=False)
    some = [_pair(noun, " run", " runs") for noun in NOUNS]
    for method in methods[1:3]:
        circuit = circuitlens.aggregate(adapter, some, method, max_nodes=30, batch_size=3)
        yield from _all_of(f"model {method} of {len(some)}", adapter, circuit, effects=False)


def _pair(noun: str, answer: str, distractor: str, turned: bool = False) -> Any:
    import circuitlens

    plural, singular = f"The {noun}s", f"The {noun}"
    prompt, corrupted = (singular, plural) if turned else (plural, singular)
    return circuitlens.Pair(prompt=prompt, corrupted=corrupted, answer=(answer,), distractor=(distractor,))


def _all_of(
    name: str, adapter: Any, circuit: Any, *, effects: bool = True, evidence: bool = True
) -> Iterator[tuple[str, Any]]:
    """A circuit's numbers, what interventions on its nodes do, and its evidence."""
    import circuitlens

    yield f"{name}: nodes", {n.id: [n.attribution, n.activation, n.standard_error or 0.0] for n in circuit.nodes}
    edges = {f"{e.source} > {e.target}": [e.weight, e.standard_error or 0.0] for e in circuit.edges}
    yield f"{name}: edges", edges
    rest = {"found": circuit.found.model_dump(), "metric": circuit.metric.value, "gaps": circuit.completeness_gaps}
    yield f"{name}: rest", rest
    inner = sorted((n for n in circuit.nodes if n.kind != "logit"), key=lambda n: -abs(n.attribution))[:12]
    if effects:
        ablated = [circuitlens.ablate(adapter, circuit, [n.id]) for n in inner]
        yield f"{name}: ablations", {n.id: [a.before, a.after] for n, a in zip(inner, ablated, strict=True)}
        halved = [circuitlens.intervene(adapter, circuit, {n.id: 0.5}) for n in inner]
        yield (
            f"{name}: halved",
            {n.id: [o.after, *(c.after for c in o.outputs)] for n, o in zip(inner, halved, strict=True)},
        )
    if evidence:
        found = circuitlens.verify(adapter, circuit, top=20, draws=5, prompts=8).evidence
        assert found is not None, "that is what verify adds"
        yield f"{name}: evidence", found.model_dump(exclude={"digest", "created_by"})


def _compare(old: dict[str, Any], new: dict[str, Any]) -> int:
    worst, rows = 0, []
    for name in dict.fromkeys([*old, *new]):
        numbers, off, other = 0, 0.0, []
        ours, theirs = (dict(_leaves(tree.get(name))) for tree in (new, old))
        largest = max((abs(x) for x in theirs.values() if isinstance(x, float)), default=0.0)
        for place in dict.fromkeys([*theirs, *ours]):
            a, b = ours.get(place), theirs.get(place)
            if isinstance(a, float) and isinstance(b, float):
                numbers += 1
                off = max(off, abs(a - b) / largest if largest else abs(a - b))
            elif a != b and not _is_text_of_numbers(a, b):
                other.append(f"{place}: {b!r} is now {a!r}")
        bad = bool(other) or off > ROUNDING or math.isnan(off)
        worst |= bad
        rows.append(f"{'DIFFERS' if bad else 'same':8}{numbers:6} numbers, largest difference {off:.1e}  {name}")
        rows += [f"            {line:.200}" for line in other[:3]]
    sys.stdout.write("\n".join([*rows, ""]))
    return worst


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}/{key}")
    elif isinstance(value, list):
        for key, inner in enumerate(value):
            yield from _leaves(inner, f"{place}/{key}")
    else:
        yield place, float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _is_text_of_numbers(ours: Any, theirs: Any) -> bool:
    """Whether two sentences differ by what rounding does to the numbers in them alone."""
    strip: Callable[[str], str] = lambda text: "".join(c for c in text if not (c.isdigit() or c in "+-.e"))  # noqa: E731
    return isinstance(ours, str) and isinstance(theirs, str) and strip(ours) == strip(theirs)


if __name__ == "__main__":
    sys.exit(main())
