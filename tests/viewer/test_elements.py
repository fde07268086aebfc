"""A circuit as elements to draw: places, ranks, sizes, colours, and what is left out of a large one."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import circuitlens
from circuitlens.circuit import Circuit, Edge
from circuitlens.report.palette import COLOURS, PALETTES
from circuitlens.report.text import visible
from circuitlens.viewer.elements import elements, largest_of, within_budget
from circuitlens.viewer.placement import axes, place_nodes
from circuitlens.viewer.subgraph import subgraph
from circuitlens.viewer.theme import css_variables, stylesheet
from tests.circuits import inner
from tests.helpers import luminance
from tests.tiny_transformer import TinyTransformer


@pytest.fixture(scope="module")
def tall() -> Circuit:
    """Three positions, eleven rows, hundreds of nodes."""
    return circuitlens.find(TinyTransformer("components"), "a b c", "d", "e", "a b f", method="gradient")


def of(circuit: Circuit, prefix: str) -> list[dict]:
    return [element for element in elements(circuit) if element["data"]["id"].startswith(prefix + " ")]


def test_every_node_and_edge_is_drawn_once(cats: Circuit, tall: Circuit) -> None:
    for circuit in (cats, tall):
        assert {e["data"]["node"] for e in of(circuit, "node")} == {n.id for n in circuit.nodes}
        assert len(of(circuit, "edge")) == len(circuit.edges)
        ids = Counter(e["data"]["id"] for e in elements(circuit))
        assert max(ids.values()) == 1
        json.dumps(elements(circuit))


def test_hooks_run_upwards_and_positions_to_the_right(tall: Circuit) -> None:
    place = {e["data"]["node"]: e["data"] for e in of(tall, "node")}
    for one in tall.nodes:
        assert 0 < place[one.id]["x"] < 1
        assert 0 < place[one.id]["y"] < 1
    hooks: dict[str, list[float]] = {}
    for n in tall.nodes:
        hooks.setdefault("embedding" if n.kind == "embedding" else n.hook, []).append(place[n.id]["y"])
    assert len(hooks) == len(of(tall, "band")) == 11
    for below, above in pairwise(hooks.values()):
        assert min(below) > max(above)
    for left, right in ((0, 1), (1, 2)):
        assert max(place[n.id]["x"] for n in inner(tall) if n.pos == left) < min(
            place[n.id]["x"] for n in inner(tall) if n.pos == right
        )
    spots = Counter((round(d["x"], 9), d["y"]) for d in place.values())
    assert max(spots.values()) == 1


def test_edges_rank_by_strength_and_show_their_sign(cats: Circuit) -> None:
    drawn = of(cats, "edge")
    assert [e["data"]["rank"] for e in drawn] == list(range(len(drawn)))
    strengths = [e["data"]["strength"] for e in drawn]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] == 1
    signs = {(e.source, e.target): e.weight >= 0 for e in cats.edges}
    for e in drawn:
        source, target = (e["data"][end].removeprefix("node ") for end in ("source", "target"))
        raises, end = signs[source, target], cats.node(target).label
        # What raises the metric, the logit of "run" less that of "runs", holds "runs" back.
        holds = (end == "runs" and raises) or (end == "run" and not raises)
        assert e["classes"] == f"{'positive' if raises else 'negative'}{' holds' if holds else ''} off"


def test_axes_are_hooks_and_tokens(cats: Circuit, tall: Circuit) -> None:
    assert names(cats) == ["hook_input", "hook_hidden", "hook_sae", "logits", "The cats"]
    labels = names(tall)
    assert labels[:3] == ["embed · position", "0.attn_out", "0.mlp_out"]
    assert labels[-5:] == ["2.resid", "logits", "a", "b", "c"]


def test_hooks_of_one_layer_and_misplaced_logits_have_rows_of_their_own(tall: Circuit) -> None:
    values = {name: getattr(tall, name) for name in Circuit.model_fields}
    nodes = sorted((n.model_copy(update={"layer": 0}) for n in tall.nodes), key=lambda n: n.kind != "logit")
    one_layer = Circuit(**{**values, "nodes": tuple(nodes)})
    assert names(one_layer) == names(tall)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("The cats", "The cats"),
        (" cats", "␣cats"),
        ("  ", "␣␣"),
        ("a ", "a␣"),
        ("\n", r"\n"),
        ("\u200b", r"\u200b"),
        ("don't\u202e", r"don't\u202e"),
    ],
)
def test_tokens_show_what_they_consist_of(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_chips_of_a_cell_have_rooms_that_do_not_overlap(tall: Circuit) -> None:
    """Beside each other or, where there are many columns, above each other."""
    values = {name: getattr(tall, name) for name in Circuit.model_fields}
    chips = [n for n in tall.nodes if n.kind in ("embedding", "logit")]
    rest = chips[-1].model_copy(update={"id": "rest", "index": None, "label": "all other outputs"})
    wide = tuple(
        n.model_copy(update={"id": f"{n.id} {i}", "pos": 3 * i + n.pos}) for i in range(5) for n in [*chips, rest]
    )
    for circuit in (tall, Circuit(**{**values, "nodes": wide, "edges": (), "tokens": tuple("abc" * 5)})):
        boxes = []
        for element in of(circuit, "node"):
            data = element["data"]
            assert ("room" in data) == (circuit.node(data["node"]).kind in ("embedding", "logit"))
            if "room" in data:
                x, y, w, h = (data[name] for name in ("x", "y", "room", "high"))
                boxes.append((x - w / 2, x + w / 2, y - h / 2, y + h / 2))
        assert all(-1e-9 < left < right < 1 + 1e-9 and 0 < top < bottom < 1 for left, right, top, bottom in boxes)
        for one, other in combinations(boxes, 2):
            beside = one[1] < other[0] + 1e-9 or other[1] < one[0] + 1e-9
            assert beside or one[3] < other[2] or other[3] < one[2]


def test_an_empty_circuit_can_be_drawn(cats: Circuit) -> None:
    bare = cats.prune(max_nodes=0)
    assert [e["data"]["label"] for e in of(bare, "node")] == ["run", "runs"]
    values = {name: getattr(cats, name) for name in Circuit.model_fields}
    assert elements(Circuit(**{**values, "nodes": (), "edges": ()})) == []
    empty = Circuit(**{**values, "nodes": (), "edges": ()})
    gap = {"title": "Without nodes: The cats", "x": 1.0}
    assert axes(empty, place_nodes(empty)) == {"rows": [], "columns": [], "gaps": [gap]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_what_it_stands_on(scheme: str) -> None:
    """WCAG contrast of at least 4.5 for every label on its ground, 3 for lines."""

    def contrast(*colours: str) -> float:
        channels = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]
        bright, dim = sorted(map(luminance, channels), reverse=True)
        return (bright + 0.05) / (dim + 0.05)

    c = PALETTES[scheme]
    for ground in ("ground", "raised", "positive-fill", "negative-fill", "error", "input", "logit"):
        assert contrast(c["text"], c[ground]) >= 4.5, ground
    for line in ("positive", "negative", "focus", "pin"):
        assert contrast(c[line], c["raised"]) >= 3, line
    assert contrast(c["faint"], c["raised"]) >= 4.5
    assert len(stylesheet(scheme)) > 10


def test_the_page_has_every_colour_of_the_palette_and_no_other() -> None:
    """A variable that the page's CSS or script uses is in the palette."""
    assets = Path(circuitlens.__file__).parent / "viewer" / "assets"
    known = set(re.findall(r"--page-[a-z-]+(?=:)", css_variables()))
    assert known == {f"--page-{name}" for name in COLOURS}
    assert set(re.findall(r"--page-[a-z-]+\b", (assets / "page.css").read_text())) <= known
    for file in (*assets.glob("*.js"), *assets.glob("*.css")):
        assert not re.search(r"#[0-9a-fA-F]{6}\b", file.read_text()), file.name


