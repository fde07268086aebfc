"""The SAE-Lens plugin: every architecture and layout, both kinds of model, and nothing of the user's changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from circuitlens_saelens import SAELensAdapter
from circuitlens_saelens.coder import KNOWN, SAECoder
from sae_lens.saes.temporal_sae import TemporalSAE
from torch import Tensor
from torch.testing import assert_close

import circuitlens
from circuitlens.adapter import Adapter, SparseCoder
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import directions, score_nodes
from circuitlens.circuit import Circuit
from circuitlens.errors import AdapterError, CircuitError, PromptError
from circuitlens.evaluation.intervention import ablate
from circuitlens.prompts.batch import tokenize
from circuitlens.runs import run_spliced
from circuitlens.testing import CONTRACT, example_batch
from circuitlens.tracing import trace
from tests.models import SAE_LENS_LAYOUTS
from tests.oracles import moved
from tests.saelens import ARCHITECTURES, LAYERS, D, by_hook, made, model, wrapped

ASK: dict[str, Any] = {"prompt": "The cats", "answer": " run", "distractor": " runs"}


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("layout", SAE_LENS_LAYOUTS)
def test_contract(check: Any, layout: str) -> None:
    check(wrapped(layout))


@pytest.mark.parametrize("layout", SAE_LENS_LAYOUTS)
@pytest.mark.parametrize("corrupted", [None, "The cat"])
def test_both_kinds_of_model_give_the_same_circuit(layout: str, corrupted: str | None) -> None:
    ours, theirs = (
        circuitlens.find(wrapped(layout, "float32", bridge), **ASK, corrupted=corrupted, max_nodes=None, max_edges=None)
        for bridge in (True, False)
    )
    assert [node.id for node in ours.nodes] == [node.id for node in theirs.nodes]
    assert_close([n.attribution for n in ours.nodes], [n.attribution for n in theirs.nodes], rtol=1e-5, atol=1e-5)
    weights = [{(e.source, e.target): e.weight for e in circuit.edges} for circuit in (ours, theirs)]
    for pair in {*weights[0], *weights[1]}:
        assert weights[0].get(pair, 0) == pytest.approx(weights[1].get(pair, 0), abs=1e-5)


# Rows


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fast_rows_are_the_generic_ones(architecture: str) -> None:
    """In float64 at activations of the model's size; what the SAE does is what is differentiated."""
    sae = made(architecture, 1)
    shape = (4, 8) if architecture == "heads" else (D,)
    coder = SAECoder(sae, shape)
    assert coder.known == (architecture != "matching pursuit")
    x = 1.5 * torch.randn(1, 60, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.3
    with torch.no_grad():
        f = coder.encode(x)
        sparse = coder.decode(f)
    example, pos, index = f.nonzero(as_tuple=True)
    assert 3 < len(index) / 60 < 40
    rows = coder.encoder_rows(x[example, pos], index), coder.decoder_rows(x[example, pos], index)
    at = x[example, pos]
    generic = SparseCoder.encoder_rows(coder, at, index), SparseCoder.decoder_rows(coder, at, index)
    assert_close(rows, generic, rtol=1e-9, atol=1e-12)
    coder.encode(x)
    assert_close(coder.decode(f).detach(), sparse, rtol=1e-9, atol=1e-12)  # with gradients: the SAE's own decode


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "heads"])
def test_coders_say_what_the_sae_says(architecture: str) -> None:
    """Features as the SAE encodes them; the reconstruction as its forward gives it, a skip connection included."""
    sae = made(architecture, 2)
    x = torch.randn(1, 7, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, reconstruction = sae.encode(x), sae(x)
        coder = SAECoder(sae, (D,))
        f = coder.encode(x)
        assert_close(f, expected)
        assert_close(coder.decode(f), reconstruction)


def test_an_sae_that_reads_other_positions_is_refused() -> None:
    class Looks(type(made("standard", 1))):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x.cumsum(1))

    sae = made("standard", 1)
    sae.__class__ = Looks
    with pytest.raises(AdapterError, match="depend on other positions"):
        circuitlens.wrap(model(), [sae])
    assert TemporalSAE not in KNOWN
    assert Looks not in KNOWN


# Frozen linearity (docs/laws.md)


