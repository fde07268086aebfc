"""The toy adapter: subject-verb agreement in a 2-4-2 network with a sparse autoencoder, trained in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from threading import RLock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuitlens.adapter import (
    ActivationFunction,
    Adapter,
    Example,
    Hook,
    IdentityCoder,
    Inputs,
    RelevanceRules,
    Site,
)
from circuitlens.errors import AdapterError, PromptError
from circuitlens.files import cache_folder
from circuitlens.prompts.words import NOUNS
from circuitlens_toy.grammar import evidence, sentences
from circuitlens_toy.options import DTYPES
from circuitlens_toy.training import Config, Trained, load_or_train

OUTPUTS = ("runs", "run")
INPUTS = ("singular", "plural")
PREFIXES = {"hidden": "H", "sae": "F"}


class ToyAdapter(Adapter):
    """Inputs (singular, plural) → hidden neurons H1…H4 → SAE features F1…F8 and their error → "runs" / "run".

    A prompt is one position: the model sees its two numbers, not its words.
    """

    def __init__(self, trained: Trained, dtype: torch.dtype = torch.float32):
        self.model = trained.model.to(dtype)
        self._lock = RLock()
        self.sae = trained.sae.to(dtype)
        self.measured = trained.measured
        super().__init__(
            name="toy",
            description=f"A 2-4-2 agreement network and its sparse autoencoder. {trained.measured}",
            sites=[
                Site("input", "input", "hook_input", "hook_input", 0, IdentityCoder(2)),
                Site("hidden", "neuron", "hook_hidden", "hook_hidden", 1, IdentityCoder(4)),
                Site("sae", "feature", "hook_sae", "hook_sae", 2, self.sae),
            ],
            examples=[Example("The cats", "run", "runs", "The cat"), Example("The cat", "runs", "run", "The cats")],
        )

    @classmethod
    def load(cls, *, cache: str | Path | None = None, dtype: str = "float32", **unknown: Any) -> ToyAdapter:
        """The trained toy; the first time it is trained, which takes a few seconds.

        Args:
            cache: the folder it is kept in, by default one in the user's cache directory.
            dtype: "float32" or "float64".

        Raises:
            AdapterError: an option is not one of these.
        """
        if unknown or dtype not in DTYPES:
            wrong = f"the option {next(iter(unknown))!r}" if unknown else f"dtype {dtype!r}"
            raise AdapterError(f"The toy has not {wrong}. It takes cache=FOLDER and dtype='float32' or 'float64'.")
        folder = cache_folder() if cache is None else Path(cache)
        return cls(load_or_train(Config(), folder), getattr(torch, dtype))

    def inputs(self, prompts: Sequence[str]) -> Inputs:
        values = torch.tensor([[evidence(prompt)] for prompt in prompts], dtype=self.model.output.weight.dtype)
        return Inputs(values, torch.ones(len(prompts), 1, dtype=torch.bool), tuple((prompt,) for prompt in prompts))

    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Float[Tensor, "batch pos output"]:
        handles = []
        with self._lock:  # hooks are the model's, and so every thread's
            try:
                for name, hook in hooks.items():
                    module = self.model.get_submodule(name)
                    handles.append(module.register_forward_hook(lambda _module, _args, output, hook=hook: hook(output)))
                return self.model(inputs.values)
            finally:
                for handle in handles:
                    handle.remove()

    def answer_index(self, answer: str, prompt: str) -> int:
        if answer not in OUTPUTS:
            raise PromptError(f"The toy can't answer {answer!r}: it says 'runs' or 'run', whatever the verb.")
        return OUTPUTS.index(answer)

    def output_label(self, index: int) -> str:
        return OUTPUTS[index]

    def relevance(self) -> RelevanceRules:
        """The network is linear but for its ReLU, whose rule is its derivative."""
        return RelevanceRules((), (ActivationFunction("hidden", "relu"),))

    def unembed(self, site: Site, direction: Float[Tensor, " *d_out"]) -> Float[Tensor, " output"] | None:
        return None if site.kind == "input" else self.model.output.weight @ direction

    def sample(self) -> Iterable[str]:
        """The sentences it was made for, mixed, so that those that do the same differ in their nouns."""
        texts = [sentence.text for sentence in sentences(list(NOUNS))]
        Random(0).shuffle(texts)
        return texts

    def label(self, site: Site, index: int) -> str:
        return INPUTS[index] if site.kind == "input" else f"{PREFIXES[site.name]}{index + 1}"
