"""Groups in a real Chromium: suggested, measured, kept, and kept only with what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit, Group, suggest_groups
from circuitlens.report.answer import describe_ablation
from circuitlens.viewer import server
from tests.browser import opened

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def contrast(toy: Adapter) -> Circuit:
    return circuitlens.find(toy, "The cats", "run", "runs", "The cat")


@pytest.fixture
def url(contrast: Circuit, toy: Adapter) -> Iterator[str]:
    viewer = server.start([contrast], adapters=[toy])
    yield viewer.url
    viewer.close()


def told(toy: Adapter, circuit: Circuit, group: Group) -> str:
    """What the model does without a group, as it is measured here."""
    return "".join(describe_ablation(circuit, circuitlens.ablate(toy, circuit, group.nodes)))


def test_suggested_groups_are_measured_and_kept(page: Page, toy: Adapter, contrast: Circuit) -> None:
    first, *others = suggest_groups(contrast)
    page.get_by_role("tab", name="Pinned").click()
    page.get_by_role("button", name="Suggest groups").click()
    panel = page.locator("#suggested")
    rows = panel.locator(".group")
    expect(rows).to_have_count(1 + len(others))
    for number, group in enumerate((first, *others)):
        expect(rows.nth(number)).to_contain_text(told(toy, contrast, group))
        expect(rows.nth(number).locator("ul button")).to_have_text([contrast.node(n).label for n in group.nodes])
    rows.nth(0).get_by_role("button", name="Keep").click()
    expect(rows).to_have_count(len(others))
    expect(page.get_by_label("Name of the group")).to_have_value(first.name)
    expect(panel.get_by_role("heading", name="What your groups do")).to_be_visible()
    expect(panel).to_contain_text(told(toy, contrast, first))
    kept = page.evaluate("State.own().groups")
    assert kept == [{"name": first.name, "nodes": list(first.nodes)}]
    page.keyboard.press("Control+z")
    expect(rows).to_have_count(1 + len(others))
    assert page.evaluate("State.own().groups") == []


def test_a_group_of_ones_own_is_measured_beside_them(
    browser: Browser, url: str, toy: Adapter, contrast: Circuit
) -> None:
    """Also where it has the name of a suggested one; one whose nodes are not all there is not."""
    first = suggest_groups(contrast)[0]
    other = next(n.id for n in contrast.nodes if n.kind == "feature" and n.id not in first.nodes)
    mine = Group(name=first.name, nodes=(other,))
    groups = [mine.model_dump(), {"name": "elsewhere", "nodes": ["nowhere"]}]
    state = {"tab": "pinned", "by": {"0": {"groups": groups}}}
    with opened(browser, f"{url}#{quote(json.dumps(state))}") as page:
        panel = page.locator("#suggested")
        expect(page.locator("#pins .group")).to_have_count(2)
        expect(panel).to_have_text("")
        page.get_by_role("button", name="Suggest groups").click()
        own = panel.locator("ul").first.locator("li")
        expect(own.nth(0)).to_contain_text(told(toy, contrast, mine))
        expect(own.nth(1)).to_contain_text("What it does was not measured.")
        expect(panel.locator(".group").first).to_contain_text(told(toy, contrast, first))
        assert page.locator(".job").count() == 0


def test_without_a_model_none_is_kept(browser: Browser, contrast: Circuit) -> None:
    viewer = server.start([contrast])
    with opened(browser, viewer.url) as page:
        page.get_by_role("tab", name="Pinned").click()
        page.get_by_role("button", name="Suggest groups").click()
        panel = page.locator("#suggested")
        expect(panel.locator(".group")).to_have_count(len(suggest_groups(contrast)))
        expect(panel.locator(".group").first).to_contain_text("What it does was not measured.")
        keep = panel.get_by_role("button", name="Keep").first
        expect(keep).to_be_disabled()
        expect(keep).to_have_attribute("title", re.compile("load the model"))
        panel.get_by_role("button", name="Load the model").click()
        expect(page.get_by_role("tab", name="Intervene")).to_have_attribute("aria-selected", "true")
    viewer.close()