def names(circuit: Circuit) -> list[str]:
    along = axes(circuit, place_nodes(circuit))
    return [entry["label"] for what in ("rows", "columns") for entry in along[what]]


def test_axes_stand_where_their_nodes_do(tall: Circuit) -> None:
    along = axes(tall, place_nodes(tall))
    for element in of(tall, "node"):
        x, y = element["data"]["x"], element["data"]["y"]
        node = tall.node(element["data"]["node"])
        (column,) = [c for c in along["columns"] if abs(x - c["x"]) < c["width"] / 2]
        (row,) = [r for r in along["rows"] if abs(y - r["y"]) < r["high"] / 2]
        assert column["pos"] == node.pos or node.is_logit  # outputs have their row's width
        assert node.hook in row["label"]


def test_crowded_nodes_stand_apart_and_leave_a_gap_between_columns(tall: Circuit) -> None:
    spans = {column["pos"]: (column["x"], column["width"]) for column in axes(tall, place_nodes(tall))["columns"]}
    at = {one["data"]["node"]: one["data"] for one in elements(tall) if "crowded" in one["classes"]}
    assert len(at) > 300
    for node in tall.nodes:
        if node.id in at:
            x, width = spans[node.pos]
            assert abs(at[node.id]["x"] - x) <= 0.45 * width
    places = sorted((data["y"], data["x"]) for data in at.values())
    apart = [b[1] - a[1] for a, b in pairwise(places) if a[0] == b[0]]
    assert min(apart) > 0.01  # 8 px of a pane 800 wide, the least that a node measures


