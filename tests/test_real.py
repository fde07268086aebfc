"""SmolLM2-135M, a real language model, with three real SAEs: what random weights can not show.

Set CIRCUITLENS_SMOLLM2 to the model's folder and CIRCUITLENS_SMOLLM2_SAES to that of its SAEs; CI does where it can.
"""

from __future__ import annotations

import json
import os
import re
import sys
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from circuitlens_toy.grammar import noun_number
from torch.testing import assert_close

import circuitlens
from circuitlens import corpus
from circuitlens.adapter import Adapter
from circuitlens.cli.app import main
from circuitlens.corpus.texts import SAMPLE
from circuitlens.discovery import search_many
from circuitlens.interchange.scores import graph_scores
from circuitlens.meaning.evidence import from_contexts, whole_word
from circuitlens.pipeline import run
from circuitlens.prompts.batch import tokenize
from circuitlens.prompts.tasks import TASKS
from circuitlens.runfolder import Shard, run_in_folder
from circuitlens.runs import run_spliced
from circuitlens.testing import uncut_gradients
from circuitlens.tracing import total_gradients, trace
from tests.interchange.graphs import check
from tests.printed import assert_alike

MODEL, SAES = (os.environ.get(name, "") for name in ("CIRCUITLENS_SMOLLM2", "CIRCUITLENS_SMOLLM2_SAES"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (MODEL and SAES and Path(MODEL).is_dir() and Path(SAES).is_dir()),
        reason="CIRCUITLENS_SMOLLM2 and CIRCUITLENS_SMOLLM2_SAES name no folders with SmolLM2-135M and its SAEs",
    ),
]
NOUNS = "cat dog boy girl king car tree book house bird horse player student teacher doctor song river star door table"
PLURAL: dict[str, Any] = {"answer": " are", "distractor": " is"}


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return circuitlens.load("transformerlens", model=MODEL, saes=SAES)


@pytest.mark.parametrize(("noun", "method"), [*zip(NOUNS.split(), cycle(["contrastive", "gradient"]), strict=False)])
def test_agreement_circuits_of_twenty_nouns(
    adapter: Adapter, noun: str, method: Literal["contrastive", "gradient"]
) -> None:
    """The model decides rightly, all of it is in the circuit, and attribution is conserved."""
    circuit = circuitlens.find(adapter, f"The {noun}s", **PLURAL, corrupted=f"The {noun}", method=method)
    metric = circuit.metric
    assert metric.corrupted_value is not None
    assert metric.corrupted_value < 0 < metric.value
    assert circuit.conservation_residual < 1e-4 * metric.value
    sites = {site.write for site in adapter.sites if site.kind == "feature"}
    assert {node.hook for node in circuit.nodes if node.kind == "error"} == sites
    assert {node.hook for node in circuit.nodes if node.kind == "feature"} == sites
    logits = [node.attribution for node in circuit.nodes if node.kind == "logit"]
    change = metric.value - (metric.corrupted_value if method == "contrastive" else 0)
    assert sum(logits) == pytest.approx(change, rel=1e-4)


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_by_rules_of_relevance_all_of_the_metric_flows_back_to_the_embedding(adapter: Adapter) -> None:
    """The model has no biases. Its early gradients are of the wrong size or sign; what the rules say is not."""
    batch = tokenize(adapter, ["The poets"], [" are"], [" is"])
    traced, plain = (trace(adapter, batch.clean, batch.metric, rules=rules) for rules in (adapter.relevance(), None))
    assert_close(traced.logits, plain.logits, rtol=1e-3, atol=1e-3)
    relevance, gradient = ((total_gradients(t)[0] * t.sites[0].leaf).sum() for t in (traced, plain))
    assert traced.sites[0].site.coder is None
    assert_close(relevance, traced.metric[0], rtol=1e-3, atol=1e-3)
    assert abs(gradient - plain.metric) > 1


def test_a_whole_cut_set_to_its_corrupted_values_gives_the_corrupted_answer(adapter: Adapter) -> None:
    circuit = circuitlens.find(adapter, "The cats", **PLURAL, corrupted="The cat", max_nodes=None)
    for site in adapter.sites[1:]:
        result = circuitlens.ablate(adapter, circuit, [node.id for node in circuit.nodes if node.hook == site.write])
        assert result.after == pytest.approx(circuit.metric.corrupted_value, abs=2e-3)


