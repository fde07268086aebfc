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
from torch.nn.functional import layer_norm

import circuitlens
from circuitlens.adapter import Adapter, Hook, Inputs
from circuitlens.attribution.gradient import VECTOR
from circuitlens.circuit import Circuit, Node
from circuitlens.discovery import node
from circuitlens.errors import CircuitError, PromptError
from circuitlens.evaluation import faithfulness as evaluation
from circuitlens.evaluation.faithfulness import (
    INPUTS,
    AblationRuns,
    areas,
    circuit_prompts,
    curve,
    interval,
    node_counts,
    sub_circuits,
)
from circuitlens.literals import AblationKind, MethodName
from circuitlens.prompts.alignment import PromptSet, align
from circuitlens.prompts.pairs import Pair
from tests.helpers import close
from tests.tiny_transformer import Layout, TinyTransformer

ABLATIONS = get_args(AblationKind)


def found(adapter: Adapter, ablation: AblationKind = "corrupted") -> tuple[Circuit, list[Node]]:
    """The circuit of an adapter's first example with every node that the ablation changes, and those nodes."""
    example = adapter.examples[0]
    method: MethodName = "gradient" if ablation == "zero" else "contrastive"
    circuit = circuitlens.find(
        adapter,
        example.prompt,
        example.answer,
        example.distractor,
        example.corrupted,
        method,
        max_nodes=None,
        max_edges=0,
    )
    kinds = {site.write: site.kind for site in adapter.sites}
    return circuit, [n for n in circuit.nodes if n.kind != "logit" and kinds[n.hook] not in INPUTS]


def everything(adapter: Adapter, positions: int) -> list[Node]:
    """All features, active or not, and errors of all sites but inputs."""
    return [
        node(adapter, s, pos, index, 0.0, 0.0)
        for s, site in enumerate(adapter.sites)
        if site.kind not in INPUTS and site.coder is not None
        for pos in range(positions)
        for index in [VECTOR, *range(site.coder.d_sae)]
    ]


def half(nodes: list[Node], seed: int = 0) -> Tensor:
    """A random half of the nodes, as one row."""
    return torch.rand(1, len(nodes), generator=torch.Generator().manual_seed(seed)) < 0.5


# Laws, in every layout


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_all_nodes_are_the_model_and_none_are_nothing(model: Adapter, ablation: AblationKind) -> None:
    circuit, nodes = found(model, ablation)
    runs = AblationRuns(model, circuit, circuit_prompts(model, circuit), ablation, nodes)
    every, none = torch.ones(1, len(nodes), dtype=torch.bool), torch.zeros(1, len(nodes), dtype=torch.bool)
    assert runs.whole.mean().item() == pytest.approx(circuit.metric.value, rel=1e-5)
    for others in (False, True):
        close(runs(every, others)[0], runs.whole)
    assert runs.faithfulness(runs(every, False)) == pytest.approx([1], abs=1e-5)
    assert runs.faithfulness(runs(none, False)) == [0]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_completeness_is_the_faithfulness_of_the_complement(model: Adapter, ablation: AblationKind) -> None:
    """Three ways to the same number, and the caller's mask stays as it was."""
    if ablation == "mean" and model.bos:
        pytest.skip("each layout of SAE-Lens is tried with the two others")
    circuit, _ = found(model, ablation)
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
    circuit, nodes = found(model)
    runs = AblationRuns(model, circuit, circuit_prompts(model, circuit), "corrupted", nodes)
    assert circuit.metric.corrupted_value is not None
    assert runs.none.mean().item() == pytest.approx(circuit.metric.corrupted_value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["residual", "attn + mlp + resid", "heads", "layer norm", "transcoders"])
def test_zero_ablation_leaves_the_token_before_the_prompt_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.saelens import wrapped

    adapter = wrapped(name)
    assert adapter.bos
    circuit, nodes = found(adapter, "zero")
    runs = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), "zero", nodes)
    seen: dict[str, Tensor] = {}
    run = adapter.run

    def watched(inputs: Inputs, hooks: Mapping[str, Hook]) -> Tensor:
        def watch(name: str, hook: Hook) -> Hook:
            def at(x: Tensor) -> Tensor | None:
                y = hook(x)
                seen[name] = (x if y is None else y).detach().clone()
                return y

            return at

        return run(inputs, {name: watch(name, hook) for name, hook in hooks.items()})

    monkeypatch.setattr(adapter, "run", watched)
    _ = runs.none
    ablated = dict(seen)
    run(adapter.inputs([circuit.prompt]), {site.write: clean(seen, site.write) for site in adapter.sites})
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
    circuit, nodes = found(adapter, "zero")
    none = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), "zero", nodes).none
    coder: Any = adapter.sites[-1].coder
    # A coder with a layer norm writes its bias in units of the activation, so only the others are as simple.
    if layout != "normalised":
        assert none.item() == pytest.approx(by_hand(adapter, coder.decoder_bias), rel=1e-9)


