"""The options that an adapter declares, in the form for a new circuit in a real Chromium."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.viewer import server
from tests.browser import opened

pytestmark = pytest.mark.browser

OPTIONS = """
from circuitlens.options import AdapterOption

OPTIONS = (
    AdapterOption("width", "How wide.", type=int),
    AdapterOption("rate", "How fast.", type=float),
    AdapterOption("folder", "Where from."),
    AdapterOption("layers", "Which ones.", type=int, several=True),
    AdapterOption("dtype", "Numbers to compute in.", choices=("float32", "float64")),
    AdapterOption("use_bos", "Whether to begin with BOS.", type=bool),
)
"""
ADAPTER = """
import circuitlens
from circuitlens.adapter import Adapter

loaded = []


class Throwaway(Adapter):
    @classmethod
    def load(cls, **options):
        loaded.append(options)
        toy = circuitlens.load("toy")
        toy.name, toy.options = "throwaway", {}
        return toy
"""
ENTRY_POINTS = """
[circuitlens.adapters]
throwaway = throwaway_adapter:Throwaway
[circuitlens.options]
throwaway = throwaway_options:OPTIONS
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Installs an adapter with options of its own; what its `load` was given, call by call."""
    (tmp_path / "throwaway_options.py").write_text(OPTIONS)
    (tmp_path / "throwaway_adapter.py").write_text(ADAPTER)
    info = tmp_path / "throwaway-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: throwaway\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("throwaway_adapter", "throwaway_options"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return importlib.import_module("throwaway_adapter").loaded


@pytest.fixture
def page(browser: Browser, loaded: object, cats: Circuit, toy: Adapter) -> Iterator[Page]:
    viewer = server.start([cats], adapters=[toy])
    with opened(browser, viewer.url) as page:
        yield page
    viewer.close()


def fill(page: Page, prompt: str, **fields: str) -> None:
    """Fill the form for a circuit of the throw-away adapter, as far as it is not filled."""
    page.get_by_role("button", name="New circuit").click()
    if page.locator("#new-adapter").input_value() != "throwaway":
        page.locator("#new-adapter").click()
        page.get_by_role("option", name="throwaway").click()
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Answer", exact=True).fill("run")
    for label, text in fields.items():
        page.get_by_label(label, exact=True).fill(text)


def find(page: Page, prompt: str) -> None:
    page.get_by_role("button", name="Find the circuit").click()
    expect(page.locator("#circuit")).to_have_value(f"{prompt} → run")


def test_declared_options_are_fields_and_reach_load(page: Page, loaded: list[dict[str, Any]]) -> None:
    fill(page, "The dogs", Width="3", Rate="0.5", Folder="here", Layers="1, 2")
    for label, option in (("Dtype", "float64"), ("Use bos", "no")):
        page.get_by_role("textbox", name=label).click()
        page.get_by_role("option", name=option, exact=True).click()
    find(page, "The dogs")
    given = {"width": 3, "rate": 0.5, "folder": "here", "layers": [1, 2], "dtype": "float64", "use_bos": False}
    assert loaded == [given]
    # The same options are those of the model that is loaded, others are of a new one.
    fill(page, "The birds")
    find(page, "The birds")
    fill(page, "The cows", Width="4")
    find(page, "The cows")
    assert loaded == [given, {**given, "width": 4}]


def test_what_is_left_out_is_left_to_load(page: Page, loaded: list[dict[str, Any]]) -> None:
    fill(page, "The dogs")
    find(page, "The dogs")
    assert loaded == [{}]


def test_a_value_that_an_option_can_not_have_is_refused(page: Page, loaded: list[dict[str, Any]]) -> None:
    fill(page, "The dogs", Layers="1, x")
    page.get_by_role("button", name="Find the circuit").click()
    expect(page.locator("#new-fault")).to_contain_text("layers: 'x' is not a whole number.")
    assert loaded == []


def test_what_a_file_says_of_a_model_stands_beside_the_fields(browser: Browser, cats: Circuit, tmp_path: Path) -> None:
    """It is a claim: where nothing is typed the default is loaded, and nothing that the file names is made."""
    folder = tmp_path / "named"
    viewer = server.start([cats.model_copy(update={"options": {"cache": str(folder)}})])
    try:
        with opened(browser, viewer.url) as page:
            page.get_by_role("tab", name="Intervene").click()
            expect(page.locator(".claim")).to_have_count(2)
            expect(page.locator("#model-told")).to_contain_text(f"The file says '{folder}'")
            page.get_by_role("button", name="Load the model").click()
            expect(page.locator("#outcome")).to_contain_text("What the model answers")
            expect(page.locator(".claim")).to_have_count(0)
    finally:
        viewer.close()
    assert not folder.exists()
