"""What sub-circuits really do: the laws of faithfulness, baselines by hand, and no trace of how runs were batched."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter, Hook, Inputs
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import CircuitError, PromptError
from circuitlens.evaluation import faithfulness as evaluation
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.faithfulness import INPUTS, AblationRuns
from circuitlens.literals import AblationKind
from circuitlens.prompts.alignment import PromptSet, align
from circuitlens.prompts.pairs import Pair
from tests.circuits import ablatable_circuit, everything, half
from tests.helpers import close
from tests.oracles import logit_difference_at
from tests.tiny_transformer import Layout, TinyTransformer

ABLATIONS = get_args(AblationKind)


# Whole and nothing, complement, complete cuts (docs/laws.md), in every layout


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_all_nodes_are_the_model_and_none_are_nothing(model: Adapter, ablation: AblationKind) -> None:
    circuit, nodes = ablatable_circuit(model, ablation)
    runs = AblationRuns(model, circuit, circuit_prompts(model, circuit), ablation, nodes)
    every, none = torch.ones(1, len(nodes), dtype=torch.bool), torch.zeros(1, len(nodes), dtype=torch.bool)
    assert runs.full_model.mean().item() == pytest.approx(circuit.metric.value, rel=1e-5)
    for others in (False, True):
        close(runs(every, others)[0], runs.full_model)
    assert runs.faithfulness(runs(every, False)) == pytest.approx([1], abs=1e-5)
    assert runs.faithfulness(runs(none, False)) == [0]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_completeness_is_the_faithfulness_of_the_complement(model: Adapter, ablation: AblationKind) -> None:
    """Three ways to the same number, and the caller's mask stays as it was."""
    if ablation == "mean" and model.bos:
        pytest.skip("each layout of SAE-Lens is tried with the two others")
    circuit, _ = ablatable_circuit(model, ablation)
    # What the other nodes make of a changed stream counts as theirs, so all that could be active are named.
    nodes = everything(model, len(circuit.tokens))
    aligned = circuit_prompts(model, circuit)
    runs = AblationRuns(model, circuit, aligned, ablation, nodes)
    keep = half(nodes)
    before = keep.clone()
    left = runs(~keep, True)
    assert torch.equal(keep, before)
    inside = [node for node, kept in zip(nodes, keep[0].tolist(), strict=True) if kept]
    outside = [node for node, kept in zip(nodes, keep[0].tolist(), strict=True) if not kept]
    without = AblationRuns(model, circuit, aligned, ablation, inside)
    close(without(torch.zeros(1, len(inside), dtype=torch.bool), True), left)
    complement = AblationRuns(model, circuit, aligned, ablation, outside)
    close(complement(torch.ones(1, len(outside), dtype=torch.bool), False), left)
    (completeness,) = runs.faithfulness(left)
    assert complement.faithfulness(left) == pytest.approx([completeness], rel=1e-5)


def test_a_complete_cut_in_the_corrupted_run_is_the_corrupted_run(model: Adapter) -> None:
    names = {site.name for site in model.sites} | {site.write for site in model.sites}
    if not any("resid" in name or name == "sae" for name in names):
        pytest.skip("heads and transcoders alone leave a way around them")
    circuit, nodes = ablatable_circuit(model)
    runs = AblationRuns(model, circuit, circuit_prompts(model, circuit), "corrupted", nodes)
    assert circuit.metric.corrupted_value is not None
    assert runs.empty_circuit.mean().item() == pytest.approx(circuit.metric.corrupted_value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["residual", "attn + mlp + resid", "heads", "layer norm", "transcoders"])
def test_zero_ablation_leaves_the_token_before_the_prompt_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.saelens import wrapped

    adapter = wrapped(name)
    assert adapter.bos
    circuit, nodes = ablatable_circuit(adapter, "zero")
    runs = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), "zero", nodes)
    seen: dict[str, Tensor] = {}
    last_logits = adapter.last_logits

    def watched(inputs: Inputs, hooks: Mapping[str, Hook], start: Any = None) -> Tensor:
        def watch(name: str, hook: Hook) -> Hook:
            def at(x: Tensor) -> Tensor | None:
                y = hook(x)
                seen[name] = (x if y is None else y).detach().clone()
                return y

            return at

        return last_logits(inputs, {name: watch(name, hook) for name, hook in hooks.items()}, start)

    monkeypatch.setattr(adapter, "last_logits", watched)
    _ = runs.empty_circuit
    ablated = dict(seen)
    adapter.run(adapter.inputs([circuit.prompt]), {site.write: clean(seen, site.write) for site in adapter.sites})
    for site in adapter.sites:
        if site.kind in INPUTS:
            continue
        close(ablated[site.write][0, 0], seen[site.write][0, 0])
        assert (ablated[site.write][0, 1:] - seen[site.write][0, 1:]).abs().max() > 1e-3


def clean(store: dict[str, Tensor], name: str) -> Hook:
    return lambda x: store.__setitem__(name, x.detach().clone())


