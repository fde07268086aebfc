"""How the model's text goes on, as it is and with nodes of a circuit set otherwise.

Greedy: each token is the most probable one. The nodes are set at the positions of the prompt, to what `intervene` sets
them to, in every step anew; the positions that were generated are left alone, and read what is there then. The first
token's probability is the one that `intervene` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuitlens.adapter import Adapter, Inputs
from circuitlens.circuit import Circuit, Node
from circuitlens.edits import for_prompt
from circuitlens.errors import AdapterError, CircuitError
from circuitlens.evaluation.circuit_inputs import require_same_adapter
from circuitlens.evaluation.settings import Setting, not_finite, read_settings, set_batch, settable_prompts
from circuitlens.progress import Progress, ProgressCallback
from circuitlens.runs import run_spliced
from circuitlens.torch_modes import own_modes

TOKENS = 20
"""Tokens of a continuation, unless it is said."""


@dataclass(frozen=True)
class Continuation:
    """A prompt's greedy continuation with nothing set, and with the nodes set: tokens, each with its probability.

    Each ends after the token that ends a text (EOS), which is its last then, or where the model reads no longer text.
    """

    prompt: str
    nodes: tuple[Node, ...]
    before: tuple[tuple[str, float], ...]
    after: tuple[tuple[str, float], ...]

    @property
    def differs_at(self) -> int | None:
        """The number of the first token that is another one, counted from 0; None where all are the same."""
        both = zip(self.before, self.after, strict=False)
        return next((number for number, ((ours, _), (theirs, _)) in enumerate(both) if ours != theirs), None)


def continue_text(
    adapter: Adapter,
    circuit: Circuit,
    settings: Mapping[str, Setting] | None = None,
    tokens: int = TOKENS,
    progress: ProgressCallback | None = None,
) -> Continuation:
    """Continue a circuit's prompt, of a circuit over many the first, as it is and with nodes set together.

    Args:
        adapter: the model that the circuit was found in.
        circuit: the circuit.
        settings: what `intervene` takes.
        tokens: how many tokens to generate, at most.
        progress: told how many are there; what it raises ends the work and comes out.

    Raises:
        AdapterError: the model does not continue texts, or its prompt is as long as it can be.
        CircuitError: what `intervene` raises, or `tokens` is no count of 1 or more.
        PromptError: the circuit's prompts can't be read, or have no corrupted prompts to take values from.
    """
    require_same_adapter(adapter, circuit)
    if tokens < 1:
        raise CircuitError(f"tokens is {tokens}: give a count of 1 or more.")
    nodes, chosen = read_settings(circuit, settings or {})
    with own_modes(gradients=False):
        first = next(iter(settable_prompts(adapter, circuit, nodes, chosen).batches(1)))
        at = set_batch(adapter, circuit, first, nodes, chosen, lambda logits: logits[:, 0])
        prompt, positions = at.batch.clean, at.batch.clean.mask.shape[1]
        if adapter.extended(prompt, 0) is None:
            raise AdapterError(
                f"The model of {adapter.name!r} does not continue the text {first.pairs[0].prompt!r:.200}: it answers "
                "with one output, or reads no longer text."
            )
        edits = {name: for_prompt(positions, edit) for name, edit in at.edits.items()}
        with Progress(tokens * (2 if edits else 1), progress, unit="token") as steps:

            def run(inputs: Inputs) -> Float[Tensor, "batch output"]:
                return run_spliced(adapter, inputs, edits)

            before = _greedy(adapter, prompt, lambda inputs: adapter.last_logits(inputs, {}), tokens, steps)
            after = _greedy(adapter, prompt, run, tokens, steps) if edits else before
    return Continuation(first.pairs[0].prompt, nodes, before, after)


def _greedy(
    adapter: Adapter,
    inputs: Inputs,
    run: Callable[[Inputs], Float[Tensor, "batch output"]],
    tokens: int,
    steps: Progress,
) -> tuple[tuple[str, float], ...]:
    """The most probable next tokens, one after the other."""
    found: list[tuple[str, float]] = []
    longer: Inputs | None = inputs
    while longer is not None and len(found) < tokens:
        steps.step("continuing the text", 0)
        logits = run(longer)[0].cpu().double()
        shares = logits.softmax(0)
        if not shares.isfinite().all():
            raise not_finite()
        index = int(logits.argmax())
        found.append((adapter.output_label(index), shares[index].item()))
        longer = None if index in adapter.ends else adapter.extended(longer, index)
        steps.step("continuing the text")
    return tuple(found)
