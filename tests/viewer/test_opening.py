"""What a circuit opens on, and the layouts of fewer nodes than all."""

from __future__ import annotations

import json

import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.circuit.comparison import compare
from circuitlens.viewer.opening import LEGIBLE, RUNGS, compared_layouts, layouts, opening
from circuitlens.viewer.panels.answer import answer_panel
from circuitlens.viewer.placement import place_nodes
from tests.circuit.handmade import chain, circuit, measured, node
from tests.tiny_transformer import TinyTransformer


@pytest.fixture(scope="module")
def tall() -> Circuit:
    return circuitlens.find(TinyTransformer("components"), "a b c", "d", "e", "a b f", method="gradient")


def test_a_verified_circuit_opens_on_its_core_and_the_strongest_path() -> None:
    """Also where stronger nodes are in neither."""
    made = chain()
    assert opening(made) == ([], "")  # few nodes are legible
    told = measured(made, core=("b",))
    nodes, what = opening(told)
    assert ([n.id for n in nodes], what) == (["a", "b"], "the core")
    other = measured(made, digest="of another", core=("b",))
    assert opening(other) == ([], "")


def test_others_open_on_what_reaches_nine_tenths_of_attribution() -> None:
    strengths = [50.0, 30.0, 12.0] + [0.2] * 40
    inner = [node(f"n{k}", 0, strength) for k, strength in enumerate(strengths)]
    made = circuit([*inner, node("yes", 1, kind="logit")], {("n1", "yes"): 1.0, ("n42", "yes"): 3.0})
    # n42 is on the strongest path; 92 of 100 are the first three's.
    assert [n.id for n in opening(made)[0]] == ["n0", "n1", "n2", "n42"]
    alike = circuit([node(f"n{k}", 0, 1.0) for k in range(100)], {})
    assert len(opening(alike)[0]) == LEGIBLE


def test_each_layout_is_of_its_own_nodes(tall: Circuit) -> None:
    """As if the circuit had no others; of each a node has its place, and the last has all."""
    made = layouts(tall, tall)
    json.dumps(made)
    assert made[0]["what"] == "the strongest"
    counts = [count for count in RUNGS if count < len(made[-1]["ids"])]
    assert (
        [one["count"] for one in made[1:]] == [len(one["ids"]) for one in made[1:]] == [*counts, len(made[-1]["ids"])]
    )
    outputs = {n.id for n in tall.nodes if n.is_logit}
    strongest = sorted((n for n in tall.nodes if not n.is_logit), key=lambda n: -abs(n.attribution))
    for one in made[1:]:
        assert one["ids"] == [n.id for n in strongest[: len(one["ids"])]]
        assert set(one["places"]) == {*one["ids"], *outputs}
        few = place_nodes(tall.prune(max_nodes=len(one["ids"])))
        for name, place in few.places.items():
            assert one["places"][name][:2] == pytest.approx([place.x, place.y], abs=1e-4)


@pytest.mark.parametrize("longer", [False, True])
def test_compared_circuits_have_the_same_layouts_as_one(tall: Circuit, longer: bool) -> None:
    """In common columns both stand in one list of layouts, else each in its own; so does their difference."""
    words = ("f e d g", "f e d a") if longer else ("a d c", "a b c")  # the longer has no token of the other
    other = circuitlens.find(TinyTransformer("components"), words[0], "d", "e", words[1], "gradient")
    compared = compare(tall, other.prune(max_nodes=50))
    assert compared.aligned != longer
    pair = compared.first, compared.second
    for made, graphs in (
        *zip(compared_layouts(compared), [pair] if compared.aligned else [[one] for one in pair], strict=True),
        (compared_layouts(compared, difference=True)[0], [compared.difference]),
    ):
        json.dumps(made)
        ranked = [sorted((n for n in g.nodes if not n.is_logit), key=lambda n: -abs(n.attribution)) for g in graphs]
        most = max(map(len, ranked))
        counted = [one for one in made if not one["what"]]
        assert [one["count"] for one in counted] == [*(count for count in RUNGS if count < most), most]
        for one in counted:
            assert set(one["ids"]) == {n.id for nodes in ranked for n in nodes[: one["count"]]} or one is counted[-1]
            assert set(one["ids"]) <= set(one["places"])
        assert {n.id for nodes in ranked for n in nodes} <= set(counted[-1]["ids"])


def test_in_a_cell_the_strongest_comes_first_and_the_answer_before_its_distractor() -> None:
    made = chain()
    nodes = [
        *(node(f"n{k}", 0, value) for k, value in enumerate([1.0, -5.0, 3.0])),
        node("e", 0, 9.0, "error"),
        *(n.model_copy(update={"pos": 0}) for n in reversed([n for n in made.nodes if n.is_logit])),
    ]
    placed = place_nodes(circuit(nodes, {})).places
    order = sorted((name for name in placed if name not in ("yes", "no")), key=lambda name: placed[name].x)
    assert order == ["n1", "n2", "n0", "e"]
    assert placed["yes"].x < placed["no"].x


def test_a_path_through_what_is_not_there_says_so(toy: Adapter) -> None:
    """The toy's strongest path: it is active after "The cat" only, and attribution is of the change from there."""
    circuit = circuitlens.find(toy, "The cats", "run", "runs", "The cat")
    idle = [node for node in circuit.strongest_path().nodes if not node.is_logit and node.kind != "input"]
    assert [(node.label, node.activation) for node in idle] == [("H3", 0.0), ("F2", 0.0)]
    told = "H3 and F2 are active in the corrupted prompt only; that they are 0 here is what counts."
    assert told in str(answer_panel(circuit, {}, can_load=False))
    alone = circuitlens.find(toy, "The cats", "run", "runs")
    assert "corrupted prompt only" not in str(answer_panel(alone, {}, can_load=False))