def test_ranks_follow_attribution_and_logits_have_none(tall: Circuit) -> None:
    ranks = {e["data"]["node"]: e["data"]["rank"] for e in of(tall, "node")}
    ranked = sorted(inner(tall), key=lambda n: ranks[n.id])
    assert [ranks[n.id] for n in ranked] == list(range(len(ranked)))
    strengths = [abs(n.attribution) for n in ranked]
    assert strengths == sorted(strengths, reverse=True)
    assert {ranks[n.id] for n in tall.nodes if n.kind == "logit"} == {-1}


def test_a_smaller_circuit_stands_in_a_larger_ones_layout(tall: Circuit) -> None:
    small = tall.prune(max_nodes=40)
    places = {e["data"]["id"]: (e["data"]["x"], e["data"]["y"]) for e in of(tall, "node")}
    drawn = elements(small, layout_of=tall, scale=(2 * largest_of(tall)[0], largest_of(tall)[1]))
    nodes = [e["data"] for e in drawn if e["data"]["id"].startswith("node ")]
    assert {n["node"] for n in nodes} == {n.id for n in small.nodes}
    assert all((n["x"], n["y"]) == places[n["id"]] for n in nodes)
    assert max(n["size"] for n in nodes if n["rank"] >= 0) == pytest.approx(0.5**0.5)


def test_what_a_browser_can_draw_is_left_whole(tall: Circuit) -> None:
    assert within_budget(tall, nodes=381, edges=7394) == (tall, "")
    drawn, told = within_budget(tall, nodes=381, edges=2000)
    assert len(drawn.edges) == 2000
    assert told == "Drawn are the strongest 2\u202f000 of 7\u202f394 edges; an export has all."
    drawn, told = within_budget(tall, nodes=100, edges=50)
    assert told == "Drawn are the strongest 100 of 381 nodes and 50 of 7\u202f394 edges; an export has all."
    assert len([n for n in drawn.nodes if n.kind != "logit"]) == 100
    assert [n for n in drawn.nodes if n.kind == "logit"] == [n for n in tall.nodes if n.kind == "logit"]


@given(st.data())
def test_edges_between_groups_are_sums(cats: Circuit, data: st.DataObject) -> None:
    ids = [n.id for n in cats.nodes]
    part = data.draw(st.lists(st.sampled_from(["out", "pin", "a", "b"]), min_size=len(ids), max_size=len(ids)))
    pins = [i for i, p in zip(ids, part, strict=True) if p == "pin"]
    groups = [(name, [i for i, p in zip(ids, part, strict=True) if p == name]) for name in ("a", "b")]
    # Outputs stand there also where they are not pinned.
    drawn_too = {n.id for n in cats.nodes if n.is_logit} if set(part) != {"out"} else set()
    of_node = {
        i: f"sub group {p}" if p in ("a", "b") else f"sub node {i}"
        for i, p in zip(ids, part, strict=True)
        if p != "out" or i in drawn_too
    }
    expected: dict[tuple[str, str], float] = defaultdict(float)
    for edge in cats.edges:
        ends = of_node.get(edge.source), of_node.get(edge.target)
        if ends[0] and ends[1] and ends[0] != ends[1]:
            expected[ends[0], ends[1]] += edge.weight
    drawn = [e["data"] for e in subgraph(cats, pins, groups, {})]
    assert {(e["source"], e["target"]): e["weight"] for e in drawn if "weight" in e} == {
        ends: weight for ends, weight in expected.items() if weight
    }
    shown = [e for e in drawn if "weight" not in e]
    assert {e["id"] for e in shown} == set(of_node.values())
    assert len({(e["x"], e["y"]) for e in shown}) == len(shown)


def test_a_subgraph_ignores_what_is_not_there(cats: Circuit) -> None:
    assert subgraph(cats, ["nothing"], [("empty", ["nothing"])], {}) == []
    own = subgraph(cats, ["sae:0:4"], [], {"hook_sae/4": "plural verb"})
    assert [e["data"]["label"] for e in own if "label" in e["data"]] == ["plural verb", "runs", "run"]


def test_a_hundred_thousand_edges_are_cut_down(tall: Circuit) -> None:
    nodes = tuple(
        tall.nodes[0].model_copy(update={"id": f"{k}", "layer": k // 50, "hook": f"h{k // 50}", "attribution": k / 700})
        for k in range(700)
    )
    pairs = ((a, b) for a in range(700) for b in range(700) if a // 50 < b // 50)
    edges = tuple(
        Edge(source=f"{a}", target=f"{b}", weight=(a * b % 997) / 7)
        for (a, b), _ in zip(pairs, range(100_000), strict=False)
    )
    values = {name: getattr(tall, name) for name in Circuit.model_fields}
    drawn, told = within_budget(Circuit(**{**values, "nodes": nodes, "edges": edges}))
    assert told == "Drawn are the strongest 5\u202f000 of 100\u202f000 edges; an export has all."
    weakest = min(abs(edge.weight) for edge in drawn.edges)
    assert sum(abs(edge.weight) > weakest for edge in edges) <= 5000