@pytest.mark.parametrize("layout", ["attn + mlp + resid", "transcoders"])
@pytest.mark.parametrize("bridge", [True, False], ids=["bridge", "HookedTransformer"])
def test_frozen_in_edges_and_bias_sum_to_the_pre_activation(layout: str, bridge: bool) -> None:
    """With patterns and scales held, what a site reads is affine in what earlier sites write.

    Where MLPs are cut: `read(all nodes) − read(none)` = what the nodes' in-edges say, where "none" is a real run with
    the stored patterns and scales, and every earlier site set to what it writes without nodes.
    """
    adapter = wrapped(layout, bridge=bridge)
    asked = example_batch(adapter)
    clean = trace(adapter, asked.clean, asked.metric, frozen=True)
    stored: dict[str, Tensor] = {}
    adapter.run(
        asked.clean, {name: lambda x, name=name: stored.__setitem__(name, x.detach()) for name in adapter.frozen}
    )
    assert len(stored) == len(adapter.frozen) >= 2 * LAYERS + 1
    nodes = score_nodes(clean)
    edges = score_edges(clean, nodes)
    without: dict[str, Tensor] = {}
    for s, site in enumerate(clean.sites):
        here = nodes.site == s
        places = nodes.example[here], nodes.pos[here]
        written = directions(clean, nodes, s, here.nonzero()[:, 0]).flatten(1) * nodes.delta[here, None]
        total = torch.zeros_like(site.write.flatten(2)).index_put(places, written.detach(), accumulate=True)
        without[site.site.write] = (site.write.detach().flatten(2) - total).view(site.write.shape)
    checked = 0
    for t, site in enumerate(clean.sites):
        if site.site.coder is None or site.site.read.endswith("mlp_out"):
            continue  # reads behind an MLP that no site cuts
        seen: list[Tensor] = []
        hooks: dict[str, Any] = {name: (lambda x, value=value: value) for name, value in stored.items()}
        hooks |= {s.site.write: (lambda x, value=without[s.site.write]: value) for s in clean.sites[:t]}
        hooks[site.site.read] = lambda x, seen=seen: seen.append(x.detach())
        adapter.run(asked.clean, hooks)
        change = (site.read.detach() - seen[0]).flatten(2)
        targets = ((nodes.site == t) & (nodes.index != VECTOR)).nonzero()[:, 0]
        x = site.read.detach()[nodes.example[targets], nodes.pos[targets]]
        rows = site.site.coder.encoder_rows(x, nodes.index[targets]).flatten(1)
        expected = (rows * change[nodes.example[targets], nodes.pos[targets]]).sum(1) * nodes.gradient[targets]
        into = torch.zeros_like(nodes.delta).index_add(0, edges.target, edges.weight)[targets]
        assert_close(into, expected.detach(), rtol=1e-9, atol=1e-9 * float(nodes.attribution.abs().max()))
        checked += len(targets)
    assert checked > 100


# Finite differences and agreement with interventions (docs/laws.md)


