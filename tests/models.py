"""Small adapters that each show one thing, beside the `TinyTransformer` that most of them are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from circuitlens.adapter import Adapter, Attention, Example, Hook, IdentityCoder, Inputs, Site
from tests.tiny_transformer import LAYERS, D, Layout, TinyTransformer

# tests.saelens has them; it is imported by the tests that need it only, since it takes seconds.
SAE_LENS_LAYOUTS = ["residual", "middle", "attn + mlp + resid", "heads", "layer norm", "transcoders"]


def by_layout(layout: str, toy: Adapter, toy64: Adapter) -> Adapter:
    """The toy in double ("toy") or single precision ("toy32"), or a `TinyTransformer` of that layout."""
    return {"toy": toy64, "toy32": toy}.get(layout) or TinyTransformer(layout)  # type: ignore[arg-type]


class Line(TinyTransformer):
    """Two numbers x, at hooks "a" and "b" one after the other; the logits are ±3 (b1 + 2 b2)."""

    def __init__(self) -> None:
        coder = IdentityCoder(2)
        sites = [Site("a", "input", "a", "a", 0, coder), Site("b", "neuron", "b", "b", 1, coder)]
        Adapter.__init__(self, "line", "", sites, [Example("1 1", "+", "-", "0 0")])

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        values = torch.tensor([[[float(word) for word in prompt.split()]] for prompt in prompts])
        return Inputs(values, torch.ones(len(prompts), 1).bool(), tuple((prompt,) for prompt in prompts))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        a = hooks["a"](inputs.values) if "a" in hooks else None
        a = inputs.values if a is None else a
        b = a - 1  # exactly 0 at an input of 1
        c = hooks["b"](b) if "b" in hooks else None
        m = 3 * ((b if c is None else c) @ torch.tensor([1.0, 2.0]))
        return torch.stack([m, -m], -1)

    def answer_index(self, answer: str, prompt: str) -> int:
        return "+-".index(answer)

    def output_label(self, index: int) -> str:
        return "+-"[index]


class Total(TinyTransformer):
    """A number a token at hook "x", behind a token of its own that is 5; the logits are ± their sum."""

    def __init__(self) -> None:
        sites = [Site("x", "feature", "x", "x", 0, IdentityCoder(1))]
        Adapter.__init__(self, "total", "", sites, [Example("2 1", "+", "-", "1 1")], bos=True)

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        rows = [["5", *prompt.split()] for prompt in prompts]
        values = torch.zeros(len(rows), max(map(len, rows)), 1, dtype=torch.float64)
        mask = torch.zeros(values.shape[:2], dtype=torch.bool)
        for n, row in enumerate(rows):
            values[n, : len(row), 0] = torch.tensor([float(word) for word in row])
            mask[n, : len(row)] = True
        return Inputs(values, mask, tuple(map(tuple, rows)))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        x = hooks["x"](inputs.values) if "x" in hooks else None
        x = (inputs.values if x is None else x).cumsum(1)
        return torch.cat([x, -x], -1)

    def answer_index(self, answer: str, prompt: str) -> int:
        return "+-".index(answer)

    def output_label(self, index: int) -> str:
        return "+-"[index]


class Cubic(TinyTransformer):
    """A number x at hook "x"; the logits are x³ and −x³."""

    def __init__(self) -> None:
        sites = [Site("x", "feature", "x", "x", 0, IdentityCoder(1))]
        Adapter.__init__(self, "cubic", "", sites, [Example("2", "+", "-", "1")])

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        values = torch.tensor([[[float(prompt)]] for prompt in prompts], dtype=torch.float64)
        return Inputs(values, torch.ones(len(prompts), 1).bool(), tuple((prompt,) for prompt in prompts))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        x = hooks["x"](inputs.values) if "x" in hooks else None
        x = inputs.values if x is None else x
        return torch.cat([x**3, -(x**3)], -1)

    def answer_index(self, answer: str, prompt: str) -> int:
        return "+-".index(answer)


class Spelled(TinyTransformer):
    """A tiny transformer whose tokens spell the prompt, space by letter as a BPE does, behind a token of its own.

    Words of several letters are several tokens.
    """

    def __init__(self, bos: bool = True, padding: str = "right") -> None:
        super().__init__(padding=padding)
        self.bos = bos

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        pieces = []
        for prompt in prompts:
            letters: list[str] = []
            for letter in prompt:
                if letter == " " or not letters or letters[-1].strip():
                    letters.append(letter)
                else:
                    letters[-1] += letter
            pieces.append(letters)
        plain = [" ".join(["g"] * self.bos + [letter.strip() or "f" for letter in letters]) for letters in pieces]
        read = super().inputs(plain)
        tokens = tuple(("<s>",) * self.bos + tuple(letters) for letters in pieces)
        return Inputs(read.values, read.mask, tokens)


class Freezable(TinyTransformer):
    """A tiny transformer with hooks at attention patterns and layer-norm scales; `held` values take their places."""

    def __init__(self, layout: Layout = "residual") -> None:
        super().__init__(layout)
        generator = torch.Generator().manual_seed(1)
        self.head = torch.randn(D, 8, generator=generator, dtype=torch.float64)
        inner = (f"{n}.{name}" for n in range(LAYERS) for name in ("scale1", "pattern", "scale2"))
        self.frozen = (*inner, "scale")
        self.held: dict[str, Tensor] = {}

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        def at(name: str, x: Tensor) -> Tensor:
            x = self.held.get(name, x)
            y = hooks[name](x) if name in hooks else None
            return x if y is None else y

        def normed(name: str, x: Tensor) -> Tensor:
            x = x - x.mean(-1, keepdim=True)
            return x / at(name, (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())

        mask = inputs.mask
        seen = torch.ones(mask.shape[1], mask.shape[1]).tril().bool() & mask[:, None, :]
        places = (mask.long().cumsum(1) - 1).clamp_min(0)
        x = at("embed", self.embed[inputs.values]) + at("position", self.position[places])
        for n, (q, k, v, o, up, down) in enumerate(self.blocks):
            h = normed(f"{n}.scale1", x)
            scores = ((h @ q) @ (h @ k).transpose(1, 2)).masked_fill(~seen, -1e9)
            x = x + at(f"{n}.attn_out", at(f"{n}.pattern", scores.softmax(-1)) @ (h @ v) @ o)
            x = x + at(
                f"{n}.mlp_out",
                at(f"{n}.post", gelu(at(f"{n}.pre", at(f"{n}.ln2", normed(f"{n}.scale2", x)) @ up))) @ down,
            )
            x = at(f"{n}.resid", x)
        return normed("scale", x) @ self.head


class Linear(TinyTransformer):
    """Three numbers a position that go up linearly, to the right along the prompt too; every one of them is a neuron.

    Layer `n + 1` is a matrix times layer `n` and times the sum of all positions so far, which has a site of its own:
    edges skip it, as they do an attention output.
    """

    def __init__(self, layers: int = 3) -> None:
        generator = torch.Generator().manual_seed(0)
        self.straight, self.across = torch.randn(2, layers, 3, 3, generator=generator, dtype=torch.float64)
        sites = [Site("0", "input", "0", "0", 0, IdentityCoder(3))]
        for n in range(layers):
            sites += [Site(f"{n}+", "neuron", f"{n}+", f"{n}+", 2 * n + 1, IdentityCoder(3))]
            sites += [Site(f"{n + 1}", "neuron", f"{n + 1}", f"{n + 1}", 2 * n + 2, IdentityCoder(3))]
        Adapter.__init__(self, "linear", "", sites, [Example("1 2", "+", "-", "3 5")])

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        numbers = torch.tensor([[float(word) for word in prompt.split()] for prompt in prompts], dtype=torch.float64)
        values = torch.stack([numbers, numbers - 4, 0.5 - numbers], -1)
        return Inputs(values, torch.ones(values.shape[:2]).bool(), tuple(tuple(prompt.split()) for prompt in prompts))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        def at(name: str, x: Tensor) -> Tensor:
            y = hooks[name](x) if name in hooks else None
            return x if y is None else y

        x = at("0", inputs.values)
        for n, (straight, across) in enumerate(zip(self.straight, self.across, strict=True)):
            x = at(f"{n + 1}", x @ straight + at(f"{n}+", x.cumsum(1) @ across))
        return x[..., :2]

    def answer_index(self, answer: str, prompt: str) -> int:
        return "+-".index(answer)

    def output_label(self, index: int) -> str:
        return "+-"[index]


class Headed(TinyTransformer):
    """A tiny transformer whose attention has four heads, two to a key and value, with hooks that tell them apart."""

    HEADS, GROUPS = 4, 2

    @property
    def attention(self) -> Sequence[Attention]:
        return [Attention(n, f"{n}.z", f"{n}.k", f"{n}.v") for n in range(LAYERS)]

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        def at(name: str, x: Tensor) -> Tensor:
            y = hooks[name](x) if name in hooks else None
            return x if y is None else y

        width, times = D // self.HEADS, self.HEADS // self.GROUPS
        mask = inputs.mask
        seen = torch.ones(mask.shape[1], mask.shape[1]).tril().bool() & mask[:, None, None, :]
        places = (mask.long().cumsum(1) - 1).clamp_min(0)
        x = at("embed", self.embed[inputs.values]) + at("position", self.position[places])
        for n, (q, k, v, o, up, down) in enumerate(self.blocks):
            h = layer_norm(x, [D])
            queries = (h @ q).unflatten(-1, (self.HEADS, width)).transpose(1, 2)
            keys, values = (
                at(name, (h @ weight)[..., : self.GROUPS * width].unflatten(-1, (self.GROUPS, width)))
                .repeat_interleave(times, 2)
                .transpose(1, 2)
                for name, weight in ((f"{n}.k", k), (f"{n}.v", v))
            )
            pattern = (queries @ keys.transpose(2, 3)).masked_fill(~seen, -1e9).softmax(-1)
            x = x + at(f"{n}.attn_out", at(f"{n}.z", (pattern @ values).transpose(1, 2)).flatten(2) @ o)
            x = x + at(f"{n}.mlp_out", gelu(at(f"{n}.ln2", layer_norm(x, [D])) @ up) @ down)
            x = at(f"{n}.resid", x)
        return layer_norm(x, [D]) @ self.head
