"""A random 3-layer transformer with every site layout the engine must serve: it proves algebra, not language.

`residual`: a ReLU SAE on each layer's residual stream (complete cuts, so that no edge may skip one).
`components`: whole-vector embeddings, attention SAEs with a stateful layer norm, transcoders (read hook ≠ write hook)
and residual SAEs together.
`normalised`: layer-norm SAEs on the residual stream, and transcoders from one layer's stream (another site's write
hook) to the next layer's attention. Coders define no fast rows, so the generic vector-Jacobian path is what runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from circuitlens.adapter import (
    ActivationFunction,
    Adapter,
    Example,
    Hook,
    Inputs,
    RelevanceRules,
    Site,
    SparseCoder,
)
from circuitlens.errors import AdapterError, PromptError

D, LAYERS, FEATURES = 12, 3, 30
VOCABULARY = ["<pad>", "a", "b", "c", "d", "e", "f", "g"]


class RandomSAE(SparseCoder):
    """ReLU SAE or transcoder; a `stateful` one is a TopK SAE whose `decode` undoes its last `encode`'s layer norm."""

    def __init__(self, random: Callable[..., Tensor], stateful: bool = False):
        self.d_in, self.d_sae = D, FEATURES
        self.encoder, self.decoder = random(D, FEATURES), random(FEATURES, D)
        self.bias, self.decoder_bias = random(FEATURES) * 0.5, random(D)
        self.stateful = stateful
        self._local = threading.local()

    def encode(self, x: Tensor) -> Tensor:
        if not self.stateful:
            return torch.relu(x @ self.encoder + self.bias)
        assert getattr(self._local, "state", None) is None, "encode and decode have to be paired"
        mean, spread = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        self._local.state = mean, spread
        pre = torch.relu((x - mean) / spread @ self.encoder + self.bias)
        kept = pre.topk(8, dim=-1)
        return torch.zeros_like(pre).scatter(-1, kept.indices, kept.values)

    def decode(self, f: Tensor) -> Tensor:
        y = f @ self.decoder + self.decoder_bias
        if self.stateful:
            state, self._local.state = getattr(self._local, "state", None), None
            assert state is not None, "decode has to follow encode"
            mean, spread = state
            y = y * spread + mean
        return y


Layout = Literal["residual", "components", "normalised"]


class TinyTransformer(Adapter):
    """The model; a batch is padded on the side `padding` to its longest prompt, and at least to `width` positions."""

    def __init__(self, layout: Layout = "residual", padding: str = "right", width: int = 0):
        self.padding, self.width = padding, width
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5

        self.embed, self.position, self.head = random(8, D) * 2, random(16, D), random(D, 8) * 3
        self.blocks = [[random(D, D) for _ in range(4)] + [random(D, 2 * D), random(2 * D, D)] for _ in range(LAYERS)]
        sites = []
        if layout == "components":
            sites += [
                Site("embed", "embedding", "embed", "embed", 0, None),
                Site("position", "embedding", "position", "position", 0, None),
            ]
        for n in range(LAYERS):
            if layout == "components":
                sites += [
                    Site(f"attn{n}", "feature", f"{n}.attn_out", f"{n}.attn_out", 3 * n + 1, RandomSAE(random, True)),
                    Site(f"mlp{n}", "feature", f"{n}.ln2", f"{n}.mlp_out", 3 * n + 2, RandomSAE(random)),
                ]
            if layout == "normalised" and n > 0:
                before = f"{n - 1}.resid"  # read here, and written by another site
                sites.append(Site(f"attn{n}", "feature", before, f"{n}.attn_out", 3 * n + 1, RandomSAE(random)))
            sae = RandomSAE(random, stateful=layout == "normalised")
            sites.append(Site(f"resid{n}", "feature", f"{n}.resid", f"{n}.resid", 3 * n + 3, sae))
        super().__init__(
            "tiny",
            "random weights",
            sites,
            [Example("a b c", "d", "e", "a b f"), Example("c d e", "a", "g", "c d b")],
        )

    @classmethod
    def load(cls, **options: Any) -> TinyTransformer:
        return cls(**options)

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        tokens = [tuple(prompt.split()) for prompt in prompts]
        if not all(tokens) or any(token not in VOCABULARY for prompt in tokens for token in prompt):
            raise PromptError(f"give prompts of the words {VOCABULARY[1:]}, not {list(prompts)}")
        longest = max(self.width, *map(len, tokens))
        ids, mask = torch.zeros(len(tokens), longest, dtype=torch.long), torch.zeros(len(tokens), longest).bool()
        for row, prompt in enumerate(tokens):
            start = longest - len(prompt) if self.padding == "left" else 0
            ids[row, start : start + len(prompt)] = torch.tensor([VOCABULARY.index(token) for token in prompt])
            mask[row, start : start + len(prompt)] = True
        return Inputs(ids, mask, tuple(tokens))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        unused = set(hooks)

        def at(name: str, x: Tensor) -> Tensor:
            unused.discard(name)
            y = hooks[name](x) if name in hooks else None
            return x if y is None else y

        mask = inputs.mask
        places = (mask.long().cumsum(1) - 1).clamp_min(0)
        seen = torch.ones(mask.shape[1], mask.shape[1]).tril().bool() & mask[:, None, :]
        x = at("embed", self.embed[inputs.values]) + at("position", self.position[places])
        for n, (q, k, v, o, up, down) in enumerate(self.blocks):
            h = layer_norm(x, [D])
            scores = (h @ q) @ (h @ k).transpose(1, 2) / D**0.5
            weights = scores.masked_fill(~seen, -1e9).softmax(-1)
            x = x + at(f"{n}.attn_out", weights @ (h @ v) @ o)
            x = x + at(
                f"{n}.mlp_out", at(f"{n}.post", gelu(at(f"{n}.pre", at(f"{n}.ln2", layer_norm(x, [D])) @ up))) @ down
            )
            x = at(f"{n}.resid", x)
        if unused:
            raise AdapterError(f"there are no hooks {sorted(unused)}")
        return layer_norm(x, [D]) @ self.head

    def relevance(self) -> RelevanceRules:
        return RelevanceRules(
            tuple(self.frozen), tuple(ActivationFunction(f"{n}.pre", f"{n}.post") for n in range(LAYERS))
        )

    def answer_index(self, answer: str, prompt: str) -> int:
        if answer not in VOCABULARY[1:]:
            raise PromptError(f"answer with one of {VOCABULARY[1:]}, not {answer!r}")
        return VOCABULARY.index(answer)

    def output_label(self, index: int) -> str:
        return VOCABULARY[index]

    def extended(self, inputs: Inputs, output: int) -> Inputs | None:
        words = (*inputs.tokens[0], VOCABULARY[output])
        return self.inputs([" ".join(words)]) if len(words) <= len(self.position) else None

    def label(self, site: Site, index: int) -> str:
        return f"{site.name}/{index}"
