"""The viewer without a browser: elements, and what the server answers."""

from __future__ import annotations

import json
import re
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter

import pytest

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.errors import ViewerError
from circuitlens.viewer import server
from circuitlens.viewer.app import create_app
from circuitlens.viewer.elements import COLOURS, elements, stylesheet
from tests.helpers import luminance
from tests.tiny_transformer import TinyTransformer


@pytest.fixture(scope="module")
def tall() -> Circuit:
    """Three positions, ten layers, hundreds of nodes."""
    return circuitlens.find(TinyTransformer("components"), "a b c", "d", "e", "a b f")


def of(circuit: Circuit, prefix: str) -> list[dict]:
    return [element for element in elements(circuit) if element["data"]["id"].startswith(prefix + " ")]


def test_every_node_and_edge_is_drawn_once(cats: Circuit, tall: Circuit) -> None:
    for circuit in (cats, tall):
        assert {e["data"]["node"] for e in of(circuit, "node")} == {n.id for n in circuit.nodes}
        assert len(of(circuit, "edge")) == len(circuit.edges)
        ids = Counter(e["data"]["id"] for e in elements(circuit))
        assert max(ids.values()) == 1
        json.dumps(elements(circuit))


def test_layers_run_upwards_and_positions_to_the_right(tall: Circuit) -> None:
    place = {e["data"]["node"]: e["data"] for e in of(tall, "node")}
    for one in tall.nodes:
        assert 0 < place[one.id]["x"] < 1
        assert 0 < place[one.id]["y"] < 1
    by_layer = {n.layer: place[n.id]["y"] for n in tall.nodes}
    assert [y for _, y in sorted(by_layer.items())] == sorted(by_layer.values(), reverse=True)
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
        assert (e["classes"] == "positive") == signs[source, target]


def test_axes_are_hooks_and_tokens(cats: Circuit, tall: Circuit) -> None:
    labels = [e["data"]["label"] for e in of(cats, "axis")]
    assert labels == ["hook_input", "hook_hidden", "hook_sae", "logits", "The cats"]
    assert [e["data"]["label"] for e in of(tall, "axis")][-3:] == ["a", "b", "c"]


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


def test_circuits_of_one_name_are_numbered(cats: Circuit) -> None:
    from circuitlens.viewer.app import _names

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
