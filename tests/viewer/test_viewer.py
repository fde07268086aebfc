"""The viewer without a browser: what the page says, and what the server answers."""

from __future__ import annotations

import re
import sys
import threading
import urllib.error
import urllib.request

import pytest

import circuitlens
from circuitlens.circuit import Circuit, full_name
from circuitlens.errors import ViewerError
from circuitlens.report.text import percent
from circuitlens.viewer import server
from circuitlens.viewer.app import create_app
from circuitlens.viewer.panels.circuit import circuit_panel, names
from circuitlens.viewer.panels.node import node_panel
from circuitlens.viewer.session import Session
from tests.pages import at
from tests.tiny_transformer import TinyTransformer


@pytest.fixture(scope="module")
def tall() -> Circuit:
    """Three positions, eleven rows, hundreds of nodes."""
    return circuitlens.find(TinyTransformer("components"), "a b c", "d", "e", "a b f", method="gradient")


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
    frame = viewer._repr_html_().split(">")[0]
    assert f'data-circuitlens="{viewer.url}"' in frame
    assert " src=" not in frame  # it is given its address by the script, once
    viewer.close()
    with pytest.raises(urllib.error.URLError):
        get(viewer.url)
    assert not [t for t in threading.enumerate() if t.name == "circuitlens-viewer"]


def test_a_foreign_host_name_is_refused(cats: Circuit) -> None:
    viewer = server.start([cats])
    try:
        assert get(viewer.url, Host="localhost") == 200
        assert get(viewer.url, Host="evil.example") == 400
        assert get(at(viewer.url, "_dash-layout"), Host="evil.example") == 400
        assert get(at(viewer.url, "assets/../app.py")) == 404
        assert get(at(viewer.url, "assets/%2e%2e/app.py")) == 404
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
        assert "graphs.js" in page
        assert re.findall(r"""(?:https?:)?//[^"'\s<>]+""", page) == []
    finally:
        viewer.close()


def test_it_offers_no_tools_to_other_programs(cats: Circuit) -> None:
    rules = [rule.rule for rule in create_app(Session([cats])).server.url_map.iter_rules()]
    assert not [rule for rule in rules if "mcp" in rule]


def test_two_pages_at_once_keep_their_circuits(cat: Circuit, cats: Circuit) -> None:
    one, two = server.start([cat]), server.start([cats])
    try:
        layouts = [urllib.request.urlopen(at(v.url, "_dash-layout")).read().decode() for v in (one, two)]
        assert "The cat \\u2192 runs" in layouts[0] or "The cat → runs" in layouts[0]
        assert "The cats" in layouts[1]
        assert "The cats" not in layouts[0]
    finally:
        one.close()
        two.close()


def test_the_page_says_how_much_of_what_was_found_is_there(tall: Circuit) -> None:
    """In the sentences that the command line prints as well."""
    assert "383 nodes, 7394 edges" in str(circuit_panel(tall))
    some = tall.prune(max_nodes=60, max_edges=100)
    kept = sum(abs(n.attribution) for n in some.nodes if not n.is_logit)
    share = kept / sum(abs(n.attribution) for n in tall.nodes if not n.is_logit)
    told = f"62 nodes, 100 edges, the strongest of 381 and 7394 ({share:.0%} of the nodes' |attribution|)"
    assert told in str(circuit_panel(some))
    assert "the strongest of" not in str(circuit_panel(some.model_copy(update={"found": None})))


def test_the_page_says_how_a_circuit_was_made(tall: Circuit) -> None:
    about = str(circuit_panel(tall))
    assert f"{tall.metric} = +1.277" in about
    assert "scales held" not in about
    assert "adapter tiny'" in about
    about = str(circuit_panel(tall.model_copy(update={"frozen": True, "options": {"model": "m", "layers": 3}})))
    assert "attention patterns and layer-norm scales held" in about
    assert "adapter tiny (model=m, layers=3)" in about


def test_edges_are_listed_by_sign_and_the_weakest_are_counted(tall: Circuit) -> None:
    node = max(tall.nodes, key=lambda n: len(tall.in_edges(n.id)))
    ways = tall.in_edges(node.id), tall.out_edges(node.id)
    parts = [[e for e in way if (e.weight >= 0) == positive] for way in ways for positive in (True, False)]
    detail = str(node_panel(tall, node, {}))
    assert detail.count("Tr(") == sum(min(20, len(part)) for part in parts)
    assert max(map(len, parts)) > 20
    for part in parts:
        assert (f"'and {len(part) - 20} weaker'" in detail) == (len(part) > 20)
    assert full_name(tall.node(ways[0][0].source), tall.positions) in detail


def test_circuits_of_one_name_are_numbered(cats: Circuit) -> None:
    assert names([cats, cats, cats]) == ["The cats → run", "The cats → run (2)", "The cats → run (3)"]


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


@pytest.mark.parametrize(
    ("probability", "text"), [(1.0, "100.0 %"), (0.0123, "1.2 %"), (0.0003, "0.03 %"), (1e-7, "< 0.01 %")]
)
def test_probabilities_read_as_people_say_them(probability: float, text: str) -> None:
    assert percent(probability) == text
