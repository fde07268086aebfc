"""A run with nodes set holds what is as wide as an SAE for one site at a time: of all sites it would not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

import circuitlens
from circuitlens.adapter import Hook, Inputs
from circuitlens.circuit import Circuit
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.faithfulness import AblationRuns
from circuitlens.evaluation.settings import Setting
from circuitlens.literals import AblationKind
from tests.tiny_transformer import FEATURES, TinyTransformer


def held() -> int:
    """How many tensors there are of all features of a batch: values and masks."""
    # By its exact type: asking other objects for their class may import what they stand for.
    every = [x for x in gc.get_objects() if type(x) is Tensor]
    return sum(x.layout == torch.strided and x.dim() == 3 and x.shape[2] == FEATURES for x in every)


class Counting(TinyTransformer):
    """Notes what is held when a run begins, and after each of its hooks."""

    def __init__(self) -> None:
        super().__init__("components")
        self.counting, self.counts = False, list[list[int]]()

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        if not self.counting:
            return super().run(inputs, hooks)
        counts = [held()]
        self.counts.append(counts)

        def counted(hook: Hook) -> Hook:
            def run(x: Tensor) -> Tensor | None:
                y = hook(x)
                counts.append(held())
                return y

            return run

        return super().run(inputs, {name: counted(hook) for name, hook in hooks.items()})


@pytest.fixture
def adapter() -> Counting:
    return Counting()


@pytest.fixture
def circuit(adapter: Counting) -> Circuit:
    example = adapter.examples[0]
    return circuitlens.find(
        adapter, example.prompt, example.answer, example.distractor, example.corrupted, "contrastive", max_edges=0
    )


def check(adapter: Counting, work: Callable[[], object]) -> None:
    gc.collect()
    gc.freeze()  # what there was before is not looked at
    adapter.counting, adapter.counts = True, []
    try:
        work()
    finally:
        gc.unfreeze()
    assert any(len(counts) > 5 for counts in adapter.counts), "many sites are edited"
    assert {count for counts in adapter.counts for count in counts} == {0}


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
def test_runs_with_part_of_the_nodes(adapter: Counting, circuit: Circuit, ablation: AblationKind) -> None:
    nodes = [node for node in circuit.nodes if node.kind in ("feature", "error")]
    runs = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), ablation, nodes)
    keep = torch.arange(len(nodes)) % torch.tensor([[2], [3], [4]]) == 0
    check(adapter, lambda: runs(keep, False))


def test_interventions_and_ablations(adapter: Counting, circuit: Circuit) -> None:
    inner = [node.id for node in circuit.nodes if node.kind in ("feature", "error")]
    settings: dict[str, Setting] = {name: "corrupted" if n % 2 else 0.5 for n, name in enumerate(inner)}
    check(adapter, lambda: circuitlens.intervene(adapter, circuit, settings))
    check(adapter, lambda: circuitlens.ablate(adapter, circuit, inner))
