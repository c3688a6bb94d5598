"""The operators' page: the filters of the list that its form has no field for."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import parse_qsl, urlencode

import pytest

from async_migrations import lifecycle
from async_migrations.states import Status

pytestmark = pytest.mark.django_db(databases=["default", "second"])


def sent_by_the_form(page):
    """Return what a browser sends when the form of the list is sent as it is shown."""
    form = page.partition('role="search"')[2].partition("</form>")[0]
    fields = re.findall(r'type="(?:search|text|hidden)" name="(\w+)" value="([^"]*)"', form)
    for name, options in re.findall(r'<select name="(\w+)">(.*?)</select>', form):
        fields += [(name, value) for value in re.findall(r'value="([^"]*)" selected', options)]
    return sorted((name, value) for name, value in fields if value)


def test_the_form_loses_nothing_that_the_address_says(browser, migration):
    wanted = [
        ("app", "tasks"), ("created_after", "2020-01-01T00:00:00Z"), ("database", "default"), ("ordering", "-name"),
        ("ordering", "id"), ("search", "old"), ("status", "ERROR"), ("status", "PAUSED"), ("utm_source", "mail"),
    ]  # fmt: skip
    client = browser()
    page = client.get(f"/migrations?page=2&{urlencode(wanted)}").text
    assert sent_by_the_form(page) == wanted
    chips = dict(re.findall(r'<a href="\?([^"]*)" aria-label="Take out ([^"]*)"', page))
    assert set(chips.values()) == {
        "App: tasks", "Created after: 2020-01-01T00:00:00Z", "Status: ERROR", "Status: PAUSED", "Utm source: mail",
    }  # fmt: skip
    assert page.count("there is no such filter") == 1
    without = next(unescape(query) for query, label in chips.items() if label == "Status: ERROR")
    assert sorted(parse_qsl(without)) == [pair for pair in wanted if pair != ("status", "ERROR")]
    assert "Take out" not in client.get("/migrations?search=old&status=ERROR&kind=sql&age=7").text


def test_the_list_has_what_has_rows_set_aside(browser, migration):
    row, _ = migration(Status.FINISHED, kind="backfill"), migration(Status.FINISHED)
    lifecycle.rows().filter(pk=row.pk).update(quarantined=3)
    page = browser().get("/migrations?status=FINISHED&set_aside=yes").text
    assert re.findall(r'href="/migrations/(\d+)"', page) == [str(row.pk)]
