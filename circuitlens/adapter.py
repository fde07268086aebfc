"""The adapter contract: a model, and the sparse coders that read its activations, behind one interface.

An adapter says *where* (its sites: hook names and coders) and *how to run* (prompt to inputs, hooked forward);
it computes no gradient and splices nothing. What is done with the hooks lives once, in `tracing`.

A third-party adapter is a subclass of `Adapter` named in its distribution's entry-point group `circuitlens.adapters`;
`circuitlens.testing.CONTRACT` is its test suite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitlens.coder import IdentityCoder as IdentityCoder
from circuitlens.coder import SparseCoder
from circuitlens.errors import AdapterError
from circuitlens.literals import SiteKind

Hook = Callable[[Tensor], Tensor | None]
"""Called with a site's activation; a tensor returned takes the activation's place."""


LOGITS = "logits"
"""What stands for a site's name and hook at logit nodes."""

Option = str | int | float | bool | None
"""What an adapter was loaded with, as a circuit's file keeps it."""


def agree(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> bool:
    """Whether two runs gave the same numbers, but for rounding; an infinite one has to be the same, and none is NaN.

    Models compute some things in float32 whatever their dtype, so float64 counts as that.
    """
    eps = max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
    apart = torch.where(x == y, torch.zeros_like(x), x - y).abs().max()  # outputs that can't be are -inf
    return bool(apart <= eps**0.5 * y.abs().nan_to_num(posinf=0).max())


@dataclass(frozen=True)
class Site:
    """A place where a coder reads the activation at hook `read` and its reconstruction belongs at hook `write`.

    `read` and `write` are one hook for an SAE and two for a transcoder. A site without a coder is a vector whose
    every position is a single node (an embedding). `layer` orders the drawing, bottom to top.
    """

    name: str
    kind: SiteKind
    read: str
    write: str
    layer: int
    coder: SparseCoder | None


@dataclass(frozen=True)
class Attention:
    """One attention layer's hooks: `z` is what each head reads together before its output weights, `[batch, pos, head,
    d_head]`, of keys `k` and values `v`, `[batch, pos, head, d_head]`, which may have fewer heads (grouped queries).
    """

    layer: int
    z: str
    k: str
    v: str


@dataclass(frozen=True)
class Inputs:
    """A batch of prompts as the model takes them.

    `values` is `[batch, pos, ...]`, `mask[b, p]` is False at padding, and `tokens[b]` are the printable tokens of
    example `b` at its unpadded positions, which lie side by side.
    """

    values: Tensor
    mask: Bool[Tensor, "batch pos"]
    tokens: tuple[tuple[str, ...], ...]

    @property
    def first(self) -> Int[Tensor, " batch"]:
        """The first unpadded position of each example."""
        return self.mask.int().argmax(dim=1)

    @property
    def last(self) -> Int[Tensor, " batch"]:
        """The last unpadded position of each example, where the model's decision is read."""
        return self.mask.shape[1] - 1 - self.mask.flip(1).int().argmax(dim=1)

    def repeated(self, times: int) -> Inputs:
        """The whole batch several times over."""
        return self.chosen(torch.arange(len(self.mask), device=self.mask.device).repeat(times))

    def chosen(self, example: Int[Tensor, " row"]) -> Inputs:
        """A batch of these examples, each as often as it is named."""
        return Inputs(self.values[example], self.mask[example], tuple(self.tokens[n] for n in example.tolist()))

    def at_last(self, values: Float[Tensor, "batch pos output"]) -> Float[Tensor, "batch output"]:
        """The values at each example's last unpadded position."""
        return values[torch.arange(len(values), device=values.device), self.last]


@dataclass(frozen=True)
class Example:
    """A prompt that the adapter's model can decide, with a corrupted prompt that changes the decision."""

    prompt: str
    answer: str
    distractor: str
    corrupted: str


@dataclass(frozen=True)
class ActivationFunction:
    """Where a model applies an activation function to each number by itself.

    What hook `post` sees is `act` of what hook `pre` sees, with `act(0) = 0`, times what hook `linear` sees where the
    function is gated.
    """

    pre: str
    post: str
    linear: str | None = None


@dataclass(frozen=True)
class RelevanceRules:
    """Where a relevance run (`relp`) puts rules in the place of derivatives: at `held` hooks, whose values count as
    constants (attention patterns, norm scales), and at activation functions.
    """

    held: tuple[str, ...]
    activations: tuple[ActivationFunction, ...]


@dataclass(frozen=True)
class Release:
    """SAEs that were published together and that `Adapter.load` takes by name.

    Args:
        name: what they are loaded by.
        model: the model that they are for.
        count: how many there are.
        size: how much one of them takes, as people read it; "unknown" where that is not known before it is there.
        refused: why they can't be loaded, to follow their name in a sentence; None where they can.
    """

    name: str
    model: str
    count: int
    size: str
    refused: str | None = None


class Adapter(ABC):
    """A model with its sites; subclasses say how to load it, feed it, run it and name its parts.

    Args:
        name: the name it is found by.
        description: what the model and its coders are, in a sentence or two, with their measured quality.
        sites: in the order in which the model's forward reaches their `write` hooks, at least one.
        examples: prompts to show and to test with, at least one.
        frozen: hooks whose values count as constants in frozen mode (attention patterns, layer-norm scales): what is
            left between two sites is linear then, but for nonlinearities that no site cuts.
        options: what it was loaded with, for the record.
        bos: whether `inputs` puts a token of its own before each prompt.
        pads: whether a prompt gives beside a longer one, padded, what it gives alone; where it does not, only prompts
            of one length share a batch.
        not_frozen: why there is no frozen mode, where `frozen` is empty.
    """

    def __init__(
        self,
        name: str,
        description: str,
        sites: Sequence[Site],
        examples: Sequence[Example],
        *,
        frozen: Sequence[str] = (),
        options: Mapping[str, Option] | None = None,
        bos: bool = False,
        pads: bool = True,
        not_frozen: str = "it names no hooks to freeze",
    ):
        for what, values in (("name", [s.name for s in sites]), ("write hook", [s.write for s in sites])):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise AdapterError(f"Adapter {name!r}: the {what} {twice[0]!r} is on two sites; each needs its own.")
        for site in sites:
            if site.name == LOGITS or site.write == LOGITS:
                raise AdapterError(f"Adapter {name!r}: a site may not be called {LOGITS!r}; the model's outputs are.")
            if (site.coder is None) != (site.kind == "embedding"):
                raise AdapterError(f"Adapter {name!r}: site {site.name!r} is to have a coder, or the kind 'embedding'.")
        if not sites or not examples:
            raise AdapterError(f"Adapter {name!r} needs at least one site and one example.")
        self.name = name
        self.description = description
        self.sites = tuple(sites)
        self.examples = tuple(examples)
        self.frozen = tuple(frozen)
        self.options = dict(options or {})
        self.bos = bos
        self.pads = pads
        self.not_frozen = not_frozen

    @classmethod
    @abstractmethod
    def load(cls, **options: Any) -> Adapter:
        """Make the adapter, with options of its own that all have defaults.

        Options that the package declares (`circuitlens.options`) are flags of `circuitlens find` and `verify` too;
        they come as declared: one value, or a list where an option may be given several times.

        Raises:
            AdapterError: the model or a coder can't be had; the message says what to do.
        """

    @classmethod
    def releases(cls, model: str | None = None) -> Sequence[Release]:
        """The published SAEs that `load` takes by name, or those for models whose names hold `model`; none unless an
        adapter says so.
        """
        return ()

    @abstractmethod
    def inputs(self, prompts: Sequence[str]) -> Inputs:
        """Turn prompts into one padded batch.

        Raises:
            PromptError: a prompt can't be read; the message says what can.
        """

    @abstractmethod
    def run(self, inputs: Inputs, hooks: Mapping[str, Hook]) -> Float[Tensor, "batch pos output"]:
        """Run the model's forward once, calling `hooks[name]` at each named hook, and return its logits.

        No hook stays behind, also after an error, and no `requires_grad` or `grad` changes. Several threads may call it
        at once: what they share is locked here.
        """

    def last_logits(
        self, inputs: Inputs, hooks: Mapping[str, Hook], start: tuple[str, Tensor] | None = None
    ) -> Float[Tensor, "batch output"]:
        """The logits of such a run at each example's last unpadded position.

        `start` is a hook that `entry` named and what it sees in a run of these inputs: nothing before it has to be
        computed, and none of `hooks` lies there. This default runs everything, and unembeds every position.
        """
        return inputs.at_last(self.run(inputs, hooks))

    def entry(self, hooks: Collection[str]) -> str | None:
        """The hook from whose value a run may start and still reach all of `hooks`; None where it has to start at the
        beginning, as this default says.
        """
        return None

    @abstractmethod
    def answer_index(self, answer: str, prompt: str) -> int:
        """The output that says `answer` after `prompt`.

        Raises:
            PromptError: no single output does; the message names those that come near.
        """

    @abstractmethod
    def output_label(self, index: int) -> str:
        """The text of output `index`, as people read it."""

    @abstractmethod
    def label(self, site: Site, index: int) -> str:
        """The short name of feature `index` of `site`, as people read it (`F2`)."""

    def as_chat(self, prompt: str) -> str | None:
        """The prompt as a person's turn in a chat, up to where the model answers; None where the model has no chat
        template, as this default says. `inputs` reads it as any prompt.

        Raises:
            PromptError: the template can't be used on it; the message says why.
        """
        return None

    def extended(self, inputs: Inputs, output: int) -> Inputs | None:
        """The inputs of one prompt with what output `output` says after it, at one more position; None where the model
        does not continue texts, as this default says, or reads none that is longer.
        """
        return None

    @property
    def ends(self) -> Collection[int]:
        """The outputs that end a text (EOS), none unless an adapter says so."""
        return ()

    def relevance(self) -> RelevanceRules:
        """Where the method `relp` puts rules in the place of derivatives; none unless an adapter says so.

        Raises:
            AdapterError: nowhere, so that there is no such method; the message says why.
        """
        raise AdapterError(
            f"Adapter {self.name!r} names no rules of relevance, so it has no 'relp': use 'contrastive'."
        )

    def url(self, site: Site, index: int) -> str | None:
        """The address of a page about feature `index` of `site`, if there is one."""
        return None

    def sample(self) -> Iterable[str] | None:
        """Texts that show what its features stand for, where nobody gives any; None for plain English."""
        return None

    @property
    def attention(self) -> Sequence[Attention]:
        """The model's attention layers, in the order of the forward; none where heads can't be told apart.

        What a hook at one of their names returns is what the model goes on with.
        """
        return ()

    def unembed(self, site: Site, direction: Float[Tensor, " *d_out"]) -> Float[Tensor, " output"] | None:
        """What `direction`, written at `site`, adds to the logits by itself; None where that has no meaning.

        The direct path only: no later layer reads it. An adapter says how it treats a final normalisation.
        """
        return None
