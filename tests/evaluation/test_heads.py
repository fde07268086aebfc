"""Which heads carry an edge: their shares sum to it, and each is what that head does for real."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Edge, HeadShare
from circuitlens.errors import AdapterError, CircuitError
from circuitlens.evaluation import heads
from circuitlens.evaluation.heads import with_heads
from circuitlens.literals import MethodName
from tests.circuits import PAIRS, example_circuit
from tests.models import Headed
from tests.tiny_transformer import Layout


@pytest.fixture
def every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that carry next to nothing are told as well."""
    monkeypatch.setattr(heads, "SMALL", 0)


def found(adapter: Adapter, method: MethodName, **more: Any) -> Circuit:
    """A circuit of which much crosses: the first token is what differs."""
    return circuitlens.find(adapter, "a b c", "d", "e", "f b c", method, **more)


def crossing(circuit: Circuit) -> list[Edge]:
    """Edges to a later position."""
    return [edge for edge in circuit.edges if circuit.node(edge.source).pos < circuit.node(edge.target).pos]


@pytest.mark.usefixtures("every_head")
@pytest.mark.parametrize(
    ("layout", "method"),
    [
        *(("residual", method) for method in ("gradient", "contrastive", "ig")),
        *(("components", method) for method in ("contrastive", "ig")),
        ("normalised", "contrastive"),
    ],
)
def test_heads_share_out_every_edge_that_crosses(layout: Layout, method: MethodName) -> None:
    """Also where several layers lie between (from the embedding to the first site on), and into errors and logits."""
    adapter = Headed(layout)
    circuit = with_heads(adapter, found(adapter, method, max_nodes=40 if layout == "residual" else 70), 30)
    edges = sorted(crossing(circuit), key=lambda edge: -abs(edge.weight))[:30]
    assert len(edges) > 10
    largest = max(abs(edge.weight) for edge in edges)
    for edge in edges:
        assert sum(share.weight for share in edge.heads) == pytest.approx(edge.weight, abs=1e-9 * largest)
    assert not any(edge.heads for edge in circuit.edges if edge not in crossing(circuit))
    assert any(share.by_pattern for edge in edges for share in edge.heads)
    assert {share.head for edge in edges for share in edge.heads} == set(range(4))


def derivative(adapter: Headed, circuit: Circuit, edge: Edge, head: int, through: str) -> float:
    """The edge's weight by one head alone, whose keys or values alone change: a central difference."""
    source, target = circuit.node(edge.source), circuit.node(edge.target)
    coder: Any = adapter.sites[0].coder
    inputs = adapter.inputs([circuit.prompt])
    plain: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        plain[name] = x.detach().clone()

    names = ["0.resid", "1.z", "1.k", "1.v", "1.resid"]
    adapter.run(inputs, {name: partial(keep, name) for name in names})
    step, values = 1e-5, []
    for by in (step, -step):
        moved = plain["0.resid"].clone()
        moved[0, source.pos] += by * coder.decoder[source.index]
        seen: dict[str, Tensor] = {}

        def only(x: Tensor) -> Tensor:
            y = plain["1.z"].clone()
            y[0, target.pos, head] = x[0, target.pos, head]
            return y

        other = "1.v" if through == "1.k" else "1.k"
        hooks: Mapping[str, Any] = {
            "0.resid": lambda _, moved=moved: moved,
            other: lambda _, other=other: plain[other],
            "1.z": only,
            "1.resid": lambda x, seen=seen: seen.update(x=x),
        }
        adapter.run(inputs, hooks)
        there: Any = adapter.sites[1].coder
        values.append(there.encode(seen["x"])[0, target.pos, target.index].item())
    gradient = target.attribution / target.activation
    return gradient * (values[0] - values[1]) / (2 * step) * source.activation


@pytest.mark.usefixtures("every_head")
def test_a_share_is_what_the_head_does_for_real() -> None:
    """Of one layer: the source moves, and at the target's position only that head's output may change."""
    adapter = Headed("residual")
    circuit = with_heads(adapter, example_circuit(adapter, "gradient"), None)
    kinds = {node.id: (node.hook, node.kind) for node in circuit.nodes}
    chosen = [e for e in crossing(circuit) if kinds[e.source] == ("0.resid", "feature")]
    chosen = [e for e in chosen if kinds[e.target] == ("1.resid", "feature")][:3]
    assert len(chosen) == 3
    for edge in chosen:
        told = {share.head: share for share in edge.heads}
        assert {share.layer for share in edge.heads} == {1}
        for head in range(4):
            share = told.get(head, HeadShare(layer=1, head=head, by_values=0.0, by_pattern=0.0))
            for part, through in ((share.by_values, "1.v"), (share.by_pattern, "1.k")):
                slow = derivative(adapter, circuit, edge, head, through)
                assert part == pytest.approx(slow, abs=1e-5 * abs(edge.weight) + 1e-8)


def test_frozen_heads_carry_by_values_alone() -> None:
    adapter = Held("residual")
    circuit = with_heads(adapter, example_circuit(adapter, "gradient", frozen=True))
    shares = [share for edge in circuit.edges for share in edge.heads]
    assert shares
    assert all(share.by_pattern == 0 for share in shares)
    assert any(share.by_values for share in shares)


class Held(Headed):
    """In frozen mode its keys are constants."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.frozen = tuple(f"{n}.k" for n in range(3))


def test_the_strongest_are_told_and_come_first(tmp_path: Path) -> None:
    adapter = Headed("residual")
    plain = found(adapter, "contrastive")
    circuit = with_heads(adapter, plain, 5)
    strongest = sorted(crossing(circuit), key=lambda edge: -abs(edge.weight))
    assert all(edge.heads for edge in strongest[:5])
    path = circuit.strongest_path().nodes
    on_path = {(a.id, b.id) for a, b in pairwise(path)}
    on_path |= {(path[-2].id, node.id) for node in circuit.nodes if node.is_logit}
    assert not any(edge.heads for edge in strongest[5:] if (edge.source, edge.target) not in on_path)
    for edge in strongest[:5]:
        sizes = [abs(share.weight) for share in edge.heads]
        assert sizes == sorted(sizes, reverse=True)
        assert min(sizes) > 0.01 * sum(sizes)
    assert with_heads(adapter, circuit, 5) == circuit
    circuit.save(tmp_path / "with.json")
    plain.save(tmp_path / "without.json")
    assert circuitlens.open(tmp_path / "with.json") == circuit
    assert '"heads"' not in (tmp_path / "without.json").read_text()


def test_heads_of_transformer_lens() -> None:
    from tests.saelens import wrapped

    for layout in ("residual", "heads"):
        adapter = wrapped(layout)
        assert len(adapter.attention) == adapter._model.cfg.n_layers
        circuit = with_heads(adapter, example_circuit(adapter, "gradient", max_nodes=60))
        told = [edge for edge in circuit.edges if edge.heads]
        assert told
        largest = max(abs(edge.weight) for edge in told)
        for edge in told:
            assert sum(share.weight for share in edge.heads) == pytest.approx(edge.weight, abs=0.05 * largest)


def test_what_has_no_heads_to_tell(toy: Adapter, cats: Circuit) -> None:
    with pytest.raises(AdapterError, match="'toy' does not tell its model's attention heads apart"):
        with_heads(toy, cats)
    adapter = Headed()
    with pytest.raises(CircuitError, match="over many"):
        with_heads(adapter, circuitlens.aggregate(adapter, PAIRS[:2], "contrastive", max_nodes=5))
    with pytest.raises(CircuitError, match="edges is -1"):
        with_heads(adapter, example_circuit(adapter), -1)