def by_hand(adapter: TinyTransformer, stream: Tensor) -> float:
    """The logit difference of the first example at a last residual stream."""
    logits = layer_norm(stream, stream.shape) @ adapter.head
    example = adapter.examples[0]
    ours, theirs = (adapter.answer_index(text, example.prompt) for text in (example.answer, example.distractor))
    return (logits[ours] - logits[theirs]).item()


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
    expected = by_hand(adapter, streams[0][:, -1].mean(0))
    runs = AblationRuns(adapter, circuit, align(adapter, pairs), "mean", [])
    assert runs.none.tolist() == pytest.approx([expected] * 5, rel=1e-9)
    some = AblationRuns(adapter, circuit, align(adapter, pairs[:2]), "mean", [], reference=align(adapter, pairs))
    assert some.none.tolist() == pytest.approx([expected] * 2, rel=1e-9)


def test_a_prompt_without_another_one_is_its_own_mean(toy64: Adapter) -> None:
    circuit = circuitlens.find(toy64, "The cats", "run", "runs")
    runs = AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "mean", [])
    close(runs.none, runs.whole)
    with pytest.raises(PromptError, match="nothing to explain"):
        runs.faithfulness(runs.none[None])


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


def inner(circuit: Circuit) -> list[Node]:
    return [n for n in circuit.nodes if n.kind not in ("logit", "embedding", "input")]


@settings(max_examples=6)
@given(data=st.data())
def test_batches_orders_and_padding_change_nothing(data: st.DataObject) -> None:
    adapter, pairs, circuit = MANY
    nodes = inner(circuit)
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
        patch.setattr(evaluation, "ELEMENTS", data.draw(st.sampled_from([1, 1000, 2**24])))
        mixed = align(padded, [pairs[n] for n in order], "sum", circuit.tokens)
        runs = AblationRuns(
            padded, circuit, mixed, ablation, nodes, reference=align(padded, pairs, "sum", circuit.tokens)
        )
        torch.testing.assert_close(runs(keep, others), expected[:, list(order)], rtol=1e-9, atol=1e-9)
        one = data.draw(st.integers(0, len(pairs) - 1))
        alone = AblationRuns(
            padded,
            circuit,
            align(padded, pairs[one : one + 1], "sum", circuit.tokens),
            ablation,
            nodes,
            reference=mixed,
        )
        for row, wanted in zip(keep, expected[:, one], strict=True):
            assert alone(row[None], others).item() == pytest.approx(wanted.item(), rel=1e-9, abs=1e-9)


MANY = many()


@pytest.mark.parametrize("name", ["attn + mlp + resid", "layer norm"])
def test_variants_one_by_one_are_those_of_a_batch_on_sae_lens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.saelens import wrapped

    adapter = wrapped(name)
    for ablation in ABLATIONS:
        circuit, nodes = found(adapter, ablation)
        runs = AblationRuns(adapter, circuit, circuit_prompts(adapter, circuit), ablation, nodes)
        keep = torch.cat([half(nodes, seed) for seed in range(3)])
        together = runs(keep, False)
        for row, value in zip(keep, together, strict=True):
            close(runs(row[None], False)[0], value)


def test_what_is_run_is_told(toy64: Adapter) -> None:
    circuit, nodes = found(toy64)
    told: list[int] = []
    AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", nodes)(
        half(nodes).repeat(7, 1), False, told.append
    )
    assert sum(told) == 7


# Curves


