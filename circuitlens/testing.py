"""The adapter contract as checks, for the tests of every adapter, ours and other people's.

In the test file of a plugin:

    import pytest, circuitlens
    from circuitlens.testing import CONTRACT

    @pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
    def test_contract(check):
        check(circuitlens.load("mine"))

Each check runs the adapter's own examples and raises AssertionError with what it found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch
from torch import Tensor
from torch.testing import assert_close

from circuitlens.adapter import Adapter, Hook, Inputs, SparseCoder
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.nodes import score_nodes
from circuitlens.attribution.scores import NodeScores, conservation_residual
from circuitlens.discovery import find
from circuitlens.errors import AdapterError, PromptError
from circuitlens.evaluation.intervention import ablate
from circuitlens.prompts.batch import PromptBatch, tokenize
from circuitlens.runs import run_spliced
from circuitlens.tracing import find_start, total_gradients, trace


def inputs_are_a_batch_with_tokens(adapter: Adapter) -> None:
    """Inputs are `[batch, pos, ...]` with a mask, and one printable token an unpadded position."""
    inputs = example_batch(adapter).clean
    assert inputs.values.shape[:2] == inputs.mask.shape, "values and mask differ in batch or positions"
    assert inputs.mask.any(1).all(), "an example has no unpadded position"
    assert [len(tokens) for tokens in inputs.tokens] == inputs.mask.sum(1).tolist(), "not one token a position"
    assert all(isinstance(token, str) and token for tokens in inputs.tokens for token in tokens)


def examples_can_be_decided(adapter: Adapter) -> None:
    """Answers and distractors are different outputs with labels, and corrupting the prompt changes the metric."""
    asked = example_batch(adapter)
    assert asked.corrupted is not None
    for index in torch.cat([asked.metric.answers, asked.metric.distractors], 1).flatten().tolist():
        assert isinstance(adapter.output_label(index), str)
    clean, corrupted = (asked.metric(i.at_last(adapter.run(i, {}))) for i in (asked.clean, asked.corrupted))
    assert (clean != corrupted).all(), "a corrupted prompt leaves the metric as it was"


def what_it_cannot_read_is_a_prompt_error(adapter: Adapter) -> None:
    """An empty prompt and an unknown answer raise PromptError."""
    for what, call in (
        ("an empty prompt", lambda: adapter.inputs([""])),
        ("an unknown answer", lambda: adapter.answer_index("\x00 no such output", adapter.examples[0].prompt)),
    ):
        try:
            call()
        except PromptError:
            continue
        raise AssertionError(f"{what} raised no PromptError")


def hooks_fire_once_and_in_order(adapter: Adapter) -> None:
    """Every site's hooks are reached once, in the order of the sites, with `[batch, pos, ...]` activations."""
    fired: list[str] = []
    inputs = example_batch(adapter).clean

    def note(name: str) -> Callable[[Tensor], None]:
        def hook(x: Tensor) -> None:
            fired.append(name)
            assert x.shape[:2] == inputs.mask.shape, f"{name} has shape {tuple(x.shape)}"

        return hook

    names = dict.fromkeys(name for site in adapter.sites for name in (site.read, site.write))
    adapter.run(inputs, {name: note(name) for name in names})
    assert sorted(fired) == sorted(names), f"hooks fired: {fired}"
    writes = [site.write for site in adapter.sites]
    assert [name for name in fired if name in writes] == writes, f"hooks fired in the order {fired}"


def a_hook_replaces_the_activation(adapter: Adapter) -> None:
    """What a write hook returns is what the model goes on with."""
    inputs = example_batch(adapter).clean
    plain = inputs.at_last(adapter.run(inputs, {}))
    for site in adapter.sites:
        changed = inputs.at_last(adapter.run(inputs, {site.write: lambda x: 0.5 * x + 1}))
        assert not torch.equal(changed, plain), f"replacing {site.write} changes no logit"


def runs_leave_no_trace(adapter: Adapter) -> None:
    """A run is repeatable to the bit, also after a hook failed, and fires no hook of an earlier run."""
    asked = example_batch(adapter)
    plain = adapter.run(asked.clean, {})
    assert plain.shape[:2] == asked.clean.mask.shape, f"logits have shape {tuple(plain.shape)}"
    calls = []

    def fail(x: Tensor) -> None:
        calls.append(x.shape)
        raise RuntimeError("on purpose")

    with suppress(RuntimeError):
        adapter.run(asked.clean, {adapter.sites[0].write: fail})
    trace(adapter, asked.clean, asked.metric)
    assert torch.equal(adapter.run(asked.clean, {}), plain), "logits differ after an attribution run"
    assert len(calls) == 1, "a hook of an earlier run fired again"


