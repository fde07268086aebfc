"""The viewer without a browser: elements, and what the server answers."""

from __future__ import annotations

import json
import re
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from itertools import combinations, pairwise

import pytest

import circuitlens
from circuitlens.circuit import Circuit, full_name
from circuitlens.errors import ViewerError
from circuitlens.viewer import server
from circuitlens.viewer.app import _about, _detail, _names, _size, _stops, create_app
from circuitlens.viewer.elements import COLOURS, elements, stylesheet, visible
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
        assert max(place[n.id]["x"] for n in tall.nodes if n.pos == left) < min(
            place[n.id]["x"] for n in tall.nodes if n.pos == right
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
        assert e["classes"] == f"{'positive' if signs[source, target] else 'negative'} off"


def test_axes_are_hooks_and_tokens(cats: Circuit, tall: Circuit) -> None:
    labels = [e["data"]["label"] for e in of(cats, "axis")]
    assert labels == ["hook_input", "hook_hidden", "hook_sae", "logits", "The cats"]
    labels = [e["data"]["label"] for e in of(tall, "axis")]
    assert labels[:3] == ["embed · position", "0.attn_out", "0.mlp_out"]
    assert labels[-5:] == ["2.resid", "logits", "a", "b", "c"]


def test_hooks_of_one_layer_and_misplaced_logits_have_rows_of_their_own(tall: Circuit) -> None:
    fields = {name: getattr(tall, name) for name in Circuit.model_fields}
    nodes = sorted((n.model_copy(update={"layer": 0}) for n in tall.nodes), key=lambda n: n.kind != "logit")
    one_layer = Circuit(**{**fields, "nodes": tuple(nodes)})
    assert [e["data"]["label"] for e in of(one_layer, "axis")] == [e["data"]["label"] for e in of(tall, "axis")]


@pytest.mark.parametrize(
    ("token", "shown"),
    [("The cats", "The cats"), (" cats", "␣cats"), ("  ", "␣␣"), ("a ", "a␣"), ("\n", r"\n"), ("\u200b", r"\u200b")],
)
def test_tokens_show_what_they_consist_of(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_chips_of_a_cell_have_rooms_that_do_not_overlap(tall: Circuit) -> None:
    """Beside each other or, where there are many columns, above each other."""
    fields = {name: getattr(tall, name) for name in Circuit.model_fields}
    chips = [n for n in tall.nodes if n.kind in ("embedding", "logit")]
    rest = chips[-1].model_copy(update={"id": "rest", "index": None, "label": "all other outputs"})
    wide = tuple(
        n.model_copy(update={"id": f"{n.id} {i}", "pos": 3 * i + n.pos}) for i in range(5) for n in [*chips, rest]
    )
    for circuit in (tall, Circuit(**{**fields, "nodes": wide, "edges": (), "tokens": tuple("abc" * 5)})):
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
    assert [e["data"]["label"] for e in of(bare, "node")] == ["runs", "run"]
    fields = {name: getattr(cats, name) for name in Circuit.model_fields}
    assert elements(Circuit(**{**fields, "nodes": (), "edges": ()})) == []
    create_app([Circuit(**{**fields, "nodes": (), "edges": ()})])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_what_it_stands_on(scheme: str) -> None:
    """WCAG contrast of at least 4.5 for every label on its ground, 3 for lines."""

    def contrast(*colours: str) -> float:
        channels = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]
        bright, dim = sorted(map(luminance, channels), reverse=True)
        return (bright + 0.05) / (dim + 0.05)

    c = COLOURS[scheme]
    for ground in ("ground", "band", "positive fill", "negative fill", "error", "input", "logit"):
        assert contrast(c["text"], c[ground]) >= 4.5, ground
    for line in ("positive", "negative", "focus"):
        assert contrast(c[line], c["band"]) >= 3, line
    assert contrast(c["faint"], c["band"]) >= 4.5
    assert len(stylesheet(scheme)) > 10


# The server


def get(url: str, **headers: str) -> int:
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def test_it_serves_on_loopback_until_closed(cats: Circuit) -> None:
    viewer = server.start([cats])
    assert viewer.url.startswith("http://127.0.0.1:")
    assert viewer._server.host == "127.0.0.1"
    assert get(viewer.url) == 200
    assert viewer.url in viewer._repr_html_()
    viewer.close()
    with pytest.raises(urllib.error.URLError):
        get(viewer.url)
    assert not [t for t in threading.enumerate() if t.name == "circuitlens-viewer"]


def test_a_foreign_host_name_is_refused(cats: Circuit) -> None:
    viewer = server.start([cats])
    try:
        assert get(viewer.url, Host="localhost") == 200
        assert get(viewer.url, Host="evil.example") == 400
        assert get(viewer.url + "_dash-layout", Host="evil.example") == 400
        assert get(viewer.url + "assets/../app.py") == 404
        assert get(viewer.url + "assets/%2e%2e/app.py") == 404
    finally:
        viewer.close()


def test_debug_stays_off_whatever_the_environment_says(cats: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASH_DEBUG", "true")
    monkeypatch.setenv("HOST", "0.0.0.0")
    viewer = server.start([cats])
    try:
        page = urllib.request.urlopen(viewer.url).read().decode()
        assert viewer._server.host == "127.0.0.1"
        assert '"hot_reload"' not in page
        assert '"ui":false' in page
    finally:
        viewer.close()


def test_the_page_names_no_other_machine(cats: Circuit) -> None:
    viewer = server.start([cats])
    try:
        page = urllib.request.urlopen(viewer.url).read().decode()
        assert "circuit.js" in page
        assert re.findall(r"""(?:https?:)?//[^"'\s<>]+""", page) == []
    finally:
        viewer.close()


def test_it_offers_no_tools_to_other_programs(cats: Circuit) -> None:
    rules = [rule.rule for rule in create_app([cats]).server.url_map.iter_rules()]
    assert not [rule for rule in rules if "mcp" in rule]


def test_two_pages_at_once_keep_their_circuits(cat: Circuit, cats: Circuit) -> None:
    one, two = server.start([cat]), server.start([cats])
    try:
        layouts = [urllib.request.urlopen(v.url + "_dash-layout").read().decode() for v in (one, two)]
        assert "The cat \\u2192 runs" in layouts[0] or "The cat → runs" in layouts[0]
        assert "The cats" in layouts[1]
        assert "The cats" not in layouts[0]
    finally:
        one.close()
        two.close()


def test_the_slider_reaches_every_count() -> None:
    assert _stops(0) == [0]
    assert _stops(34) == list(range(35))
    stops = _stops(10_000)
    assert stops[:101] == list(range(101))
    assert stops[-1] == 10_000
    assert len(stops) < 250
    assert stops == sorted(set(stops))


def test_the_page_says_how_much_of_what_was_found_is_there(tall: Circuit) -> None:
    assert _size(tall) == "383 nodes, 7\u202f394 edges"
    some = tall.prune(max_nodes=60, max_edges=100)
    kept = sum(abs(n.attribution) for n in some.nodes if n.kind != "logit")
    share = 100 * kept / sum(abs(n.attribution) for n in tall.nodes if n.kind != "logit")
    assert _size(some) == f"60 of 381 nodes ({share:.0f} % of the attribution), 100 of 7\u202f394 edges"
    assert _size(some.model_copy(update={"found": None})) == "62 nodes, 100 edges"


def test_the_page_says_how_a_circuit_was_made(tall: Circuit) -> None:
    about = str(_about(tall))
    assert f"{tall.metric} = +1.277" in about
    assert "held constant" not in about
    assert "adapter tiny'" in about
    about = str(_about(tall.model_copy(update={"frozen": True, "options": {"model": "m", "layers": 3}})))
    assert "attention patterns and layer-norm scales held constant" in about
    assert "adapter tiny (model=m, layers=3)" in about


def test_edges_name_their_other_ends_and_the_weakest_are_counted(tall: Circuit) -> None:
    node = max(tall.nodes, key=lambda n: len(tall.in_edges(n.id)))
    incoming = tall.in_edges(node.id)
    assert len(incoming) > 40
    detail = str(_detail(tall, node))
    assert detail.count("Tr(") == 20 + min(20, len(tall.out_edges(node.id)))
    assert f"and {len(incoming) - 20} weaker" in detail
    assert full_name(tall.node(incoming[0].source), tall.tokens) in detail


def test_circuits_of_one_name_are_numbered(cats: Circuit) -> None:
    assert _names([cats, cats, cats]) == ["The cats → run", "The cats → run (2)", "The cats → run (3)"]


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(ViewerError, match="at least one"):
        server.start([])


@pytest.mark.parametrize("where", ["notebook", "interpreter"])
def test_view_returns_at_once_where_the_session_goes_on(
    cats: Circuit, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(server, "open_page", opened.append)
    if where == "notebook":
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    else:
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    viewer = cats.view()
    try:
        assert get(viewer.url) == 200
        assert opened == ([] if where == "notebook" else [viewer.url])
    finally:
        viewer.close()