def test_a_curve_says_what_its_runs_do(toy64: Adapter) -> None:
    circuit, nodes = found(toy64)
    ranked = sorted(nodes, key=lambda n: -abs(n.attribution))
    runs = AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", nodes)
    counts = [2, 5, len(ranked)]
    controls = {5: torch.cat([half(nodes, seed) for seed in range(9)])}
    drawn = controls[5].clone()
    made = curve(runs, ranked, counts, "found on", controls)
    assert torch.equal(controls[5], drawn)
    assert (made.prompts, made.pairs, made.ablation) == ("found on", 1, "corrupted")
    assert made.whole == pytest.approx(circuit.metric.value)
    assert made.none == pytest.approx(circuit.metric.corrupted_value)
    keep, without = sub_circuits(runs, ranked, counts)
    for number, point in enumerate(made.points):
        chosen = {node.id for node in ranked[: point.nodes]}
        assert {n.id for n, k in zip(nodes, keep[number].tolist(), strict=True) if k} == chosen
        removed = {n.id for n, k in zip(nodes, without[number].tolist(), strict=True) if k}
        assert removed == {n.id for n in ranked[: point.nodes] if n.kind != "error"}
        for value, variant, others in (
            (point.faithfulness, keep, False),
            (point.errors_removed, without, False),
            (point.completeness, ~keep, True),
        ):
            assert [value] == pytest.approx(runs.faithfulness(runs(variant[number : number + 1], others)))
    assert made.points[-1].faithfulness == pytest.approx(1)
    assert made.points[-1].completeness == pytest.approx(0)
    assert [point.random is None for point in made.points] == [True, False, True]
    assert made.points[1].random == interval(runs.faithfulness(runs(controls[5], False)))
    assert made.cpr == pytest.approx(areas([0, *counts], [0.0, *(p.faithfulness for p in made.points)])[0])


def test_areas_by_hand() -> None:
    # Over shares 0, 1/3 and 1: 1/3 · 1/4 + 2/3 · 1, and 1/3 · 3/4 + 2/3 · 1/2.
    assert areas([0, 1, 3], [0.0, 0.5, 1.5]) == pytest.approx((3 / 4, 7 / 12))
    assert areas([0, 10], [0.0, 1.0]) == pytest.approx((0.5, 0.5))
    assert areas([0, 1, 1000], [0.0, 1.0, 1.0]) == pytest.approx((1 - 1 / 2000, 1 / 2000))


@given(st.lists(st.floats(-3, 1), min_size=1, max_size=6))
def test_areas_add_up_where_nothing_overshoots(values: list[float]) -> None:
    cpr, cmd = areas([0, *node_counts(1000)[: len(values)]], [0.0, *values])
    assert cpr + cmd == pytest.approx(1)


def test_node_counts() -> None:
    assert node_counts(1) == [1]
    assert node_counts(4) == [1, 2, 3, 4]
    assert node_counts(10) == [1, 2, 3, 5, 10]
    assert node_counts(230) == [1, 2, 3, 5, 10, 20, 50, 100, 200, 230]


@given(st.integers(1, 10**7))
def test_node_counts_rise_to_all(most: int) -> None:
    counts = node_counts(most)
    assert counts == sorted(set(counts))
    assert counts[0] >= 1
    assert counts[-1] == most


def test_an_interval_by_hand() -> None:
    drawn = interval([float(n) for n in range(101)])
    assert (drawn.mean, drawn.low, drawn.high) == pytest.approx((50, 2.5, 97.5))
    assert interval([0.25]) == interval([0.25, 0.25, 0.25])


# What can't be measured


def test_prompts_that_do_not_differ_are_refused_with_the_figures(toy64: Adapter) -> None:
    circuit = circuitlens.find(toy64, "The cats", "run", "runs", "The dogs", "contrastive")
    runs = AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", inner(circuit))
    value = f"{circuit.metric.value:+.4f}".replace("+", r"\+")
    with pytest.raises(PromptError, match=f"is {value} with every node and {value} with none: there is nothing to"):
        runs.faithfulness(runs.none[None])


def test_ablation_to_the_corrupted_run_needs_one(toy64: Adapter) -> None:
    circuit = circuitlens.find(toy64, "The cats", "run", "runs")
    with pytest.raises(PromptError, match="needs corrupted prompts: give them, or use mean or zero"):
        AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", inner(circuit))


@pytest.mark.parametrize("change", [{"index": 8}, {"index": -1}, {"index": -5}, {"pos": 1}, {"hook": "nowhere"}])
def test_a_node_of_no_site_is_refused(toy64: Adapter, change: dict[str, Any]) -> None:
    circuit, nodes = found(toy64)
    wrong = next(n for n in nodes if n.kind == "feature").model_copy(update=change)
    with pytest.raises(CircuitError, match="is no part of a site of 'toy'"):
        AblationRuns(toy64, circuit, circuit_prompts(toy64, circuit), "corrupted", [wrong])


def test_prompts_are_read_as_the_circuit_reads_them(toy64: Adapter) -> None:
    circuit, _ = found(toy64)
    other = circuit.model_copy(update={"tokens": ("The", "cats")})
    with pytest.raises(CircuitError, match="has the tokens"):
        circuit_prompts(toy64, other)
    assert isinstance(circuit_prompts(toy64, circuit), PromptSet)