@pytest.mark.parametrize("layout", get_args(Layout))
def test_zero_ablation_leaves_no_position_alone_where_no_token_is_added(layout: Layout) -> None:
    """All sites at zero: the last residual stream is the decoder's bias, whatever the prompt."""
    adapter = TinyTransformer(layout)
    circuit, nodes = ablatable_circuit(adapter, "zero")
    none = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), "zero", nodes).empty_circuit
    coder: Any = adapter.sites[-1].coder
    # A coder with a layer norm writes its bias in units of the activation, so only the others are as simple.
    if layout != "normalised":
        assert none.item() == pytest.approx(logit_difference_at(adapter, coder.decoder_bias), rel=1e-9)


# Baselines by hand


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("prompt", ["The cats", "The cat"])
def test_all_sixteen_hidden_subsets_by_hand(toy64: Any, ablation: AblationKind, prompt: str) -> None:
    """The toy with its weights: every subset of H1…H4, with all of the SAE kept and with its features alone."""
    answer, other = (1, "The cat") if prompt == "The cats" else (0, "The cats")
    circuit = circuitlens.find(
        toy64, prompt, ["runs", "run"][answer], ["run", "runs"][answer], other, "contrastive", max_nodes=None
    )
    hidden = [n for n in circuit.nodes if n.kind == "neuron"]
    assert [n.index for n in hidden] == [0, 1, 2, 3]
    model, sae = toy64.model, toy64.sae
    h, h_other = (model.relu(model.hidden(toy64.inputs([text]).values)) for text in (prompt, other))
    base = {"corrupted": h_other, "mean": (h + h_other) / 2, "zero": torch.zeros_like(h)}[ablation]
    f, f_other = sae.encode(h), sae.encode(h_other)
    f_base = {"corrupted": f_other, "mean": (f + f_other) / 2, "zero": torch.zeros_like(f)}[ablation]
    error_base = torch.zeros_like(h) if ablation == "zero" else base - sae.decode(f_base)

    def difference(x: Tensor) -> float:
        logits = model.output(x)[0, 0]
        return (logits[answer] - logits[1 - answer]).item()

    subsets = torch.tensor(list(product([False, True], repeat=4)))
    aligned = circuit_prompts(toy64, circuit)
    streams = [torch.where(subset, h, base) for subset in subsets]
    measured = AblationRuns(toy64, circuit, aligned, ablation, hidden)(subsets, others=True)[:, 0]
    assert measured.tolist() == pytest.approx([difference(x) for x in streams], abs=1e-9)

    # All eight features, active or not, and none of the error: features are read from the stream as it is then.
    features = [n for n in everything(toy64, 1) if n.kind == "feature"]
    keep = torch.cat([subsets, torch.ones(16, 8, dtype=torch.bool)], 1)
    measured = AblationRuns(toy64, circuit, aligned, ablation, [*hidden, *features])(keep, others=False)[:, 0]
    expected = [difference(sae.decode(sae.encode(x)) + error_base) for x in streams]
    assert measured.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_mean_is_that_of_all_prompts_clean_and_corrupted_position_by_position() -> None:
    """All ablated, the last stream of every prompt is the mean one."""
    adapter = TinyTransformer("residual")
    pairs = [Pair(prompt=f"a {w} c", corrupted=f"a {w} f", answer=("d",), distractor=("e",)) for w in "bcdeg"]
    circuit = circuitlens.aggregate(adapter, pairs, "contrastive", max_edges=0)
    streams: list[Tensor] = []
    adapter.run(adapter.inputs([t for p in pairs for t in (p.prompt, p.corrupted or "")]), {"2.resid": streams.append})
    expected = logit_difference_at(adapter, streams[0][:, -1].mean(0))
    runs = AblationRuns(adapter, circuit, align(adapter, pairs), "mean", [])
    assert runs.empty_circuit.tolist() == pytest.approx([expected] * 5, rel=1e-9)


def test_a_prompt_without_another_one_is_its_own_mean(toy64: Adapter) -> None:
    circuit = circuitlens.find(toy64, "The cats", "run", "runs")
    runs = AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "mean", [])
    close(runs.empty_circuit, runs.full_model)
    with pytest.raises(PromptError, match="nothing to explain"):
        runs.faithfulness(runs.empty_circuit[None])


# Batches, orders and padding leave no trace

WORDS = "abcdefg"
TRIPLES = [" ".join(words) for words in permutations(WORDS, 3)]


def many(layout: Layout = "components") -> tuple[TinyTransformer, list[Pair], Circuit]:
    """Prompts of three to five words, of which all positions count together."""
    adapter = TinyTransformer(layout)
    pairs = [
        Pair(
            prompt=f"{TRIPLES[n]}{tail}",
            corrupted=f"{TRIPLES[n + 1]}{tail}",
            answer=(WORDS[n % 7],),
            distractor=(WORDS[(n + 3) % 7],),
        )
        for n, tail in zip(range(0, 60, 9), ["", " a", " b c", "", " d", " a", " g g"], strict=True)
    ]
    return adapter, pairs, circuitlens.aggregate(adapter, pairs, "contrastive", by="sum", max_nodes=40, max_edges=0)


