"""The chart of the operators' page: what it is made of, what it costs, and that it is drawn."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from async_migrations.models import AsyncMigrationSample, AsyncMigrationStatus
from async_migrations.states import Status
from tests.browser import expect

from .conftest import poll, user

pytestmark = pytest.mark.django_db(databases=["default", "second"])


@pytest.fixture
def curve(migration):
    """A migration with a point for each dict, at so many seconds after the run began."""

    def make(*points, status=Status.IN_PROGRESS, **fields):
        row = migration(status, **fields)
        length = timedelta(seconds=max((point["at"] for point in points), default=0) + 1)
        AsyncMigrationStatus.objects.filter(pk=row.pk).update(started_at=row.started_at - length)
        row.refresh_from_db()
        for point in points:
            add(row, **point)
        return row

    return make


def add(row, at, **said):
    at = row.started_at + timedelta(seconds=at)
    AsyncMigrationSample.objects.create(migration=row, at=at, **{"attempt": 1, "unit": "rows", **said})


def rows(at, done, **said):
    return {"at": at, "done": done, "total": 9000, "batch_size": 100, **said}


def chart_of(client, row):
    answer = client.get(f"/migrations/{row.pk}/chart")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "private, no-store")
    return answer.json()


def test_it_works(browser, curve):
    waits = {"throttled": "lock_waiters"}
    points = (rows(0, 0), rows(2, 2000), rows(4, 4000), rows(6, 4000, **waits), rows(8, 4000, **waits), rows(10, 5000))
    row = curve(*points, rows(60, 5000, attempt=2), rows(62, 8000, attempt=2), kind="backfill")
    chart = chart_of(browser(), row)
    began = chart["at"][0]
    assert began == pytest.approx(row.started_at.timestamp(), abs=0.01)
    assert [round(at - began) for at in chart["at"]] == [0, 2, 4, 6, 8, 10, 35, 60, 62]
    assert chart["value"] == [1000, 1000, 500, 0, 250, 500, None, 1500, 1500], "a gap where nobody was at work"
    assert [(round(gap["from"] - began), round(gap["to"] - began)) for gap in chart["gaps"]] == [(10, 60)]
    assert (chart["shows"], chart["batch_size"][5:8], chart["done"][-1]) == ("rate", [100, None, 100], 8000)
    (band,) = chart["bands"]
    assert [round(band["from"] - began), round(band["to"] - began)] == [6, 10]
    assert band["label"] == "throttled by lock_waiters"
    assert [(round(at["at"] - began), at["attempt"]) for at in chart["attempts"]] == [(60, 2)]
    assert chart["said"] == "Rows a second over 1 min 2 s: between 0 and 1,500, throttled once, now 1,500."


def test_a_build_shows_how_far_it_was_and_its_phases(browser, curve):
    scan, load = {"phase": "scanning table", "unit": "blocks"}, {"phase": "loading tuples", "unit": "tuples"}
    row = curve(
        {"at": 0, "percent": 1.0, "done": 1, "total": 9, **scan},
        {"at": 3, "percent": 40.0, "done": 8, "total": 9, **scan},
        {"at": 6, "percent": 70.0, "done": 5, "total": 7, **load},
        status=Status.FINISHED,
    )
    chart = chart_of(browser(), row)
    assert (chart["shows"], chart["value"]) == ("percent", [1.0, 40.0, 70.0, 100.0])
    assert [(band["label"], round(band["to"] - band["from"])) for band in chart["bands"]] == [
        ("scanning table", 6),
        ("loading tuples", 1),
    ]
    assert chart["unit"][:3] == ["blocks", "blocks", "tuples"]
    assert chart["said"] == (
        "Progress over 7 s: from 1.0 to 100.0 percent. Phases: scanning table for 6 s, loading tuples for 1 s."
    )


def test_where_there_is_nothing_to_draw_it_says_why(browser, curve, migration):
    client = browser()
    assert chart_of(client, migration()) == {"at": [], "why": ""}
    assert chart_of(client, curve({"at": 0}, status=Status.ERROR)) == {"at": [], "why": ""}
    assert "two points" in chart_of(client, curve(rows(0, 0), kind="backfill"))["why"]
    silent = curve(*({"at": at, "unit": "statements"} for at in (0, 2, 4)), database="second")
    assert "does not say how far" in chart_of(client, silent)["why"]


def test_it_is_of_the_last_run_alone(browser, curve):
    row = curve(rows(-60, 0), rows(-50, 9000), rows(1, 10), rows(3, 30), kind="backfill")
    assert chart_of(browser(), row)["done"] == [10, 30]


def test_who_has_it_is_not_sent_it_again(browser, curve):
    row = curve(rows(0, 0), rows(2, 20), kind="backfill")
    client, path = browser(), f"/migrations/{row.pk}/chart"
    tag = client.get(path).headers["ETag"]
    with CaptureQueriesContext(connection) as made:
        same = poll(client, path, f"W/{tag}")
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    assert len([query for query in made if "async_migrations" in query["sql"]]) == 1
    AsyncMigrationStatus.objects.update(progress_done=21)
    assert poll(client, path, tag).status_code == 304, "what only a heartbeat changes"
    add(row, **rows(4, 40))
    assert poll(client, path, tag).json()["done"][-1] == 40


def test_many_points_take_as_many_queries_as_few(browser, curve):
    client = browser()

    def queries(path):
        with CaptureQueriesContext(connection) as made:
            assert client.get(path).status_code == 200
        return len(made)

    few = curve(rows(0, 0), rows(2, 20), kind="backfill")
    many = curve(*(rows(at, at * 10) for at in range(0, 400, 2)), kind="backfill", database="second")
    for path in ("/migrations/{}", "/migrations/{}/chart"):
        of_few, of_many = path.format(few.pk), path.format(many.pk)
        for each in (of_few, of_many):  # What is kept in the process, or until something happens, is made then.
            queries(each)
        assert queries(of_few) == queries(of_many) <= 9


def test_who_may_not_look(client, browser, curve):
    path = f"/migrations/{curve(rows(0, 0), rows(2, 20), kind='backfill').pk}/chart"
    assert client.get(path).headers["Location"] == f"/login?next={path}"
    assert poll(client, path).status_code == 204
    client.force_login(user())
    assert client.get(path).status_code == 403
    assert browser().get("/migrations/4711/chart").status_code == 404
    assert browser("run").post(path).status_code == 405


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_it_is_drawn_and_goes_on_by_itself(open_page, curve):
    waits = {"throttled": "lock_waiters"}
    row = curve(rows(0, 0), rows(2, 2000), rows(4, 4000, **waits), rows(6, 4000), kind="backfill")
    page = open_page(user("view"))
    page.goto(f"/migrations/{row.pk}")
    plot = page.locator("#chart-plot")
    expect(plot.locator("canvas")).to_be_visible()
    page.evaluate("() => { window.canvas = document.querySelector('#chart canvas') }")
    page.locator("#chart-points summary").click()
    expect(plot).to_have_attribute("aria-label", re.compile("now 0\\.$"))
    expect(page.locator("#chart-bands")).to_contain_text("throttled by lock_waiters")
    add(row, **rows(8, 8000))
    AsyncMigrationStatus.objects.update(updated_at=row.started_at, progress_done=8000)
    expect(plot).to_have_attribute("aria-label", re.compile("now 2,000\\.$"))
    assert page.evaluate("() => document.querySelector('#chart canvas') === window.canvas"), (
        "the page was not loaded again"
    )
    expect(page.locator("#chart-numbers tbody tr")).to_have_count(5)
    expect(page.locator("#chart-points")).to_have_attribute("open", "")
