"""Work and faults in a real Chromium: the list of jobs in every tab, warnings, old numbers, a server that is gone."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.progress import ProgressCallback
from circuitlens.report.text import signed
from circuitlens.viewer import server
from circuitlens.viewer.app import create_app
from circuitlens.viewer.guard import Guard
from circuitlens.viewer.session import Session
from tests.browser import opened, place, settled, wait_drawn

pytestmark = pytest.mark.browser


@pytest.fixture
def session(cats: Circuit) -> Iterator[Session]:
    # A model of its own: the tests ask theirs at the same time, and one model serves one thread.
    made = Session([cats], adapters=[circuitlens.load("toy")])
    yield made
    made.close()


@pytest.fixture
def url(session: Session) -> Iterator[str]:
    app = create_app(session)
    viewer = server.Viewer(Guard(app.server, app.csp_hashes()), 0)
    yield viewer.url
    viewer.close()


@pytest.fixture
def other(page: Page, url: str) -> Iterator[Page]:
    """Another tab of the same browser."""
    other = page.context.new_page()
    other.goto(url)
    wait_drawn(other)
    yield other
    other.close()


def held(session: Session, title: str, then: Callable[[], int | None] = lambda: None) -> threading.Event:
    """A job that goes on until it is let go, and hears of its end when it next reports its progress."""
    go = threading.Event()

    def work(progress: ProgressCallback) -> int | None:
        while not go.wait(0.05):
            progress("holding on", 1, 4)
        return then()

    session.jobs.start(title, work)
    return go


# Jobs


def test_the_list_of_jobs_stands_in_every_tab_and_after_a_reload(page: Page, other: Page, session: Session) -> None:
    go = held(session, "the first")
    held(session, "the second")
    for one in (page, other):
        expect(one.locator(".job strong")).to_have_text(["the first", "the second"])
        expect(one.locator(".job .stage")).to_have_text(["holding on", "waiting"])
    page.reload()
    wait_drawn(page)
    expect(page.locator(".job strong")).to_have_text(["the first", "the second"])
    other.locator(".job", has_text="the second").get_by_role("button", name="Cancel").click()
    for one in (page, other):
        expect(one.locator(".job strong")).to_have_text(["the first"])
    page.get_by_role("button", name="Cancel").click()
    for one in (page, other):
        expect(one.locator(".job")).to_have_count(0)
    assert [job.state for job in session.jobs.all()] == ["cancelled", "cancelled"]
    go.set()


def test_a_circuit_is_there_in_every_tab_and_shown_where_it_was_asked_for(page: Page, other: Page) -> None:
    page.get_by_role("button", name="New circuit").click()
    page.locator("#examples button").first.click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("The cats")  # else the example may come after
    page.get_by_label("Prompt", exact=True).fill("The dogs")
    page.get_by_label("Corrupted prompt").fill("")
    page.get_by_role("button", name="Find the circuit").click()
    expect(page.locator("#circuit")).to_have_value(re.compile("The dogs"))
    other.locator("#circuit").click()
    expect(other.get_by_role("option")).to_have_count(2)
    other.keyboard.press("Escape")
    expect(other.locator("#circuit")).to_have_value(re.compile("The cats"))


def test_a_failure_and_a_warning_stay_until_they_are_dismissed_anywhere(
    page: Page, other: Page, session: Session
) -> None:
    """A warning is what an adapter logs while it works, here what it says of an answer without its space."""

    def warned(_: ProgressCallback) -> None:
        log = logging.getLogger("circuitlens_saelens.text")
        log.warning("The answer %r continues the prompt's last word; a new word is %r.", "run", " run")
        threading.Thread(target=log.warning, args=("of another thread",)).start()
        logging.getLogger("elsewhere").warning("of another library")
        log.info("said quietly")

    session.jobs.start("Find it", warned)
    session.find("toy", "The blorgs", "run")
    for one in (page, other):
        expect(one.locator(".job strong")).to_have_text(["Find it", "Find the circuit of “The blorgs”"])
        expect(one.locator(".job em:visible")).to_have_text(
            ["The answer 'run' continues the prompt's last word; a new word is ' run'."]
        )
        expect(one.locator(".job").last).to_contain_text("'blorgs' is not a noun")
    page.get_by_role("button", name="Dismiss").first.click()
    other.locator(".job", has_text="blorgs").get_by_role("button", name="Dismiss").click()
    for one in (page, other):
        expect(one.locator(".job")).to_have_count(0)


def test_axe_finds_nothing_serious_in_the_list_of_jobs(browser: Browser, url: str, session: Session) -> None:
    """Nor in what is told of a server that is gone."""
    session.jobs.start("Find it", lambda progress: logging.getLogger("circuitlens.discovery").warning("mind the gap"))
    session.find("toy", "The blorgs", "run")
    go = held(session, "Hold on")
    for scheme in ("light", "dark"):
        with opened(browser, url, color_scheme=scheme) as page:
            expect(page.locator(".job")).to_have_count(3)
            page.evaluate(
                "() => Object.assign(document.getElementById('trouble'), { textContent: 'Gone.', hidden: false })"
            )
            found = Axe().run(page).response["violations"]
            serious = [
                (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert (scheme, serious) == (scheme, [])
    go.set()


# Interventions


def test_old_numbers_are_dimmed_and_only_the_newest_question_waits(page: Page, session: Session, cats: Circuit) -> None:
    page.mouse.click(*place(page, "sae:0:4"))
    page.keyboard.press("o")
    expect(page.locator("#outcome dd").nth(2)).to_be_visible()
    page.get_by_role("combobox", name="What F5 is set to").select_option("Scaled")
    panel = page.locator("#outcome")
    expect(panel).to_have_attribute("aria-busy", "false")
    asked: list[Mapping[str, Any]] = []
    go, intervene = threading.Event(), session.intervene

    def slow(number: int, settings: Mapping[str, Any]) -> Any:
        asked.append(settings)
        assert go.wait(60)
        return intervene(number, settings)

    session.intervene = slow
    before = panel.inner_text()
    slider = page.get_by_role("slider", name="Factor of F5")
    slider.focus()
    for number in range(8):
        slider.press("ArrowRight")
        page.wait_for_timeout(90)  # longer than a hand rests between two questions
        assert panel.inner_text() == before
        assert panel.get_attribute("aria-busy") == "true", number
        assert float(panel.evaluate("one => getComputedStyle(one).opacity")) < 0.5
    factor = 2.4
    assert len(asked) == 1
    go.set()
    outcome = circuitlens.intervene(circuitlens.load("toy"), cats, {"sae:0:4": factor})
    expect(panel.locator("dd").nth(2)).to_have_text(signed(outcome.after))
    expect(panel).to_have_attribute("aria-busy", "false")
    assert asked == [{"sae:0:4": 2.05}, {"sae:0:4": pytest.approx(factor)}]
    session.intervene = intervene


# Faults


def test_what_was_not_foreseen_is_told_in_the_page(browser: Browser, url: str, session: Session) -> None:
    def broken(number: int, node_id: str) -> Any:
        raise ZeroDivisionError("oh")

    session.describe = broken
    with opened(browser, url) as page:
        page.mouse.click(*place(page, "sae:0:4"))
        expect(page.locator("#status .fault")).to_contain_text("not foreseen (ZeroDivisionError: oh)")
        expect(page.locator("#detail")).to_contain_text("SAE feature")


def test_a_refused_question_and_a_server_that_is_gone_are_told(browser: Browser, cats: Circuit) -> None:
    """With the sentence of the answer; it goes when there is an answer again."""
    viewer = server.start([cats])
    made = browser.new_context()  # Chromium itself writes of failed requests into the console
    page = made.new_page()
    page.goto(viewer.url)
    wait_drawn(page)

    def refuse(route: Route) -> None:
        route.fulfill(status=400, body="This can't be read.", content_type="text/plain")

    page.route(re.compile("_dash-update-component"), refuse)
    trouble = page.locator("#trouble")
    expect(trouble).to_have_text("This can't be read.")
    page.unroute_all()
    expect(trouble).to_be_hidden()
    viewer.close()
    expect(trouble).to_contain_text("server does not answer")
    port = int(viewer.url.split(":")[2].split("/")[0])
    again = server.start([cats], port=port)
    expect(trouble).to_contain_text("This page needs its token.")  # it is another page by now
    page.goto(again.url)
    wait_drawn(page)
    expect(trouble).to_be_hidden()
    again.close()
    made.close()


# What the page keeps


def test_steps_can_be_undone_after_saving_and_a_reload(browser: Browser, cats: Circuit, tmp_path: Path) -> None:
    """Also where the list of circuits comes anew meanwhile, with what the file has by then."""
    path = tmp_path / "cats.json"
    cats.save(path)
    session = Session([circuitlens.open(path)], [path], [circuitlens.load("toy")])
    app = create_app(session)
    viewer = server.Viewer(Guard(app.server, app.csp_hashes()), 0, session.close)
    with opened(browser, viewer.url) as page:
        for node in ("sae:0:4", "sae:0:5"):
            page.mouse.click(*place(page, node))
            page.keyboard.press("p")
            page.wait_for_timeout(900)  # so that each is a step of its own
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#status")).to_contain_text("Saved to cats.json.")
        session.jobs.start("nothing", lambda progress: None)
        pinned = "cy.nodes('.pinned').map(n => n.data('node')).sort()"
        page.wait_for_timeout(2500)  # the page hears of its end
        page.keyboard.press("Control+z")
        settled(page, pinned, ["sae:0:4"])
        page.keyboard.press("Control+Shift+z")
        settled(page, pinned, ["sae:0:4", "sae:0:5"])
        page.wait_for_timeout(400)
        page.reload()
        wait_drawn(page)
        settled(page, pinned, ["sae:0:4", "sae:0:5"])
        page.keyboard.press("Control+z")
        settled(page, pinned, ["sae:0:4"])
        page.keyboard.press("Control+z")
        settled(page, pinned, [])
        page.wait_for_timeout(400)
        page.reload()
        wait_drawn(page)
        settled(page, pinned, [])
        page.keyboard.press("Control+Shift+z")
        settled(page, pinned, ["sae:0:4"])
    viewer.close()


def test_steps_of_an_older_page_can_still_be_undone(page: Page) -> None:
    """What was stored before steps were stored whole, by the address."""
    steps = {"at": "", "past": [{"by": {"0": {"pins": ["sae:0:4"]}}}], "future": []}
    # As the page finds it when it is loaded: what it stores of itself as it is left comes before.
    page.add_init_script(f"sessionStorage.setItem('circuitlens-steps', {json.dumps(json.dumps(steps))})")
    page.reload()
    wait_drawn(page)
    page.get_by_role("button", name="Undo").click()
    settled(page, "cy.nodes('.pinned').map(n => n.data('node'))", ["sae:0:4"])


@pytest.mark.parametrize("odd", ["constructor", "__proto__", "toString"])
def test_a_node_may_have_any_id(browser: Browser, cats: Circuit, toy: Adapter, odd: str) -> None:
    """Also one that every object of a script answers to: it is focused, labelled, pinned, set, and in the table."""
    text = cats.to_json().replace('"sae:0:4"', f'"{odd}"')
    data = json.loads(text)
    data.pop("digest", None)
    circuit = cats.model_validate_json(json.dumps(data))
    viewer = server.start([circuit])
    with opened(browser, viewer.url) as page:
        page.mouse.click(*place(page, odd))
        expect(page.locator("#node-name")).to_have_text("F5")
        expect(page.get_by_label("Your label")).to_have_value("")
        page.keyboard.press("p")
        page.keyboard.press("o")
        expect(page.locator("#settings .link")).to_have_text("F5")
        settled(page, "cy.nodes('.intervened').map(n => n.data('node'))", [odd])
        page.get_by_role("tab", name="Node").click()
        page.get_by_label("Your label").fill("odd one")
        page.locator("#search").focus()
        expect(page.locator("#node-name")).to_have_text("odd one")
        page.wait_for_function("() => decodeURIComponent(location.hash).includes('odd one')")
        page.reload()
        wait_drawn(page)
        expect(page.locator("#node-name")).to_have_text("odd one")
        settled(page, "cy.nodes('.pinned').map(n => n.style('label'))", ["odd one"])
        page.locator("#tools").get_by_text("Table", exact=True).click()
        expect(page.locator("#node-table .ag-center-cols-container .ag-row")).to_have_count(len(circuit.nodes))
        expect(page.locator("#node-table")).to_contain_text("odd one")
    viewer.close()
