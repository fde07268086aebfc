"""A text goes on as the model's own generation does; with nodes set, each step is a run that can be done by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Node
from circuitlens.errors import AdapterError, CircuitError, PromptError
from circuitlens.evaluation.continuation import Continuation, continue_text
from circuitlens.evaluation.intervention import intervene
from tests.circuits import PAIRS, inner
from tests.saelens import made, model
from tests.tiny_transformer import Layout, TinyTransformer

LAYOUTS: tuple[Layout, ...] = ("residual", "components", "normalised")


def texts(tokens: tuple[tuple[str, float], ...]) -> list[str]:
    return [text for text, _ in tokens]


def strongest(circuit: Circuit, pos: int) -> Node:
    """Of one position, so that by hand nothing else is set."""
    features = [n for n in inner(circuit) if n.kind == "feature" and n.pos == pos and n.activation]
    return max(features, key=lambda node: abs(node.attribution))


def test_with_nothing_set_it_is_the_models_own_generation() -> None:
    """The unembedding is moved by some tokens, since with the embedding's own the model says one token for ever."""
    own = copy.deepcopy(model(bridge=False))
    own.unembed.W_U.data = own.unembed.W_U.data.roll(7, 1)
    adapter = circuitlens.wrap(own, [made("standard", 1), made("topk", 2)])
    circuit = circuitlens.find(adapter, "The cats", " run", " runs", "The cat", max_edges=0)
    told = continue_text(adapter, circuit)
    assert told.before == told.after
    assert told.differs_at is None
    ids = adapter.inputs(["The cats"]).values
    generated = own.generate(ids, max_new_tokens=20, do_sample=False, stop_at_eos=True, verbose=False)
    assert texts(told.before) == [adapter.output_label(index) for index in generated[0, ids.shape[1] :].tolist()]
    assert len(set(texts(told.before))) > 10


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("setting", [0, 3, "corrupted"])
def test_the_first_token_is_what_intervene_says(layout: Layout, setting: Any) -> None:
    adapter = TinyTransformer(layout)
    circuit = circuitlens.find(adapter, "a b c", "d", "e", "a b f")
    nodes = {node.id: setting for node in inner(circuit)[::3]}
    told, outcome = continue_text(adapter, circuit, nodes, 1), intervene(adapter, circuit, nodes)
    before, after = ({o.label: getattr(o, when) for o in outcome.outputs} for when in ("before", "after"))
    for (token,), shares in ((told.before, before), (told.after, after)):
        assert token[0] == max(shares, key=lambda label: shares[label])
        assert token[1] == pytest.approx(shares[token[0]], abs=1e-12)
    assert told.nodes == outcome.nodes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_each_step_the_prompts_node_is_set_and_no_later_one(layout: Layout) -> None:
    """By hand: the stream at the prompt's position moved by the feature's own part, in runs of ever longer texts."""
    adapter = TinyTransformer(layout)
    circuit = circuitlens.find(adapter, "a b c", "d")
    node = strongest(circuit, 1)
    (site,) = [site for site in adapter.sites if site.write == node.hook]
    assert site.coder is not None
    assert node.index is not None
    streams: dict[str, Tensor] = {}
    adapter.run(adapter.inputs(["a b c"]), {name: lambda x, n=name: streams.update({n: x}) for name in (site.read,)})
    active = site.coder.encode(streams[site.read])
    whole = site.coder.decode(active)
    less = active.clone()
    less[0, 1, node.index] *= -40
    site.coder.encode(streams[site.read])  # a stateful one decodes after it encodes
    moved = site.coder.decode(less) - whole

    def move(x: Tensor) -> Tensor:
        return torch.cat([x[:, :3] + moved, x[:, 3:]], 1)

    def by_hand(text: str, hooks: dict[str, Any], count: int) -> list[str]:
        found = []
        for _ in range(count):
            found.append(adapter.output_label(int(adapter.run(adapter.inputs([text]), hooks)[0, -1].argmax())))
            text = f"{text} {found[-1]}"
        return found

    told = continue_text(adapter, circuit, {node.id: -40}, 10)
    assert texts(told.before) == by_hand("a b c", {}, 10)
    assert texts(told.after) == by_hand("a b c", {site.write: move}, 10)
    assert told.nodes == (node,)
    assert told.differs_at is not None


def test_where_two_texts_part_is_told() -> None:
    adapter = TinyTransformer()
    circuit = circuitlens.find(adapter, "a b c", "d")
    told = continue_text(adapter, circuit, {node.id: -3 for node in inner(circuit)}, 8)
    at = told.differs_at
    assert at is not None
    assert texts(told.before)[:at] == texts(told.after)[:at]
    assert texts(told.before)[at] != texts(told.after)[at]
    same = (("a", 0.5), ("b", 0.5))
    assert Continuation("", (), same, (("a", 0.1), ("b", 0.9))).differs_at is None


def test_a_text_ends_with_eos_and_where_the_model_reads_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = TinyTransformer()
    circuit = circuitlens.find(adapter, "a b c", "d")
    told = continue_text(adapter, circuit, tokens=40)
    assert len(told.before) == 16 - 3 + 1  # the last one is not read
    index = adapter.answer_index(told.before[2][0], "")
    monkeypatch.setattr(TinyTransformer, "ends", (index,))
    first = texts(told.before).index(told.before[2][0])
    assert continue_text(adapter, circuit, tokens=40).before == told.before[: first + 1]


def test_the_first_of_many_prompts_is_continued() -> None:
    adapter = TinyTransformer()
    circuit = circuitlens.aggregate(adapter, PAIRS[:3])
    settings = {node.id: 3 for node in inner(circuit)}
    told = continue_text(adapter, circuit, settings, 4)
    prompt = PAIRS[0].prompt
    alone = circuitlens.find(adapter, prompt, "d", max_nodes=None)
    assert told.prompt == prompt
    assert told.before == continue_text(adapter, alone, tokens=4).before
    set_alone = {node.id: 3 for node in alone.nodes if node.id in settings}
    assert texts(told.after) == texts(continue_text(adapter, alone, set_alone, 4).after)


def test_a_model_of_one_output_says_so(toy: Adapter, cats: Circuit) -> None:
    with pytest.raises(AdapterError, match="The model of 'toy' does not continue the text 'The cats': it answers with"):
        continue_text(toy, cats, {"sae:0:4": 0})


def test_what_can_not_be_continued_is_refused() -> None:
    adapter = TinyTransformer()
    circuit = circuitlens.find(adapter, "a b c", "d")
    node = strongest(circuit, 2)
    with pytest.raises(CircuitError, match="tokens is 0: give a count of 1 or more"):
        continue_text(adapter, circuit, tokens=0)
    with pytest.raises(CircuitError, match="no node 'x'"):
        continue_text(adapter, circuit, {"x": 0})
    with pytest.raises(PromptError, match="the circuit has no corrupted prompt"):
        continue_text(adapter, circuit, {node.id: "corrupted"})
    with pytest.raises(CircuitError, match="outputs are not finite: set fewer of them"):
        continue_text(adapter, circuit, {node.id: 1e308})


def test_it_is_told_of_and_ended_between_tokens() -> None:
    adapter = TinyTransformer()
    circuit = circuitlens.find(adapter, "a b c", "d")
    told: list[tuple[int, int]] = []

    def tell(_stage: str, done: int, total: int) -> None:
        told.append((done, total))
        if done == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        continue_text(adapter, circuit, {strongest(circuit, 2).id: 0}, 4, tell)
    assert told[0] == (0, 8)
    assert told[-1] == (5, 8)