def ablatable(circuit: Circuit) -> list[Node]:
    return [n for n in circuit.nodes if n.kind not in ("logit", "embedding", "input")]


@settings(max_examples=6)
@given(data=st.data())
def test_batches_orders_and_padding_change_nothing(data: st.DataObject) -> None:
    adapter, pairs, circuit = MANY
    nodes = ablatable(circuit)
    ablation: AblationKind = data.draw(st.sampled_from(ABLATIONS))
    others = data.draw(st.booleans())
    keep = torch.cat([half(nodes, seed) for seed in data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=3))])
    everything = align(adapter, pairs, "sum")
    expected = AblationRuns(adapter, circuit, everything, ablation, nodes)(keep, others)

    order = data.draw(st.permutations(range(len(pairs))))
    padded = TinyTransformer(
        "components", padding=data.draw(st.sampled_from(["left", "right"])), width=data.draw(st.integers(0, 9))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "BATCH", data.draw(st.sampled_from([1, 3, 8])))
        patch.setattr("circuitlens.edits.ELEMENTS", data.draw(st.sampled_from([1, 1000, 2**24])))
        mixed = align(padded, [pairs[n] for n in order], "sum", circuit.tokens)
        runs = AblationRuns(padded, circuit, mixed, ablation, nodes)
        torch.testing.assert_close(runs(keep, others), expected[:, list(order)], rtol=1e-9, atol=1e-9)
        if ablation == "mean":
            return  # alone a prompt would be its own mean
        one = data.draw(st.integers(0, len(pairs) - 1))
        alone = AblationRuns(
            padded, circuit, align(padded, pairs[one : one + 1], "sum", circuit.tokens), ablation, nodes
        )
        for row, wanted in zip(keep, expected[:, one], strict=True):
            assert alone(row[None], others).item() == pytest.approx(wanted.item(), rel=1e-9, abs=1e-9)


MANY = many()


@pytest.mark.parametrize("name", ["attn + mlp + resid", "layer norm"])
def test_variants_one_by_one_are_those_of_a_batch_on_sae_lens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.saelens import wrapped

    adapter = wrapped(name)
    for ablation in ABLATIONS:
        circuit, nodes = ablatable_circuit(adapter, ablation)
        runs = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), ablation, nodes)
        keep = torch.cat([half(nodes, seed) for seed in range(3)])
        together = runs(keep, False)
        for row, value in zip(keep, together, strict=True):
            close(runs(row[None], False)[0], value)


def test_each_run_is_told(toy64: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    circuit, nodes = ablatable_circuit(toy64)
    told: list[str] = []
    monkeypatch.setattr("circuitlens.edits.ELEMENTS", 8 * 3)  # three variants of one position and eight features
    prompts = circuit_prompts(toy64, circuit)
    runs = AblationRuns(toy64, circuit, prompts, "corrupted", nodes, on_run=lambda: told.append("run"))
    each = torch.eye(len(nodes), dtype=torch.bool)[:7]
    alone = runs(each, False)
    assert len(told) == 3
    assert torch.equal(runs(each.flip(0), False), alone.flip(0))
    assert len(told) == 3, "what was run is not run again"
    runs(each[:1], True)
    assert len(told) == 4


# What can't be measured


def test_prompts_that_do_not_differ_are_refused_with_the_figures(toy64: Adapter) -> None:
    circuit = circuitlens.find(toy64, "The cats", "run", "runs", "The dogs", "contrastive")
    runs = AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", ablatable(circuit))
    value = f"{circuit.metric.value:+.4f}".replace("+", r"\+")
    with pytest.raises(PromptError, match=f"is {value} with every node and {value} with none: there is nothing to"):
        runs.faithfulness(runs.empty_circuit[None])


def test_ablation_to_the_corrupted_run_needs_one(toy64: Adapter) -> None:
    circuit = circuitlens.find(toy64, "The cats", "run", "runs")
    with pytest.raises(PromptError, match="needs corrupted prompts: give them, or use mean or zero"):
        AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", ablatable(circuit))


@pytest.mark.parametrize("change", [{"index": 8}, {"index": -1}, {"index": -5}, {"pos": 1}, {"hook": "nowhere"}])
def test_a_node_of_no_site_is_refused(toy64: Adapter, change: dict[str, Any]) -> None:
    circuit, nodes = ablatable_circuit(toy64)
    wrong = next(n for n in nodes if n.kind == "feature").model_copy(update=change)
    with pytest.raises(CircuitError, match="is no part of a site of 'toy'"):
        AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", [wrong])


def test_prompts_are_read_as_the_circuit_reads_them(toy64: Adapter) -> None:
    circuit, _ = ablatable_circuit(toy64)
    other = circuit.model_copy(update={"tokens": ("The", "cats")})
    with pytest.raises(CircuitError, match="has the tokens"):
        circuit_prompts(toy64, other)
    assert isinstance(circuit_prompts(toy64, circuit), PromptSet)