@pytest.mark.parametrize("layout", SAE_LENS_LAYOUTS)
def test_node_gradients_by_finite_difference(layout: str) -> None:
    adapter = wrapped(layout)
    asked = tokenize(adapter, ["The cats"], [" run"], [" runs"])
    clean = trace(adapter, asked.clean, asked.metric)
    nodes = score_nodes(clean)
    step, kinds = 1e-6, set()
    inner = (nodes.site < len(clean.sites)).nonzero()[:, 0].tolist()
    for n in inner[:: max(1, len(inner) // 40)]:
        s, pos, index = (int(column[n]) for column in (nodes.site, nodes.pos, nodes.index))
        unit = nodes.units[s][0, pos]
        values = []
        for by in (step, -step):
            edit = moved(index, 0, pos, by, unit)
            values.append(asked.metric(run_spliced(adapter, asked.clean, {adapter.sites[s].name: edit})))
        assert_close(nodes.gradient[n], ((values[0] - values[1]) / (2 * step))[0], rtol=1e-5, atol=1e-6)
        kinds.add((adapter.sites[s].kind, index == VECTOR))
    assert {("feature", True), ("feature", False)} <= kinds


def test_attributions_rank_nodes_as_interventions_do() -> None:
    """Each feature of the last site set to its corrupted value for real, against its attribution."""
    adapter = wrapped("residual")
    circuit = circuitlens.find(adapter, **ASK, corrupted="The cat")
    last = [n for n in circuit.nodes if n.hook == adapter.sites[-1].write and n.kind == "feature"]
    assert len(last) >= 10
    results = [ablate(adapter, circuit, [node.id]) for node in last]
    told = torch.tensor([[result.predicted for result in results], [result.measured for result in results]])
    assert torch.corrcoef(told)[0, 1] > 0.8


# What is the user's stays as it was


@pytest.mark.parametrize("bridge", [True, False], ids=["bridge", "HookedTransformer"])
def test_nothing_of_the_users_changes(bridge: bool) -> None:
    mine = model("float32", bridge)
    saes = [made("topk, layer norm", 1, "float32"), made("heads", 2, "float32"), made("skip transcoder", 3, "float32")]
    tokens = torch.tensor([[1, 2, 3]])
    fired: list[str] = []
    mine.add_hook("blocks.1.hook_resid_pre", lambda x, hook: fired.append(hook.name))
    parameters = dict(mine.named_parameters())
    frozen = next(iter(parameters.values()))
    frozen.requires_grad_(False)
    try:
        plain = mine(tokens)
        wants = {name: parameter.requires_grad for name, parameter in parameters.items()}
        before = [dict(sae.__dict__) for sae in saes]
        hooks = {name: len(point.fwd_hooks) for name, point in mine.hook_dict.items()}
        fired.clear()
        adapter = circuitlens.wrap(mine, saes)
        circuit = circuitlens.find(adapter, **ASK, corrupted="The cat", frozen=True)
        ablate(adapter, circuit, [circuit.nodes[0].id])
        assert len(fired) >= 4, "the user's own hook fires in our runs"
        with pytest.raises(RuntimeError, match="on purpose"):
            adapter.run(adapter.inputs(["The cat"]), {"blocks.2.hook_resid_pre": _fail})
        assert torch.equal(mine(tokens), plain)
        assert {name: parameter.requires_grad for name, parameter in parameters.items()} == wants
        assert all(parameter.grad is None for parameter in parameters.values())
        assert hooks == {name: len(point.fwd_hooks) for name, point in mine.hook_dict.items()}
        for sae, state in zip(saes, before, strict=True):
            assert sae.__dict__.keys() == state.keys()
            assert all(sae.__dict__[name] is value for name, value in state.items())
    finally:
        mine.reset_hooks()
        frozen.requires_grad_(True)


def _fail(_x: Tensor) -> None:
    raise RuntimeError("on purpose")


def test_hooks_of_the_users_are_part_of_the_model() -> None:
    mine = model("float32")
    adapter = wrapped("residual", "float32")
    plain = circuitlens.find(adapter, **ASK)
    mine.add_hook("blocks.0.mlp.hook_out", lambda x, hook: 0 * x)
    try:
        assert circuitlens.find(adapter, **ASK).metric.value != plain.metric.value
    finally:
        mine.reset_hooks()
    assert circuitlens.find(adapter, **ASK) == plain


# What a circuit of a language model holds


def test_nodes_have_what_notebooks_ask_for() -> None:
    adapter = wrapped("attn + mlp + resid", "float32")
    circuit = circuitlens.find(adapter, **ASK, corrupted="The cat")
    assert circuit.tokens == ("<|endoftext|>", "The", " cats")
    assert {node.kind for node in circuit.nodes} == {"embedding", "feature", "error", "logit"}
    assert {node.hook for node in circuit.nodes if node.kind == "embedding"} == {"hook_embed"}  # positions are alike
    feature = next(node for node in circuit.nodes if node.hook == "blocks.2.hook_mlp_out" and node.kind == "feature")
    assert (feature.layer, feature.id) == (2, f"blocks.2.hook_mlp_out:{feature.pos}:{feature.index}")
    assert feature.label == f"mlp_out F{feature.index}"
    assert {node.pos for node in circuit.nodes} == {2}
    assert [node.label for node in circuit.nodes if node.kind == "logit"] == [" run", " runs"]
    assert circuit.conservation_residual < 1e-5


def test_position_embeddings_are_nodes_of_their_own() -> None:
    circuit = circuitlens.find(wrapped("residual"), **ASK)
    embeddings = {(node.hook, node.pos) for node in circuit.nodes if node.kind == "embedding"}
    assert embeddings == {(hook, pos) for hook in ("hook_embed", "hook_pos_embed") for pos in range(3)}


def test_hooks_are_found_on_a_bridge_without_compatibility_mode() -> None:
    assert not getattr(model(), "compatibility_mode", False)
    assert [site.layer for site in wrapped("residual").sites] == [0, 0, 0, 1, 2, 3]


def test_saes_can_be_given_by_hook() -> None:
    saes = [made("standard", 1), made("jumprelu", 2)]
    by_list, by_name = circuitlens.wrap(model(), saes), circuitlens.wrap(model(), by_hook(saes))
    assert circuitlens.find(by_list, **ASK) == circuitlens.find(by_name, **ASK)
    moved = circuitlens.wrap(model(), {"blocks.3.hook_resid_pre": saes[0]})
    assert moved.sites[-1].write == "blocks.3.hook_resid_pre"
    assert circuitlens.wrap(model(), saes[0]).sites[-1].write == "blocks.1.hook_resid_pre"


def test_a_features_page_is_that_of_its_metadata() -> None:
    sae = made("standard", 1)
    sae.cfg.metadata.neuronpedia_id = "gpt2-small/1-res-jb"
    adapter = circuitlens.wrap(model(), [sae])
    assert adapter.url(adapter.sites[-1], 7) == "https://www.neuronpedia.org/gpt2-small/1-res-jb/7"
    circuit = circuitlens.find(adapter, **ASK)
    pages = {node.url for node in circuit.nodes if node.kind == "feature"}
    assert all(page and page.startswith("https://www.neuronpedia.org/gpt2-small/1-res-jb/") for page in pages)


@pytest.mark.parametrize("bridge", [True, False], ids=["bridge", "HookedTransformer"])
@pytest.mark.parametrize("layout", ["residual", "heads"])
def test_promoted_tokens_are_those_of_the_decoder_row_by_hand(layout: str, bridge: bool) -> None:
    adapter = wrapped(layout, bridge=bridge)
    circuit = circuitlens.find(adapter, **ASK)
    node = next(n for n in reversed(circuit.nodes) if n.kind == "feature")
    told = circuitlens.describe(adapter, circuit, node.id, outputs=3)
    mine, sae = model(bridge=bridge), adapter._saes[node.hook]
    direction = sae.W_dec[node.index].detach()
    if layout == "heads":
        direction = direction @ mine.blocks[node.layer].attn.W_O.detach().reshape(D, D)
    direction = (direction - direction.mean()) * mine.ln_final.w.detach()
    logits = direction @ mine.W_U.detach()
    assert [text for text, _ in told.promoted] == [adapter.output_label(i) for i in logits.topk(3).indices.tolist()]
    assert [value for _, value in told.suppressed] == pytest.approx((-(-logits).topk(3).values).tolist())
    assert told.tokens == circuit.tokens
    assert told.activations[node.pos] == pytest.approx(node.activation)


# Prompts


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return wrapped("residual", "float32")


def test_prompts_begin_as_the_saes_were_trained() -> None:
    for bos, tokens in ((True, ("<|endoftext|>", "The", " cat")), (False, ("The", " cat"))):
        sae = made("standard", 1)
        sae.cfg.metadata.prepend_bos = bos
        assert circuitlens.wrap(model(), [sae]).inputs(["The cat"]).tokens == (tokens,)
        assert circuitlens.wrap(model(), [sae], prepend_bos=True).inputs(["The cat"]).tokens[0][0] == "<|endoftext|>"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (" goes", r"' goes' is not one token after 'The cat': by itself it is \[' go', 'es'\], and together they are"),
        ("walk", r"is not one token .* together they are \['The', ' cat', 'w'"),
        ("", "is not one token"),
        ("s", r"together they are \['The', ' cats'\]"),
        ("cat", "Did you mean ' cat', with its space"),
    ],
)
def test_answers_that_are_not_one_token_are_refused(adapter: Adapter, answer: str, why: str) -> None:
    with pytest.raises(PromptError, match=why):
        adapter.answer_index(answer, "The cat")