def late_runs_are_whole_runs(adapter: Adapter) -> None:
    """The last logits alone, and those of runs that start late, are those of whole runs, with the same gradients."""
    asked = example_batch(adapter)
    clean = trace(adapter, asked.clean, asked.metric, graph=False, coded=())
    _close(adapter.last_logits(asked.clean, {}), asked.clean.at_last(adapter.run(asked.clean, {})))
    twice = asked.clean.repeated(2)
    for n, seen in enumerate(clean.sites):
        point = (0.5 * seen.write.repeat(2, *[1] * (seen.write.dim() - 1)) + 1).requires_grad_()
        later: dict[str, Hook] = {site.write: lambda x: 1.1 * x for site in adapter.sites[n + 1 :]}
        hooks: dict[str, Hook] = {seen.site.write: lambda _, point=point: point.clone(), **later}
        whole = twice.at_last(adapter.run(twice, hooks))
        late = adapter.last_logits(twice, hooks, find_start(adapter, twice, hooks, clean))
        _close(late, whole)
        _close(*(torch.autograd.grad(logits.square().sum(), point)[0] for logits in (late, whole)))


def coders_keep_their_sizes(adapter: Adapter) -> None:
    """A coder maps `d_in` to `d_sae` and back to the write site's shape, each position by itself; one that is not
    stateful decodes alike whatever it encoded last.
    """
    asked = example_batch(adapter)
    for s in trace(adapter, asked.clean, asked.metric, graph=False).sites:
        if (coder := s.site.coder) is None:
            continue
        f = coder.encode(s.read)
        assert f.shape == (*s.read.shape[:2], coder.d_sae), f"{s.site.name}: features {tuple(f.shape)}"
        y = coder.decode(f)
        assert y.shape == s.write.shape, f"{s.site.name}: the reconstruction has another shape"
        alone = coder.encode(s.read[:1, :1])
        coder.decode(alone)
        _close(alone, f[:1, :1])
        if not coder.stateful:
            coder.encode(2 * s.read)
            _close(coder.decode(f), y)


def coders_rows_are_their_jacobians(adapter: Adapter) -> None:
    """Fast encoder and decoder rows equal those of the generic path at the active features."""
    asked = example_batch(adapter)
    for s in trace(adapter, asked.clean, asked.metric, graph=False).sites:
        if (coder := s.site.coder) is None:
            continue
        x, index = s.read[s.features.example, s.features.pos], s.features.index
        _close(coder.encoder_rows(x, index), SparseCoder.encoder_rows(coder, x, index))
        _close(coder.decoder_rows(x, index), SparseCoder.decoder_rows(coder, x, index))


def splice_is_a_no_op(adapter: Adapter) -> None:
    """Writing `dec(f) + ε` at every site leaves the logits as they were."""
    inputs = example_batch(adapter).clean
    plain = inputs.at_last(adapter.run(inputs, {}))
    spliced = run_spliced(adapter, inputs, {site.name: lambda f, error, decode: (f, error) for site in adapter.sites})
    _close(spliced, plain)


def gradient_is_the_models(adapter: Adapter) -> None:
    """The cut run's gradient at every site equals that of the model without coders."""
    asked = example_batch(adapter)
    expected = uncut_gradients(adapter, asked)
    for total, gradient in zip(total_gradients(trace(adapter, asked.clean, asked.metric)), expected, strict=True):
        _close(total, gradient)


def attribution_is_conserved(adapter: Adapter) -> None:
    """A node's outgoing edges sum to its attribution, from zero and contrastive."""
    asked = example_batch(adapter)
    assert asked.corrupted is not None
    clean = trace(adapter, asked.clean, asked.metric)
    for other in (None, trace(adapter, asked.corrupted, asked.metric, graph=False)):
        nodes = score_nodes(clean, other)
        residual = conservation_residual(nodes, score_edges(clean, nodes))
        largest = nodes.attribution.abs().max().item()
        assert residual <= 1e-4 * largest, f"residual {residual:.1e} with attributions up to {largest:.1e}"


def rules_of_relevance_change_no_value(adapter: Adapter) -> None:
    """A run by the adapter's rules of relevance, if it names any, gives the model's own logits."""
    with suppress(AdapterError):
        rules, asked = adapter.relevance(), example_batch(adapter)
        plain = asked.clean.at_last(adapter.run(asked.clean, {}))
        _close(trace(adapter, asked.clean, asked.metric, rules=rules).logits.detach(), plain)


def a_batch_scores_as_its_prompts_alone(adapter: Adapter) -> None:
    """The same attributions in one batch and one by one."""
    together = _nodes_of(example_batch(adapter), adapter)
    for b, example in enumerate(adapter.examples):
        alone = _nodes_of(tokenize(adapter, [example.prompt], [example.answer], [example.distractor]), adapter)
        ours = together.attribution[together.example == b]
        assert len(ours) == len(alone.attribution), "another number of active nodes"
        _close(ours, alone.attribution)


