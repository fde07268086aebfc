"""The figures of evidence: the numbers they carry, the files they become, and that foreign text stays text."""

from __future__ import annotations

import builtins
import os
import re
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog

from circuitlens.circuit.evidence import Curve, Effect, Evidence, Interval, Point
from circuitlens.errors import CircuitError
from circuitlens.report.plots import PIXELS, SIZE, effect_plot, faithfulness_plot, save_plot, style
from tests.browser import find_chromium

EXECUTABLE = find_chromium()
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script> & %{x}"
ESCAPED = "&lt;img src=x onerror=alert(1)&gt;&lt;/script&gt;&lt;script&gt;alert(2)&lt;/script&gt; &amp; %{x}"


def test_figures_have_no_colour_of_their_own() -> None:
    for path in Path(style.__file__).parent.glob("*.py"):
        assert (
            re.findall(r"#[0-9a-fA-F]{3,8}\b|\b(?:white|black|red|green|blue|grey|gray)\b", path.read_text()) == []
        ), path


def point(nodes: int, faithfulness: float, random: Interval | None = None) -> Point:
    return Point(
        nodes=nodes,
        faithfulness=faithfulness,
        errors_removed=faithfulness / 2,
        completeness=1 - faithfulness,
        random=random,
    )


def curve(prompts: str, *points: Point) -> Curve:
    return Curve(prompts=prompts, pairs=8, ablation="mean", whole=6.5, none=0.5, points=points, cpr=0.7, cmd=0.3)


def evidence(*curves: Curve, effects: list[tuple[str, float, float]] | None = None, core: int = 2) -> Evidence:
    return Evidence(
        verdict="weak",
        reasons=("held out is lower",),
        digest="0",
        created_by="tests",
        ablation="mean",
        core=tuple(f"node {index}" for index in range(core)),
        checks=(),
        curves=curves,
        effects=tuple(Effect(node=node, predicted=predicted, measured=real) for node, predicted, real in effects or []),
        seed=0,
        draws=20,
    )


def some() -> Evidence:
    found = curve("found on", point(0, 0.0), point(100, 1.0), point(1, 0.25, Interval(mean=0.5, low=0.4, high=0.6)))
    held = curve(
        "held out",
        point(1, 0.125, Interval(mean=0.0, low=-0.25, high=0.25)),
        point(10, 0.5, Interval(mean=0.125, low=-0.125, high=0.375)),
        point(100, 0.75),
    )
    return evidence(found, held, effects=[("a", 1.0, 2.0), ("b", -1.0, 0.5), ("c", 3.0, 4.0)])


def trace(figure: Any, name: str) -> Any:
    (found,) = [trace for trace in figure.data if trace.name == name]
    return found


def text(figure: Any) -> str:
    return figure.layout.title.text


def test_lines_are_the_faithfulness_by_nodes() -> None:
    figure = faithfulness_plot(some())
    solid, dashed = trace(figure, "found on"), trace(figure, "found on, errors removed")
    assert (list(solid.x), list(solid.y)) == ([1, 100], [0.25, 1.0])  # sorted, and 0 has no logarithm
    assert (list(dashed.x), list(dashed.y)) == ([1, 100], [0.125, 0.5])
    assert solid.line.dash is None
    assert dashed.line.dash == "dash"
    assert list(trace(figure, "held out").y) == [0.125, 0.5, 0.75]
    hues = {name: trace(figure, name).line.color for name in ("found on", "held out")}
    assert hues["found on"] == dashed.line.color != hues["held out"]
    assert "pairs" in solid.hovertext[0]
    assert text(figure) == "Verdict: weak"
    assert figure.layout.xaxis.type == "log"


def test_random_control_is_the_held_out_curves() -> None:
    figure = faithfulness_plot(some())
    mean = trace(figure, "random nodes, held out (95 % of draws)")
    band = trace(figure, "95 % of random draws")
    assert (list(mean.x), list(mean.y)) == ([1, 10], [0.0, 0.125])
    assert list(band.x) == [1, 10, 10, 1]
    assert list(band.y) == [0.25, 0.375, -0.125, -0.25]


def test_random_control_of_one_point_has_an_error_bar() -> None:
    figure = faithfulness_plot(evidence(curve("found on", point(3, 0.5, Interval(mean=0.5, low=0.25, high=0.625)))))
    bar = trace(figure, "random nodes, found on (95 % of draws)").error_y
    assert (bar.visible, *bar.array, *bar.arrayminus) == (True, 0.125, 0.25)