def test_an_answer_without_its_space_is_warned_of(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    assert adapter.output_label(adapter.answer_index("runs", "The cat")) == "runs"
    assert "a new word is ' runs'" in caplog.text
    caplog.clear()
    adapter.answer_index(" runs", "The cat")
    assert not caplog.records


def test_prompts_that_can_not_be_read(adapter: Adapter) -> None:
    with pytest.raises(PromptError, match="is empty"):
        adapter.inputs([""])
    with pytest.raises(PromptError, match=r"has 71 tokens and the model reads 64"):
        adapter.inputs([" cat" * 70])
    with pytest.raises(PromptError, match=r"has 3 tokens .* has 4"):
        circuitlens.find(adapter, **ASK, corrupted="The cat is")


def test_any_text_has_tokens(adapter: Adapter) -> None:
    (tokens,) = adapter.inputs(["The 🐈\n<b>é"]).tokens
    assert all(tokens)
    assert "".join(tokens[1:2]) == "The"


# What does not fit together


def test_what_does_not_fit_together_is_refused() -> None:
    mine, sae = model(), made("standard", 1)
    with pytest.raises(AdapterError, match=r"2 SAEs on the hook 'blocks.1.hook_resid_pre'"):
        circuitlens.wrap(mine, [sae, made("topk", 1)])
    with pytest.raises(AdapterError, match=r"no hook 'blocks.9.hook_resid_pre'.*blocks are 0 to 3"):
        circuitlens.wrap(mine, {"blocks.9.hook_resid_pre": sae})
    with pytest.raises(AdapterError, match="made for 32 numbers and the model has 128 there"):
        circuitlens.wrap(mine, {"blocks.1.mlp.hook_post": sae})
    with pytest.raises(AdapterError, match=r"float32 on cpu and the model torch.float64"):
        circuitlens.wrap(mine, [made("standard", 1, "float32")])
    with pytest.raises(AdapterError, match="There are no SAEs"):
        circuitlens.wrap(mine, [])
    other, without = made("standard", 2), made("standard", 3)
    other.cfg.metadata.model_name = "gemma-2b"
    with pytest.raises(AdapterError, match=r"different models, gpt2 \(at .*1.*\) and gemma-2b \(at .*2"):
        circuitlens.wrap(mine, [sae, other])
    without.cfg.metadata.prepend_bos = False
    with pytest.raises(AdapterError, match="some without: give prepend_bos"):
        circuitlens.wrap(mine, [sae, without])
    centred = made("standard", 1)
    centred.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": True}
    with pytest.raises(AdapterError, match=r"are centred, and this model's stream is not.*center_writing_weights=True"):
        circuitlens.wrap(mine, [centred])


def test_a_hook_that_is_switched_off_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"'blocks.1.hook_mlp_in' never fires|no hook 'blocks.1.hook_mlp_in'"):
        circuitlens.wrap(model("float64", False), {"blocks.1.hook_mlp_in": made("standard", 1)})


