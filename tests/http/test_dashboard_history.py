"""The operators' page: what happened to a migration, by attempts, and part by part."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from async_migrations import lifecycle
from async_migrations.dashboard import history
from async_migrations.lifecycle import Origin
from async_migrations.states import Status

from .conftest import BROKEN, begin, poll

pytestmark = pytest.mark.django_db(databases=["default", "second"])

ORIGIN = Origin("somebody")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(history, "SHOWN", 3)


def note(row, *said):
    for text in said:
        lifecycle.remark(row.pk, "noted", ORIGIN, said=text)


def notes(answer):
    return re.findall(r"said: (\w+)", answer.text)


def attempts(answer):
    headings = re.sub(r"<time.*?</time>", "TIME", "\n".join(re.findall(r"<h3>(.*?)</h3>", answer.text)))
    return re.sub(r"<[^>]+>", "", headings).splitlines()


def test_it_works(browser, migration):
    row = migration(Status.STARTED)
    lifecycle.release(begin(row.pk), error=BROKEN)
    lifecycle.fail(begin(row.pk), BROKEN)
    lifecycle.run(row.pk, ORIGIN)
    page = browser().get(f"/migrations/{row.pk}")
    assert attempts(page) == [
        "Attempt 2, worker-1, TIME, failed: unique_violation",
        "Attempt 1, worker-1, TIME, given back: unique_violation",
    ]
    first = page.text.index("Attempt 1")
    assert page.text.index("Asked to run") < page.text.index("Attempt 2"), "it belongs to no attempt"
    assert page.text.index("Attempt 2") < page.text.index("A worker began, attempt 2") < first
    assert first < page.text.index("A worker began, attempt 1") < page.text.rindex("Asked to run")
    assert page.text.count('<div class="attempt') == 2, "what was before stands beside them"


def test_a_heartbeat_has_no_event_read_again(browser, migration):
    row = migration(Status.STARTED)
    lease, client, path = begin(row.pk), browser(), f"/migrations/{row.pk}"

    def beat(percent):
        lifecycle.renew(lease, progress_percent=percent)
        with CaptureQueriesContext(connection) as asked:
            live = poll(client, path)
        assert f"<b>{percent} %</b>" in live.text
        return notes(live), sum('"async_migrations_asyncmigrationevent"."detail"' in each["sql"] for each in asked)

    note(row, "a")
    assert [beat(1.5), beat(2.5)] == [(["a"], 1), (["a"], 0)]
    note(row, "b")
    assert beat(3.5) == (["b", "a"], 1)


def test_older_events_are_asked_for(browser, migration, few):
    row = migration(Status.IN_PROGRESS)
    note(row, *"abcdefg")
    client = browser()
    page = client.get(f"/migrations/{row.pk}")
    assert (notes(page), attempts(page)) == (["g", "f", "e"], ["Attempt 1, worker-1, TIME"])
    found = []
    while further := re.search(r'href="([^"]+before=\d+)" hx-get="\1"', page.text):
        page = poll(client, further[1])
        assert "<html" not in page.text
        found.append(notes(page))
    assert found == [["d", "c", "b"], ["a"], []]
    assert "Recorded by migrate" in page.text
    alone = client.get(f"/migrations/{row.pk}/events")
    assert (notes(alone), "<html" in alone.text) == (["g", "f", "e"], True)
    assert client.get(f"/migrations/{row.pk}/events?before=x").status_code == 200
    assert client.get("/migrations/4711/events").status_code == 404


def test_the_live_part_reaches_down_to_the_older_ones(browser, migration, few, monkeypatch):
    row = migration()
    note(row, *"abcd")
    client, path = browser(), f"/migrations/{row.pk}"
    since = row.events.get(detail={"said": "b"}).pk
    note(row, *"ef")
    live = poll(client, f"{path}?since={since}")
    assert notes(live) == ["f", "e", "d", "c", "b"]
    assert re.search(r'<div id="older" hx-preserve="true">\s*</div>', live.text)
    monkeypatch.setattr(history, "MOST", 4)
    note(row, "g")
    live = poll(client, f"{path}?since={since}")
    assert (notes(live), "hx-preserve" in live.text.partition('id="older"')[2]) == (["g", "f", "e"], False)
    assert "Older events" in live.text
