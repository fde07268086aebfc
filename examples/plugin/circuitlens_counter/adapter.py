"""An adapter in a package of its own: a two-position model without training, whose circuit can be worked out by hand.

A prompt is two whole numbers, "3 5"; the model says which position holds the larger one. To write an adapter
for your model: say what the sites are, how a prompt becomes inputs, and run the forward with the hooks given.
What people may choose when they load it stands in `options.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from circuitlens.adapter import Adapter, Example, Hook, IdentityCoder, Inputs, Site, SparseCoder
from circuitlens.errors import AdapterError, PromptError

ANSWERS = ("first", "second")


class SignSAE(SparseCoder):
    """Splits a number into its positive and its negative part; it defines no rows, so they are derived from it."""

    d_in, d_sae = 1, 2

    def __init__(self, share: float) -> None:
        self.share = share

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=-1).clamp_min(0)

    def decode(self, f: Tensor) -> Tensor:
        return self.share * (f[..., :1] - f[..., 1:])


class CounterAdapter(Adapter):
    """Numbers at two positions → their running difference → its positive and negative part → "first" / "second"."""

    def __init__(self, share: float) -> None:
        super().__init__(
            name="counter",
            description="Says which of two numbers is larger.",
            sites=[
                Site("number", "input", "number", "number", layer=0, coder=IdentityCoder(1)),
                Site("difference", "feature", "difference", "difference", layer=1, coder=SignSAE(share)),
            ],
            examples=[Example("3 5", "second", "first", "5 3"), Example("7 2", "first", "second", "2 7")],
            options={"share": share},  # kept in a circuit's file, so that `circuitlens verify` loads it alike
        )

    @classmethod
    def load(cls, *, share: float = 0.9, **unknown: Any) -> "CounterAdapter":
        if unknown:
            raise AdapterError(f"counter has no option {next(iter(unknown))!r}: it takes share=NUMBER.")
        return cls(share)

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        rows = [prompt.split() for prompt in prompts]
        if not all(len(row) == 2 and all(word.isdecimal() for word in row) for row in rows):
            raise PromptError(f"counter reads two whole numbers, such as '3 5', not {list(prompts)}.")
        values = torch.tensor([[[float(word)] for word in row] for row in rows])
        return Inputs(values, torch.ones(len(rows), 2, dtype=torch.bool), tuple(map(tuple, rows)))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        def at(name: str, x: Tensor) -> Tensor:
            replaced = hooks[name](x) if name in hooks else None
            return x if replaced is None else replaced

        x = at("number", inputs.values)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        difference = at("difference", before - x)  # at the last position: the first number less the second
        return torch.cat([difference, -difference], dim=-1)

    def answer_index(self, answer: str, prompt: str) -> int:
        if answer not in ANSWERS:
            raise PromptError(f"counter answers 'first' or 'second', not {answer!r}.")
        return ANSWERS.index(answer)

    def output_label(self, index: int) -> str:
        return ANSWERS[index]

    def label(self, site: Site, index: int) -> str:
        return "number" if site.name == "number" else ("larger", "smaller")[index]