def test_attached_saes_are_refused() -> None:
    from sae_lens import SAETransformerBridge

    model("float32")  # so that its files are there
    mine = SAETransformerBridge.boot_transformers("gpt2", device="cpu")
    mine.enable_compatibility_mode(no_processing=True)
    mine.add_sae(made("standard", 1, "float32"))
    with pytest.raises(AdapterError, match=r"attached to the model at blocks.1.hook_resid_pre.*reset_saes"):
        circuitlens.wrap(mine, [made("standard", 2, "float32")])
    mine.reset_saes()
    circuitlens.find(circuitlens.wrap(mine, [made("standard", 2, "float32")]), **ASK)


def test_a_model_that_drops_at_random_is_refused() -> None:
    mine = model()
    mine.train()
    try:
        with pytest.raises(AdapterError, match=r"training mode .*model.eval\(\)"):
            circuitlens.wrap(mine, [made("standard", 1)])
    finally:
        mine.eval()


def test_one_place_under_two_names_is_one_place() -> None:
    sae, other = made("standard", 1), made("topk", 1)
    with pytest.raises(AdapterError, match="is the same place as that of another SAE"):
        circuitlens.wrap(model(), {"blocks.1.hook_resid_pre": sae, "blocks.1.hook_in": other})
    names = ("blocks.1.hook_resid_mid", "blocks.1.ln2.hook_in")
    circuits = [circuitlens.find(circuitlens.wrap(model(), {name: sae}), **ASK) for name in names]
    assert [n.attribution for n in circuits[0].nodes] == [n.attribution for n in circuits[1].nodes]


def test_another_adapter_of_the_same_name_is_refused() -> None:
    circuit = circuitlens.find(circuitlens.wrap(model(), [made("standard", 1)]), **ASK)
    for other in (
        circuitlens.wrap(model(), [made("topk", 1)]),
        circuitlens.wrap(model(), [made("standard", 1)], prepend_bos=False),
    ):
        with pytest.raises(CircuitError, match=r"The circuit was made with .*load it alike"):
            ablate(other, circuit, [circuit.nodes[0].id])
        with pytest.raises(CircuitError, match=r"The circuit was made with .*load it alike"):
            circuitlens.describe(other, circuit, circuit.nodes[-3].id)


def test_text_that_is_no_unicode_is_refused(adapter: Adapter) -> None:
    with pytest.raises(PromptError, match="no valid Unicode"):
        adapter.inputs(["\udcff cats"])
    assert adapter.output_label(10**6) == "[1000000]"


def test_files_keep_a_language_models_circuit(adapter: SAELensAdapter, tmp_path: Any) -> None:
    circuit = circuitlens.find(adapter, **ASK)
    circuit.save(tmp_path / "cats.json")
    again = circuitlens.open(tmp_path / "cats.json")
    assert isinstance(again, Circuit)
    assert again == circuit
    assert again.options["model"] == "gpt2"
