"""MLPs' neurons in the place of features: an exact dictionary, for the question whether a trained one is worth it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from circuitlens_saelens.unembedding import unembedded
from torch import Tensor

import circuitlens
from circuitlens.adapter import IdentityCoder
from circuitlens.errors import AdapterError
from circuitlens.testing import CONTRACT
from tests.families import ASK, tiny
from tests.hub import use_cache, write_gpt2
from tests.saelens import LAYERS, model

NAMES = [f"blocks.{n}.mlp.hook_post" for n in range(LAYERS)]


@pytest.fixture(scope="module")
def adapter() -> Any:
    return circuitlens.wrap(model(), "neurons")


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(adapter: Any, check: Any) -> None:
    check(adapter)


def test_neurons_are_what_the_output_weights_read(adapter: Any) -> None:
    """Features times decoder are what the MLP writes but for its bias: there is no error."""
    sites = [site for site in adapter.sites if site.kind == "neuron"]
    assert [site.write for site in sites] == NAMES
    assert all(isinstance(site.coder, IdentityCoder) for site in sites)
    seen: dict[str, Tensor] = {}
    inputs = adapter.inputs(["The cats near the dog"])
    outs = [f"blocks.{n}.hook_mlp_out" for n in range(LAYERS)]
    with torch.no_grad():
        adapter.run(inputs, {name: lambda x, name=name: seen.update({name: x}) for name in (*NAMES, *outs)})
        for n, block in enumerate(model().blocks):
            torch.testing.assert_close(seen[NAMES[n]] @ block.mlp.W_out + block.mlp.b_out, seen[outs[n]])


@pytest.mark.parametrize("method", ["gradient", "path", "exact"])
def test_a_circuit_of_neurons(adapter: Any, method: Any) -> None:
    """Nothing is lost, nothing is error, and a neuron that is set to zero changes the metric by what `exact` says."""
    circuit = circuitlens.find(adapter, **ASK, method=method, corrupted=None if method == "gradient" else "The cat")
    assert {node.kind for node in circuit.nodes} == {"embedding", "neuron", "logit"}
    strongest = max((n for n in circuit.nodes if n.kind == "neuron"), key=lambda n: abs(n.attribution))
    assert strongest.label == f"N{strongest.index}"
    if method != "exact":
        assert circuit.conservation_residual < 1e-6 * max(1, abs(circuit.metric.value))
    else:
        fall = circuitlens.ablate(adapter, circuit, [strongest.id]).measured_drop
        assert fall == pytest.approx(strongest.attribution, rel=1e-4)


def test_a_neurons_promoted_outputs_are_its_output_weights(adapter: Any) -> None:
    site = next(site for site in adapter.sites if site.kind == "neuron")
    direction = torch.nn.functional.one_hot(torch.tensor(5), site.coder.d_sae).double()
    ours = unembedded(adapter, adapter._model, site, direction)
    assert ours is not None
    row = model().blocks[0].mlp.W_out[5]
    expected = (row - row.mean()) * model().ln_final.w @ model().W_U
    torch.testing.assert_close(ours, expected)
    normed = circuitlens.wrap(tiny("gemma2"), "neurons")
    assert normed.unembed(next(s for s in normed.sites if s.kind == "neuron"), torch.ones(48)) is None


def test_neurons_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gpt2(tmp_path)
    use_cache(monkeypatch, tmp_path)
    adapter = circuitlens.load("transformerlens", model="gpt2", saes="neurons", layers="1-2")
    assert [site.write for site in adapter.sites if site.kind == "neuron"] == NAMES[1:3]
    assert (adapter.options["saes"], adapter.options["layers"]) == ("neurons", "1-2")
    assert adapter.description == "gpt2 with the neurons of 2 MLPs."
    for options, why in (
        ({"saes": "neurons"}, "Neurons are a model's own and stand alone: give model="),
        ({"saes": ["neurons", "gpt2-small-res-jb"], "model": "gpt2"}, "no SAEs beside them"),
        ({"saes": "neurons", "model": "gpt2", "layers": 9}, "no hook 'blocks.9.mlp.hook_post'"),
    ):
        with pytest.raises(AdapterError, match=why):
            circuitlens.load("transformerlens", **options)
    with pytest.raises(AdapterError, match="MLP of layer 0 has no one output matrix"):
        circuitlens.wrap(tiny("mixtral"), "neurons")
