"""Long work tells how far it is, and ends when the one who is told says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, get_args

import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.attribution.methods import DEFAULT
from circuitlens.circuit import Circuit
from circuitlens.errors import PromptError
from circuitlens.evaluation.checks import CHECKS
from circuitlens.literals import MethodName
from circuitlens.progress import ProgressCallback
from circuitlens.prompts.pairs import Pair
from tests.tiny_transformer import TinyTransformer

PAIRS = [
    Pair(prompt=f"a {w} c", corrupted=f"a {w} f", answer=("d",), distractor=("e",)) for w in ("a", "b", "c", "d", "g")
]
Told = list[tuple[str, int, int]]
Work = Callable[[ProgressCallback | None], Circuit]


def told_by(work: Work) -> tuple[Told, Circuit]:
    told: Told = []
    return told, work(lambda *step: told.append(step))


def toy_work(toy: Adapter, method: MethodName) -> Work:
    return lambda progress: circuitlens.find(
        toy, "The cats", "run", "runs", None if method == "gradient" else "The cat", method, progress=progress
    )


def check(told: Told) -> None:
    """Counts never fall, end at their total, and no total changes."""
    counts = [done for _, done, _ in told]
    assert counts == sorted(counts)
    assert {steps for _, _, steps in told} == {counts[-1]}


@pytest.mark.parametrize("method", get_args(MethodName))
def test_find_tells_each_stage(toy: Adapter, method: MethodName) -> None:
    work = toy_work(toy, method)
    told, circuit = told_by(work)
    check(told)
    assert [done for name, done, _ in told if name != "patching"][:2] == [1, 2]
    # Two runs; nodes at once or of each of three sites; perhaps patching; edges into two sites and the logits.
    # Where edges are measured, that.
    names = list(dict.fromkeys(name for name, _, _ in told))
    measured = ["patching"] if method == "exact" else []
    last = ["path patching"] if method == DEFAULT else []
    assert names == ["clean run", "corrupted run", "nodes", *measured, "edges", *last]
    assert told[-1][1] == {"gradient": 6, "contrastive": 6, "ig": 8, "exact": 9}[method] + len(last)
    assert circuit == work(None)


def test_find_tells_of_every_layout(model: Adapter) -> None:
    example = model.examples[0]
    for method in get_args(MethodName):
        told, _ = told_by(
            lambda progress, method=method: circuitlens.find(
                model,
                example.prompt,
                example.answer,
                example.distractor,
                example.corrupted,
                method,
                max_nodes=4,
                progress=progress,
            )
        )
        check(told)


@pytest.mark.parametrize("method", ["contrastive", "exact"])
@pytest.mark.parametrize(("max_edges", "measured_edges"), [(0, 3), (10, 0), (10, 3)])
def test_aggregate_tells_each_batch(method: MethodName, max_edges: int, measured_edges: int) -> None:
    sizes: dict[str, Any] = {"max_nodes": 5, "max_edges": max_edges, "measured_edges": measured_edges, "batch_size": 2}

    def work(progress: ProgressCallback | None) -> Circuit:
        return circuitlens.aggregate(TinyTransformer(), PAIRS, method, **sizes, progress=progress)

    told, circuit = told_by(work)
    check(told)
    sites = len(TinyTransformer().sites)
    runs = ["clean run", "corrupted run", *["nodes"] * (1 if method == "contrastive" else sites)]
    measured = ["patching"] if method == "exact" else []
    again = [*runs, *measured, *["edges"] * sites] if max_edges else [*runs, *measured] if measured else []
    steps = [name for k, (name, done, _) in enumerate(told) if done > (told[k - 1][1] if k else 0)]
    weighed = [*runs, "path patching"] if max_edges and measured_edges else []
    assert steps == [*runs * 3, *again * 3, *weighed * 3]
    assert circuit == work(None)


def verification(adapter: Adapter, circuit: Circuit) -> Work:
    return lambda progress: circuitlens.verify(adapter, circuit, draws=2, top=5, prompts=4, progress=progress)


def test_verify_tells_each_check(toy: Adapter) -> None:
    work = verification(toy, toy_work(toy, "contrastive")(None))
    told, circuit = told_by(work)
    check(told)
    assert told[-1][2] == len(CHECKS)
    assert {done for _, done, _ in told} == set(range(1, told[-1][2] + 1))
    assert list(dict.fromkeys(name for name, _, _ in told))[:3] == [
        "the file",
        "attribution and effects",
        "sub-circuits",
    ]
    assert circuit == work(None)


def test_verify_tells_each_check_where_there_is_nothing_to_explain(toy: Adapter) -> None:
    same = circuitlens.find(toy, "The cats", "run", "runs", "The dogs", "contrastive")
    told, circuit = told_by(verification(toy, same))
    check(told)
    assert circuit.evidence is not None
    assert circuit.evidence.verdict == "not supported"


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError, PromptError])
@pytest.mark.parametrize("what", ["find", "exact", "aggregate", "verify"])
def test_what_progress_raises_comes_out_unchanged_wherever_it_is_raised(
    toy: Adapter, what: str, fault: type[BaseException]
) -> None:
    """Also an error of ours, which the work itself would take for a fault in the prompts."""
    works: dict[str, Work] = {
        "find": toy_work(toy, "ig"),
        "exact": toy_work(toy, "exact"),
        "aggregate": lambda progress: circuitlens.aggregate(
            TinyTransformer(), PAIRS, max_nodes=5, measured_edges=1, batch_size=2, progress=progress
        ),
        "verify": verification(toy, toy_work(toy, "contrastive")(None)),
    }
    told, _ = told_by(works[what])
    stages = {name: number for number, (name, _, _) in enumerate(told)}
    assert len(stages) > 1
    # An error of ours at every call, others at the last of each stage. Raised once, so that none that is lost is made
    # good by the next, and without a text in one half of the cases.
    for at in range(len(told)) if fault is PromptError else stages.values():
        stop, calls = fault(*["enough"][: at % 2]), count()

        def progress(*_: object, at: int = at, stop: BaseException = stop, calls: Iterator[int] = calls) -> None:
            if next(calls) == at:
                raise stop

        with pytest.raises(fault) as raised:
            works[what](progress)
        assert raised.value is stop, f"call {at} of {len(told)}"
