"""A page that is open follows what happens, in place and without being in anybody's way."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from async_migrations import lifecycle
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from tests.browser import expect
from tests.http.conftest import begin
from tests.http.test_chart import curve, rows  # noqa: F401 - curve is a fixture

from .conftest import SOMEBODY
from .test_clicks import NEVER_RELOADED, becomes

pytestmark = pytest.mark.e2e

#: Has what waits for an answer give up after 100 ms.
SOON = "{ const after = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = () => after(100); }"
LONG = "\n".join(f"statement {number}" for number in range(60))


def news(page, path):
    """Wait until the page is sent something new within the block."""
    return page.expect_response(lambda answer: answer.status == 200 and answer.url.endswith(path))


def test_it_works(open_page, person, migration) -> None:
    row = migration()
    first = open_page(person("alice", "view"))
    pages = [first, first.context.new_page(), first.context.new_page()]
    for page, path in zip(pages, ("/", "/migrations", f"/migrations/{row.pk}"), strict=True):
        page.goto(path)
    lifecycle.run(row.pk, SOMEBODY)
    for page, place in zip(pages, (".card .status", "tbody .status", ".far-along .status"), strict=True):
        expect(page.locator(place)).to_contain_text("STARTED", timeout=5000)


def test_it_waits_for_a_press_but_not_for_one_that_never_ends(open_page, person, migration) -> None:
    row = migration()
    page = open_page(person("alice", "view"))
    page.goto(f"/migrations/{row.pk}")
    page.locator("h1").hover()
    page.mouse.down(button="right")  # The menu that opens keeps the release to itself.
    lifecycle.run(row.pk, SOMEBODY)
    becomes(page, "STARTED")
    page.mouse.up(button="right")

    page.mouse.down()
    with news(page, f"/{row.pk}"):
        begin(row.pk)
    becomes(page, "STARTED")
    page.evaluate("dispatchEvent(new Event('blur'))")  # as when another window comes to the front
    becomes(page, "IN PROGRESS")


def test_focus_and_scrolling_stay_on_what_has_no_id(open_page, person, migration) -> None:
    row = migration()
    lifecycle.remark(row.pk, "noted", SOMEBODY, said="before")
    lifecycle.remark(row.pk, "noted", SOMEBODY, said=LONG)
    event = row.events.last()
    page = open_page(person("alice", "view"))
    page.goto(f"/migrations/{row.pk}")
    details = page.locator(f"#event-{event.pk}")
    summary, facts = details.locator("summary"), details.locator("pre")
    summary.click()
    facts.evaluate("element => element.scrollTo(0, 40)")
    for number, element in enumerate((summary, facts), 1):
        element.focus()
        lifecycle.remark(row.pk, "noted", SOMEBODY, said=f"after {number}")
        expect(page.locator(".timeline")).to_contain_text(f"after {number}")
        expect(element).to_be_focused()
        assert facts.evaluate("element => element.scrollTop") == 40


def test_focus_stays_on_the_second_of_two_links_to_the_same(open_page, person, migration) -> None:
    twice, other = migration(Status.STARTED), migration()
    AsyncMigrationStatus.objects.filter(pk=twice.pk).update(requested_at=timezone.now() - timedelta(hours=1))
    page = open_page(person("alice", "view"))
    page.goto("/")
    links = page.get_by_role("link", name=twice.name.rpartition(".")[2])
    expect(links).to_have_count(2)
    links.last.focus()
    lifecycle.run(other.pk, SOMEBODY)
    expect(page.locator(".card")).to_have_count(3)
    expect(links.last).to_be_focused()


def test_only_what_is_gone_or_forbidden_loads_the_page_again(open_page, person, migration) -> None:
    path = f"/migrations/{migration().pk}"
    page = open_page(person("alice", "view"), expected=rf"status of 4(29|10) .*{path}\)$|^Response Status Error Code")
    page.goto(path)
    page.evaluate(NEVER_RELOADED)
    status = 429

    def answer(route) -> None:
        is_poll = "hx-request" in route.request.headers
        route.fulfill(status=status) if is_poll else route.continue_()

    page.route(f"**{path}", answer)
    expect(page.get_by_role("alert").filter(has_text="The service does not answer")).to_be_visible()
    assert page.evaluate("window.neverReloaded")
    with page.expect_event("load"):
        status = 410
    assert not page.evaluate("window.neverReloaded")
    page.unroute_all(behavior="wait")


def test_older_events_stay_below_those_that_come(open_page, person, migration) -> None:
    row = migration()
    for number in range(250):
        lifecycle.remark(row.pk, "noted", SOMEBODY, said=f"number {number}.")
    page = open_page(person("alice", "view"))
    page.goto(f"/migrations/{row.pk}")
    events, older = page.locator(".timeline > li"), page.get_by_role("link", name="Older events")
    expect(events).to_have_count(100)
    older.focus()
    page.keyboard.press("Enter")
    expect(events).to_have_count(200)
    expect(page.locator("#older > div").first).to_be_focused()
    with news(page, f"/{row.pk}?since={row.events.order_by('-id')[99].pk}"):
        lifecycle.remark(row.pk, "noted", SOMEBODY, said="something new.")
    expect(page.locator(".timeline").first).to_contain_text("something new.")
    expect(events).to_have_count(201)
    older.click()
    expect(older).to_be_hidden()
    expect(events).to_have_count(252)
    lifecycle.run(row.pk, SOMEBODY)
    becomes(page, "STARTED")
    expect(events).to_have_count(253)


def test_what_is_copied_is_announced(open_page, person, migration) -> None:
    row = migration(Status.IN_PROGRESS)
    page = open_page(person("alice", "view"), permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"/migrations/{row.pk}")
    for what, text in (("the id", str(row.pk)), ("the name of the worker", "worker-1"), ("the whole name", row.name)):
        page.get_by_role("button", name=f"Copy {what}").click()
        expect(page.locator("#announcer")).to_have_text("Copied.")
        assert page.evaluate("navigator.clipboard.readText()") == text


def test_exact_times_are_there_without_a_mouse(open_page, person, migration) -> None:
    row = migration()
    page = open_page(person("alice", "view"), timezone_id="Asia/Kathmandu")
    page.goto(f"/migrations/{row.pk}")
    time = page.locator("dd time").last
    expect(time).to_have_text(re.compile("ago|now"))
    page.get_by_role("button", name="Exact times").press("Enter")
    expect(time).to_have_text(re.compile(r"GMT\+5:45"))
    page.goto("/migrations")
    expect(page.get_by_role("button", name="Exact times", pressed=True)).to_be_visible()
    expect(page.locator("tbody time")).to_have_text(re.compile(r"GMT\+5:45"))


def test_the_chart_goes_on_after_an_answer_that_never_comes(open_page, person, curve) -> None:  # noqa: F811
    row = curve(rows(0, 0), rows(2, 2000), kind="backfill")
    page = open_page(person("alice", "view"))
    page.add_init_script(SOON)
    page.route("**/chart", lambda route: None, times=1)
    page.goto(f"/migrations/{row.pk}")
    expect(page.locator("#chart-plot canvas")).to_be_visible()


def test_a_browser_that_does_not_allow_to_copy(open_page, person, migration) -> None:
    path = f"/migrations/{migration().pk}"

    def forbidding(route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "permissions-policy": "clipboard-write=()"})

    page = open_page(person("alice", "view"), expected="permissions policy")
    page.route(f"**{path}", forbidding, times=1)
    page.goto(path)
    page.get_by_role("button", name="Copy the whole name").click()
    expect(page.locator("#announcer")).to_have_text(re.compile("not allow"))