def test_core_and_the_levels_0_and_1_are_marked() -> None:
    shapes = faithfulness_plot(some()).layout.shapes
    assert {shape.y0 for shape in shapes if shape.y0 == shape.y1} == {0, 1}
    assert [shape.x0 for shape in shapes if shape.x0 == shape.x1] == [2]
    bare = faithfulness_plot(evidence(core=0))
    assert "no core" in text(bare)
    assert len(bare.layout.shapes) == 2


@pytest.mark.parametrize("wild", [-40.0, 40.0, 1e99])
def test_a_wild_value_flattens_nothing(wild: float) -> None:
    figure = faithfulness_plot(evidence(curve("found on", point(1, wild), point(10, 1.0))))
    low, high = figure.layout.yaxis.range
    assert high - low < 4
    assert list(trace(figure, "found on").y) == [wild, 1.0]
    marks = trace(figure, "beyond the axis")
    assert set(marks.y) == {low if wild < 0 else high}
    assert f"faithfulness {wild:.4g}" in marks.hovertext[0]
    assert "beyond the axis" in marks.hovertext[0]


def test_axis_holds_what_is_not_wild() -> None:
    low, high = faithfulness_plot(evidence(curve("found on", point(1, -0.5), point(10, 1.5)))).layout.yaxis.range
    assert low < -0.5
    assert 1.5 < high < 2


def test_effects_are_points_with_their_names() -> None:
    figure = effect_plot(some(), {"a": "F1"})
    agree, differ = trace(figure, "sign agrees (2)"), trace(figure, "sign differs (1)")
    assert (list(agree.x), list(agree.y)) == ([1.0, 3.0], [2.0, 4.0])
    assert (list(differ.x), list(differ.y)) == ([-1.0], [0.5])
    assert [*agree.hovertext, *differ.hovertext] == ["F1", "c", "b"]
    assert text(figure) == "Spearman +1.00, sign agrees for 2 of 3"
    identity = trace(figure, "measured as predicted")
    assert list(identity.x) == list(identity.y) == list(figure.layout.xaxis.range) == list(figure.layout.yaxis.range)


@pytest.mark.parametrize(
    ("effects", "why"),
    [
        ([], "2 nodes"),
        ([("a", 1.0, 1.0)], "2 nodes"),
        ([("a", 1.0, 1.0), ("b", 1.0, 2.0)], "every predicted"),
        ([("a", 1.0, 0.0), ("b", 2.0, 0.0)], "every measured"),
        ([("a", 0.0, 0.0), ("b", 0.0, 0.0)], "every predicted"),
    ],
)
def test_undefined_correlation_says_why(effects: list[tuple[str, float, float]], why: str) -> None:
    figure = effect_plot(evidence(effects=effects))
    assert text(figure).startswith("Spearman undefined")
    assert why in figure.layout.title.subtitle.text
    assert figure.layout.xaxis.range[0] < 0 < figure.layout.xaxis.range[1]


def test_effects_of_very_different_sizes_stay_apart() -> None:
    sizes = [10.0**-power for power in range(6)]
    figure = effect_plot(evidence(effects=[(f"{size}", size, -size) for size in sizes]))
    drawn = trace(figure, "sign differs (6)")
    low, high = figure.layout.xaxis.range
    gaps = [(left - right) / (high - low) for left, right in zip(drawn.x[:4], drawn.x[1:5], strict=True)]
    assert min(gaps) > 0.05
    assert [list(both) for both in drawn.customdata] == [[size, -size] for size in sizes]
    labels = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert labels["1"] == pytest.approx(drawn.x[0])
    assert labels["0.01"] == pytest.approx(drawn.x[2])
    assert (labels["−1"], labels["0"]) == (-labels["1"], 0)


def test_foreign_text_is_escaped() -> None:
    figure = faithfulness_plot(evidence(curve(HOSTILE, point(1, 0.5))))
    assert "<img" not in repr(figure.to_dict())
    assert list(trace(effect_plot(evidence(effects=[(HOSTILE, 1.0, 1.0)])), "sign agrees (1)").hovertext) == [ESCAPED]