def test_splice_and_gradient_are_the_models(adapter: Adapter) -> None:
    asked = tokenize(adapter, ["The cats", "The keys to the cabinet"], [" are"] * 2, [" is"] * 2)
    plain = asked.clean.at_last(adapter.run(asked.clean, {}))
    spliced = run_spliced(adapter, asked.clean, {s.name: lambda f, error, decode: (f, error) for s in adapter.sites})
    assert_close(spliced, plain, rtol=1e-4, atol=1e-3)
    totals = total_gradients(trace(adapter, asked.clean, asked.metric))
    for total, expected in zip(totals, uncut_gradients(adapter, asked), strict=True):
        assert_close(total, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_strongest_feature_of_the_middle_speaks_for_plural_verbs(adapter: Adapter) -> None:
    """Found by attribution, named by its own decoder row, and switched off for real."""
    circuit = circuitlens.find(adapter, "The cats", " run", " runs", corrupted="The cat")
    middle = [n for n in circuit.nodes if n.hook == "blocks.15.hook_resid_pre" and n.kind == "feature"]
    strongest = max(middle, key=lambda node: abs(node.attribution))
    told = circuitlens.describe(adapter, circuit, strongest.id)
    assert {" are", " were"} <= {text for text, _ in told.promoted}
    assert told.activations[2] > 0
    assert circuitlens.ablate(adapter, circuit, [strongest.id]).measured > 3
    path = circuitlens.path_effect(adapter, circuit)
    assert path.measured == pytest.approx(path.weight, rel=0.2)
    together = circuitlens.ablate(adapter, circuit, [node.id for node in path.nodes if node.kind == "feature"])
    assert together.predicted == pytest.approx(together.measured, rel=0.2)  # the sum of three is 2.5 times as much


def test_the_features_of_the_strongest_path_stand_for_plural_nouns(adapter: Adapter, tmp_path: Path) -> None:
    """Whose contexts are plural nouns in a text where nouns, and verbs that end in s, are in both numbers."""
    sentences = (SAMPLE / "sentences.txt").read_text()[:5000]
    (tmp_path / "text.txt").write_text(sentences)
    made = corpus.build(adapter, tmp_path / "corpus", [tmp_path / "text.txt"])
    for layer, index in ((8, 2394), (15, 79), (22, 1332)):
        feature = made.feature(f"blocks.{layer}.hook_resid_pre", index)
        text, weak = from_contexts(feature) or ("", True)
        assert (text[:12], weak) == ("words in -s:", False)
        words = [whole_word(context).strip().lower() for context in feature.contexts]
        assert sum(noun_number(word) == (0, 1) for word in words) >= 9, words


def test_a_few_heads_carry_the_number_from_the_noun_to_the_next_word(adapter: Adapter) -> None:
    circuit = circuitlens.find(
        adapter, "The poets that", " run", " runs", "The poet that", "contrastive", max_nodes=100, max_edges=2000
    )
    told = circuitlens.with_heads(adapter, circuit, 10)
    edges = [edge for edge in told.edges if edge.heads]
    assert len(edges) >= 10
    for edge in edges:  # but for heads that carry next to nothing, and are left out
        assert sum(share.weight for share in edge.heads) == pytest.approx(edge.weight, rel=0.3)
    early = [edge for edge in edges if edge.target.startswith("blocks.8")]
    assert {(edge.heads[0].layer, edge.heads[0].head) for edge in early} == {(1, 2)}


def test_a_text_goes_on_as_the_model_generates_it_and_otherwise_with_a_feature_set(adapter: Adapter) -> None:
    circuit = circuitlens.find(adapter, "The cats", " run", " runs", corrupted="The cat")
    core = [node.id for node in circuit.strongest_path().nodes if node.kind == "feature"]
    told = circuitlens.continue_text(adapter, circuit, dict.fromkeys(core, "corrupted"))
    ids = adapter.inputs(["The cats"]).values
    own: Any = adapter._model.model  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        for text, _ in told.before:  # the whole prompt each time, as without a cache
            ids = torch.cat([ids, own(ids)[:, -1:].argmax(-1)], 1)
            assert text == adapter.output_label(int(ids[0, -1]))
    assert told.differs_at == 0
    assert (told.before[0][0], told.after[0][0]) == (" are", " was")


def test_wrapped_and_loaded_models_give_the_same_circuit(adapter: Adapter) -> None:
    from sae_lens import SAE, SAETransformerBridge

    model = SAETransformerBridge.boot_transformers(MODEL, device="cpu", dtype=torch.float32)
    saes = [SAE.load_from_disk(folder) for folder in sorted(Path(SAES).iterdir())]
    wrapped = circuitlens.wrap(model, saes, name=adapter.name)
    ours, theirs = (
        circuitlens.find(a, "The dog", " runs", " run", "The dogs", "contrastive") for a in (wrapped, adapter)
    )
    assert (ours.nodes, ours.edges) == (theirs.nodes, theirs.edges)


def test_one_process_and_shards_give_one_circuit(adapter: Adapter, tmp_path: Path) -> None:
    """To the last bit; `tests.benchmarks.engines` asks the same of more prompts, and of workers of Ray."""
    pairs, _ = TASKS["agreement-simple"](6, 1, 0)
    search = search_many(adapter, pairs, "contrastive", max_nodes=30, measured_edges=2, batch_size=2)
    shards, found = cycle(Shard(n, 2) for n in (1, 2)), None
    while found is None:
        found = run_in_folder(search, tmp_path, shard=next(shards))
    assert found == run(search)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "cats.json"
    words = ["--answer", " run", "--distractor", " runs", "--corrupted", "The cat", "-o", str(out)]
    monkeypatch.setattr(
        sys, "argv", ["circuitlens", "find", "transformerlens", "The cats", "--model", MODEL, "--sae", SAES, *words]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert circuitlens.open(out).conservation_residual < 1e-4
    page = (Path(__file__).parent.parent / "docs/language-models.md").read_text()
    (shown,) = re.findall(r"^(The cats\nmetric +logit ' run'.*?)\n```", page, re.DOTALL | re.MULTILINE)
    machine = re.compile(r"(residual|gaps|time) .*")
    lines = printed.strip().splitlines()[: len(shown.splitlines())]
    assert_alike(machine.sub("", shown), machine.sub("", "\n".join(lines)), rel=1e-3, abs=2e-4)


def test_the_evidence_of_one_prompt(adapter: Adapter) -> None:
    """Three features carry the contrast, and that of other nouns; with a decoder of the wrong order nothing does."""
    circuit = circuitlens.find(adapter, "The cats", " run", " runs", corrupted="The cat", max_edges=0)
    assert circuit.method == "path"
    evidence = circuitlens.verify(adapter, circuit, top=40, draws=5, prompts=8).evidence
    assert evidence is not None
    assert evidence.verdict == "supported", evidence.reasons
    assert len(evidence.core) <= 5
    random = evidence.curves[0].points[0].random
    assert random is not None
    assert random.high < 0.5
    # The embedding's way is the longest, and eight steps on it are few: the file says by how much.
    for name, gap in circuit.completeness_gaps.items():
        share = 0.05 if name.startswith("blocks.") else 0.5
        assert abs(gap) < share * (circuit.metric.value - (circuit.metric.corrupted_value or 0)), name


def test_prompts_that_do_not_differ_in_number_have_no_circuit(adapter: Adapter) -> None:
    circuit = circuitlens.find(adapter, "The cats", " run", " runs", corrupted="The dogs", max_edges=0)
    evidence = circuitlens.verify(adapter, circuit, top=5, draws=2, prompts=4).evidence
    assert evidence is not None
    assert evidence.verdict == "not supported"
    assert any("with the corrupted prompts" in reason for reason in evidence.reasons)


def test_a_circuit_comes_back_from_an_attribution_graph(adapter: Adapter, tmp_path: Path) -> None:
    """Whole, its layers numbered as the model's, and the model does what the circuit predicts."""
    circuit = circuitlens.find(adapter, "The cats", **PLURAL, corrupted="The cat")
    circuitlens.write_graph(circuit, tmp_path / "cats.json")
    graph = json.loads((tmp_path / "cats.json").read_text())
    check(graph)
    layers = {node["layer"] for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"}
    assert layers == {"8", "15", "22"}
    back = circuitlens.read_graph(tmp_path / "cats.json")
    assert back.model_copy(update={"imported": ""}) == circuit
    feature = max((n for n in circuit.nodes if n.kind == "feature"), key=lambda node: abs(node.attribution)).id
    assert circuitlens.ablate(adapter, back, [feature]) == circuitlens.ablate(adapter, circuit, [feature])
    scores = graph_scores(circuit)
    assert scores is not None
    assert 0 < scores.replacement < 1
    circuitlens.write_graph(back, tmp_path / "cats.json")
    assert json.loads((tmp_path / "cats.json").read_text()) == graph