def padding_changes_nothing(adapter: Adapter) -> None:
    """Positions that the mask hides, left or right of a prompt, change neither the metric nor an attribution."""
    if not adapter.pads:
        return
    asked = example_batch(adapter)
    plain = _nodes_of(asked, adapter)
    for left, right in ((2, 0), (0, 2)):
        wide = [0, 0] * (asked.clean.values.dim() - 2) + [left, right]
        values, mask = (
            torch.nn.functional.pad(t, w) for t, w in ((asked.clean.values, wide), (asked.clean.mask, wide[-2:]))
        )
        padded = PromptBatch(Inputs(values, mask, asked.clean.tokens), None, asked.metric)
        nodes = _nodes_of(padded, adapter)
        assert len(nodes.attribution) == len(plain.attribution), "padding changes the number of active nodes"
        assert torch.equal(nodes.pos - left, plain.pos), "padding moves nodes"
        _close(nodes.attribution, plain.attribution)


def threads_do_not_mix(adapter: Adapter) -> None:
    """Runs that several threads ask for at once see their own prompts and hooks."""
    batches = [
        tokenize(adapter, [e.prompt], [e.answer], [e.distractor]) for e in (adapter.examples[0], adapter.examples[-1])
    ]
    alone = [_nodes_of(batch, adapter).attribution for batch in batches]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with ThreadPoolExecutor(len(batches)) as pool:
            asked = [number % len(batches) for number in range(8)]
            for number, nodes in zip(asked, pool.map(lambda n: _nodes_of(batches[n], adapter), asked), strict=True):
                _close(nodes.attribution, alone[number])
    finally:
        sys.setswitchinterval(interval)


def an_ablation_can_be_repeated_from_its_circuit(adapter: Adapter) -> None:
    """A circuit's own record of prompt and answers is enough to run the model again: the metric comes out the same."""
    for example in adapter.examples:
        circuit = find(adapter, example.prompt, example.answer, example.distractor, example.corrupted)
        before = ablate(adapter, circuit, []).before
        assert abs(before - circuit.metric.value) <= 2e-4 * max(1.0, abs(before)), (
            f"{before} is not {circuit.metric.value}"
        )


def a_text_that_goes_on_keeps_its_beginning(adapter: Adapter) -> None:
    """Where the adapter continues texts, an output after a prompt is one more position, which no earlier one sees."""
    for example in adapter.examples:
        inputs = adapter.inputs([example.prompt])
        longer = adapter.extended(inputs, adapter.answer_index(example.answer, example.prompt))
        if longer is None:
            continue
        assert int(longer.mask.sum()) == int(inputs.mask.sum()) + 1, "an output is not one more position"
        assert longer.tokens[0][:-1] == inputs.tokens[0], "the prompt's own tokens are others"
        _close(adapter.run(longer, {})[longer.mask][:-1], adapter.run(inputs, {})[inputs.mask])


def features_have_names(adapter: Adapter) -> None:
    """Labels are text, and addresses are web addresses or None."""
    for site in adapter.sites:
        if site.coder is None:
            continue
        for index in (0, site.coder.d_sae - 1):
            assert isinstance(adapter.label(site, index), str)
            url = adapter.url(site, index)
            assert url is None or url.startswith(("http://", "https://")), f"{url!r} is no web address"


CONTRACT: tuple[Callable[[Adapter], None], ...] = (
    inputs_are_a_batch_with_tokens,
    examples_can_be_decided,
    what_it_cannot_read_is_a_prompt_error,
    hooks_fire_once_and_in_order,
    a_hook_replaces_the_activation,
    runs_leave_no_trace,
    late_runs_are_whole_runs,
    coders_keep_their_sizes,
    coders_rows_are_their_jacobians,
    splice_is_a_no_op,
    gradient_is_the_models,
    attribution_is_conserved,
    rules_of_relevance_change_no_value,
    a_batch_scores_as_its_prompts_alone,
    padding_changes_nothing,
    threads_do_not_mix,
    an_ablation_can_be_repeated_from_its_circuit,
    a_text_that_goes_on_keeps_its_beginning,
    features_have_names,
)


def example_batch(adapter: Adapter) -> PromptBatch:
    """The adapter's examples as one batch."""
    examples = adapter.examples
    answers, distractors = [e.answer for e in examples], [e.distractor for e in examples]
    return tokenize(adapter, [e.prompt for e in examples], answers, distractors, [e.corrupted for e in examples])


def uncut_gradients(adapter: Adapter, asked: PromptBatch) -> list[Tensor]:
    """`∂m/∂x` at every site of the model without coders: the derivative in a zero that is added there."""
    added: list[Tensor] = []

    def add(x: Tensor) -> Tensor:
        added.append(torch.zeros_like(x, requires_grad=True))
        return x + added[-1]

    logits = asked.clean.at_last(adapter.run(asked.clean, {site.write: add for site in adapter.sites}))
    return list(torch.autograd.grad(asked.metric(logits).sum(), added))


def _nodes_of(asked: PromptBatch, adapter: Adapter) -> NodeScores:
    return score_nodes(trace(adapter, asked.clean, asked.metric))


def _close(actual: Tensor, expected: Tensor) -> None:
    """Equal to rounding, relative to the largest number there is."""
    bound = 1e-9 if expected.dtype == torch.float64 else 2e-4
    largest = expected.abs().max().item() if expected.numel() else 0.0
    assert_close(actual, expected, rtol=bound, atol=bound * max(1.0, largest))