def test_long_and_broken_names_are_cut() -> None:
    figure = effect_plot(evidence(effects=[("a", 1.0, 1.0), ("b", 1.0, 1.0)]), {"a": "x" * 500, "b": "\ud800"})
    long, broken = trace(figure, "sign agrees (2)").hovertext
    assert (len(long), long[-1]) == (80, "…")
    assert broken == "?"


def test_page_holds_all_it_needs(tmp_path: Path) -> None:
    save_plot(faithfulness_plot(some()), tmp_path / "curve.HTML")
    page = (tmp_path / "curve.HTML").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", page.split("<body>")[0])
    assert not re.findall(r"<script[^>]*\ssrc=[^>]*>", page)
    assert "Content-Security-Policy" in page


@pytest.mark.parametrize("name", ["curve.pdf", "curve", "curve.html.gz"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CircuitError, match=r"\.html, \.png, \.svg"):
        save_plot(faithfulness_plot(some()), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_a_missing_folder_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CircuitError, match=r"Can't write .*nowhere"):
        save_plot(faithfulness_plot(some()), tmp_path / "nowhere" / f"curve{suffix}")


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    (tmp_path / "curve.html").mkdir()
    with pytest.raises(CircuitError, match="Can't write"):
        save_plot(faithfulness_plot(some()), tmp_path / "curve.html")


def test_without_kaleido_a_picture_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "kaleido":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    figure = faithfulness_plot(some())
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(CircuitError, match=r"pip install 'circuitlens-sae\[plots\]'"):
        save_plot(figure, tmp_path / "curve.png")
    save_plot(figure, tmp_path / "curve.html")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.html"]


def test_without_a_browser_a_picture_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "chromium"))
    with pytest.raises(CircuitError, match=r"BROWSER_PATH names .*apt-get install chromium"):
        save_plot(faithfulness_plot(some()), tmp_path / "curve.svg")
    assert not list(tmp_path.iterdir())


def need_chromium() -> str:
    if EXECUTABLE is None:
        reason = (
            "no Chromium or Chrome is installed (Debian: apt-get install chromium), or name one in CIRCUITLENS_CHROMIUM"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return EXECUTABLE


@pytest.mark.browser
def test_a_png_has_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", need_chromium())
    save_plot(faithfulness_plot(some()), tmp_path / "curve.png")
    data = (tmp_path / "curve.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (SIZE[0] * PIXELS, SIZE[1] * PIXELS)


@pytest.mark.browser
def test_an_svg_shows_foreign_text_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", need_chromium())
    figure = faithfulness_plot(evidence(curve("<i>&amp;</i>", point(1, 0.5), point(10, 0.75))))
    figure.update_layout(width=480, height=400)
    save_plot(figure, tmp_path / "curve.svg")
    root = ElementTree.fromstring((tmp_path / "curve.svg").read_bytes())
    assert (root.tag, root.get("width"), root.get("height")) == ("{http://www.w3.org/2000/svg}svg", "480", "400")
    words = {"".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"<i>&amp;</i>", "Verdict: weak", "core: 2 nodes"} <= words


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["faithfulness", "effects"])
def test_the_page_opens_and_runs_no_foreign_text(browser: Browser, tmp_path: Path, kind: str) -> None:
    given = evidence(
        curve(HOSTILE, point(1, 0.25), point(10, 0.5), point(100, 0.75)),
        effects=[(HOSTILE, 1.0, 1.0), (HOSTILE, 0.5, 0.5), (HOSTILE, 0.0, 0.0)],
    )
    path = tmp_path / f"{HOSTILE[:20]}.html"
    save_plot(faithfulness_plot(given) if kind == "faithfulness" else effect_plot(given), path)
    page = browser.new_page(viewport={"width": 900, "height": 560})
    faults: list[str] = []
    asked: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        faults.append(dialog.message)
        dialog.dismiss()

    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", dismiss)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector(".scatterlayer .point")
    box = page.locator(".scatterlayer .point").last.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown = page.locator(".hovertext").first
    shown.wait_for()
    assert "<img src=x onerror=alert(1)>" in (shown.text_content() or "")
    assert page.locator(".js-plotly-plot img").count() == 0
    plot = page.locator(".js-plotly-plot").bounding_box()
    assert plot is not None
    assert (plot["width"], plot["height"]) == (900, 560)
    page.close()
    assert faults == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
