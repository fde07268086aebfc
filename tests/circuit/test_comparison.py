"""Two circuits beside each other: columns, matched nodes, and the difference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Edge, Node
from circuitlens.circuit.comparison import Comparison, Graph, compare, differing
from circuitlens.prompts.pairs import Pair
from tests.tiny_transformer import TinyTransformer


def consistent(compared: Comparison) -> None:
    """Second plus difference is first, node by node and edge by edge, and no id is there twice."""
    for circuit in (compared.first, compared.second, compared.difference):
        assert len({n.id for n in circuit.nodes}) == len(circuit.nodes)
        assert len({(e.source, e.target) for e in circuit.edges}) == len(circuit.edges)
    for values in (attributions, weights):
        ours, theirs, less = map(values, (compared.first, compared.second, compared.difference))
        assert less.keys() <= ours.keys() | theirs.keys()
        for key in ours.keys() | theirs.keys():
            assert less.get(key, 0.0) == ours.get(key, 0.0) - theirs.get(key, 0.0)


def attributions(circuit: Graph) -> dict[str, float]:
    return {node.id: node.attribution for node in circuit.nodes}


def weights(circuit: Graph) -> dict[str, float]:
    return {f"{edge.source} → {edge.target}": edge.weight for edge in circuit.edges}


def test_a_circuit_differs_from_itself_in_nothing(cats: Circuit) -> None:
    compared = compare(cats, cats)
    assert [n.id for n in compared.difference.nodes] == [n.id for n in cats.nodes]
    assert {n.attribution for n in compared.difference.nodes} == {0.0}
    assert compared.difference.edges == ()
    assert (
        compared.summary
        == "10 in both, 0 only in the first, 0 only in the second; attributions of those in both "
        + ("correlate +1.00 (rank)")
    )


def test_singular_and_plural(cat: Circuit, cats: Circuit) -> None:
    compared = compare(cat, cats)
    assert compared.difference.tokens == ("The cat / The cats",)
    shared = {n.id for n in cat.nodes} & {n.id for n in cats.nodes}
    assert {ours.id for ours, _ in compared.shared} == shared
    assert {n.id for n in compared.difference.nodes} == {n.id for n in (*cat.nodes, *cats.nodes)}
    consistent(compared)


def test_a_difference_is_measured_where_all_of_it_is(cat: Circuit, cats: Circuit) -> None:
    def with_measured(circuit: Circuit) -> Circuit:
        edges = [edge.model_copy(update={"measured": True}) for edge in circuit.edges]
        return circuit.model_copy(update={"edges": tuple(edges)})

    both, one = (compare(with_measured(cats), other).difference.edges for other in (with_measured(cat), cat))
    assert all(edge.measured for edge in both)
    alone = {(edge.source, edge.target) for edge in cats.edges} - {(edge.source, edge.target) for edge in cat.edges}
    assert {(edge.source, edge.target) for edge in one if edge.measured} == alone
    assert alone


def test_a_token_that_only_one_has_gets_a_column_of_its_own() -> None:
    adapter = TinyTransformer("components")
    short = circuitlens.find(adapter, "a b c", "d", "e").prune(max_nodes=60)
    long = circuitlens.find(adapter, "a f b c", "d", "e").prune(max_nodes=60)
    compared = compare(short, long)
    assert compared.difference.tokens == ("a", "f", "b", "c")
    assert {n.pos for n in compared.first.nodes} <= {0, 2, 3}
    assert [n.pos for n in compared.second.nodes] == [n.pos for n in long.nodes]
    moved = {0: 0, 1: 2, 2: 3}
    expected = {(n.hook, n.kind, n.index, moved[n.pos]) for n in short.nodes} & {
        (n.hook, n.kind, n.index, n.pos) for n in long.nodes
    }
    at_one = [n for n, _ in compared.shared if n.id not in compared.moved]
    assert {(n.hook, n.kind, n.index, n.pos) for n in at_one} == expected
    consistent(compared)


def test_a_feature_is_matched_wherever_it_stands() -> None:
    """Two prompts of other words and lengths, with the same features at other positions."""
    template = circuitlens.find(TinyTransformer("components"), "a b c", "d", "e").prune(max_nodes=0)
    logits = template.nodes

    def circuit(tokens: str, *nodes: tuple[int, int, float]) -> Circuit:
        made = [
            Node(id=f"s:{pos}:{index}", kind="feature", hook="h", layer=0, pos=pos, index=index, label=f"F{index}",
                 activation=1.0, attribution=attribution)
            for pos, index, attribution in nodes
        ]  # fmt: skip
        edges = (Edge(source=made[0].id, target=logits[0].id, weight=nodes[0][2]),)
        fields = {name: getattr(template, name) for name in Circuit.model_fields}
        at_end = [n.model_copy(update={"pos": len(tokens) - 1}) for n in logits]
        return Circuit(**{**fields, "tokens": tuple(tokens), "nodes": (*made, *at_end), "edges": edges})

    short, long = circuit("xy", (1, 7, 3.0), (1, 8, 1.0)), circuit("abcdefg", (4, 7, 2.0), (2, 7, 0.5), (6, 9, 1.0))
    compared = compare(short, long)
    assert not compared.aligned
    assert [(a.id, b.pos, b.attribution) for a, b in compared.shared if not a.is_logit] == [("s:1:7", 4, 2.0)]
    assert compared.moved == {"s:1:7"}
    assert (compared.first.tokens, compared.second.tokens) == (tuple("xy"), tuple("abcdefg"))
    assert compared.carriers == [("F7", "y", "e")]
    assert "1 of those in both are one feature at two positions" in compared.summary
    assert weights(compared.difference) == {f"s:1:7 → {logits[0].id}": 1.0}
    consistent(compared)


def test_circuits_of_different_models_are_told_apart(cats: Circuit, cat: Circuit) -> None:
    assert differing(cats, cat) == differing(cats, cats) == ""
    other = circuitlens.find(TinyTransformer("components"), "a b c", "d", "e").prune(max_nodes=20)
    assert "one has its sites at hook_input, hook_hidden, hook_sae, the other at" in differing(cats, other)
    known = cats.fingerprint
    assert known is not None
    larger = tuple(site.model_copy(update={"size": 2 * site.size}) for site in known.sites)
    trained_anew = cats.model_copy(update={"fingerprint": known.model_copy(update={"sites": larger})})
    assert "on one prompt the size at hook_hidden was" in differing(cats, trained_anew)
    assert differing(cat, trained_anew) == ""  # on another prompt it may be so
    turned = [
        n.model_copy(update={"index": 1 - n.index}) if n.is_logit and n.index is not None else n for n in cat.nodes
    ]
    assert "the output 'run' is number 1 of one and number 0" in differing(
        cats, cat.model_copy(update={"nodes": tuple(turned)})
    )


def test_models_of_other_shapes_share_nothing(cats: Circuit) -> None:
    other = circuitlens.find(TinyTransformer("components"), "a b c", "d", "e").prune(max_nodes=20)
    compared = compare(cats, other)
    assert not [n for n, _ in compared.shared if n.kind != "logit"]
    consistent(compared)


def test_circuits_over_many_prompts(toy: Adapter) -> None:
    """Their outputs have no index, and are matched by their names."""
    pairs = [
        Pair(prompt=f"The {noun}s", corrupted=f"The {noun}", answer=("run",), distractor=("runs",))
        for noun in ("cat", "dog")
    ]
    each, together = circuitlens.aggregate(toy, pairs), circuitlens.aggregate(toy, pairs, by="sum")
    compared = compare(each, together)
    assert [n.id for n in compared.second.nodes if n.kind == "logit"] == [n.id for n in each.nodes if n.kind == "logit"]
    assert len(compared.shared) == len(each.nodes)
    consistent(compared)


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 23), st.integers(0, 23))
def test_second_and_difference_make_the_first(cat: Circuit, cats: Circuit, n: int, m: int, k: int, j: int) -> None:
    consistent(compare(cats.prune(max_nodes=n, max_edges=k), cats.prune(max_nodes=m, max_edges=j)))
    consistent(compare(cats.prune(max_nodes=n, max_edges=k), cat.prune(max_nodes=m, max_edges=j)))
