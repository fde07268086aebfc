"""A model in half precision: scores are summed in float32, where its own numbers would stand still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter, Example, Hook, Inputs, Site, SparseCoder
from circuitlens.literals import MethodName
from tests.tiny_transformer import TinyTransformer

MANY = 512


class Parts(SparseCoder):
    """A number as `MANY` equal features, each of which writes what it is."""

    d_in, d_sae, stateful = 1, MANY, False

    def encode(self, x: Tensor) -> Tensor:
        return (x / MANY).expand(*x.shape[:2], MANY)

    def decode(self, f: Tensor) -> Tensor:
        return f.sum(2, keepdim=True)

    def encoder_rows(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.full_like(x, 1 / MANY)

    def decoder_rows(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.ones_like(x)


class InParts(TinyTransformer):
    """A number x in half precision at hook "x", in so many parts that their sum stands still; the logits are x and -1.

    Before it at hook "s" is what x is made from, itself.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        sites = [Site("s", "embedding", "s", "s", 0, None), Site("x", "feature", "x", "x", 1, Parts())]
        Adapter.__init__(self, "parts", "", sites, [Example("512", "+", "-", "0")])

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        values = torch.tensor([[[float(prompt)]] for prompt in prompts], dtype=self.dtype)
        return Inputs(values, torch.ones(len(prompts), 1).bool(), tuple((prompt,) for prompt in prompts))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        x = inputs.values
        for name in "sx":
            y = hooks[name](x) if name in hooks else None
            x = x if y is None else y
        return torch.cat([x, -torch.ones_like(x)], 2)

    def answer_index(self, answer: str, prompt: str) -> int:
        return "+-".index(answer)

    def output_label(self, index: int) -> str:
        return "+-"[index]


@pytest.mark.parametrize("method", ["gradient", "contrastive", "ig", "path"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_do_not_stand_still(method: MethodName, dtype: torch.dtype) -> None:
    """Each part is worth 1 and the error nothing; in bfloat16 256 + 1 is 256, in float16 2048 + 1 is 2048."""
    scale = 1 if dtype == torch.bfloat16 else 8
    adapter = InParts(dtype)
    circuit = circuitlens.find(adapter, str(512 * scale), "+", "-", "0", method, max_nodes=None, max_edges=None)
    assert (circuit.metric.value, circuit.metric.corrupted_value) == (512 * scale + 1, 1), "513 is no bfloat16"
    parts = [node.attribution for node in circuit.nodes if node.kind == "feature"]
    assert parts == [scale] * MANY
    assert sum(abs(node.attribution) for node in circuit.nodes if node.kind == "error") == 0
    (start,) = (node for node in circuit.nodes if node.kind == "embedding")
    out = sum(edge.weight for edge in circuit.edges if edge.source == start.id)
    assert start.attribution == pytest.approx(512 * scale) == pytest.approx(out, rel=2e-3), "edges are the model's"
    assert circuit.conservation_residual <= 2e-3 * 512 * scale
