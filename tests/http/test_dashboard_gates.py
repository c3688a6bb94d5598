"""The operators' page: what the gates say, and where to go next."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.lifecycle.gate import prefix_of_app
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from tests.db.conftest import book, project  # noqa: F401 - fixtures

from .conftest import begin, poll

pytestmark = pytest.mark.django_db(databases=["default", "second"])


def verdict(page):
    """Return what the gate says, and the id and the next step of each reason."""
    says = re.search(r'class="sheet verdict (\w+)"', page)
    return says and says[1], re.findall(r'<a href="/migrations/(\d+)" aria-label="[^"]+">([^<]+)</a>', page)


def standings(page):
    """Return of each package what it is asked by, what its gate says, and how many are FINISHED of how many."""
    lines = page.partition("<tbody>")[2].split("</tr>")[:-1]
    found = [
        re.findall(r'href="\?([^"]+)"|</span>(pass|pending|blocked|failed)<|small">(\d+ of \d+)<', line)
        for line in lines
    ]
    return [tuple("".join(match) for match in each) for each in found]


def test_it_works(browser, migration):
    done = migration(Status.FINISHED, name="shop.migrations.0002_a")
    failed = migration(Status.ERROR, name="shop.migrations.0003_b")
    client, path = browser("run"), "/gates?prefix=shop.&name=&app=&database="
    page = client.get(path).text
    assert verdict(page) == ("failed", [(str(failed.pk), "Open it and press “Run”")])
    assert "could not create unique index" in page
    assert done.name not in page
    assert "async-migrations gate --prefix shop." in page
    assert verdict(browser().get(path).text)[1] == [(str(failed.pk), "Open it")]
    lifecycle.run(failed.pk, Origin("somebody"))
    lifecycle.succeed(begin(failed.pk))
    assert verdict(client.get(path).text) == ("pass", [])


@pytest.mark.parametrize(
    ("status", "says", "step"),
    [
        (Status.SCHEDULED, "blocked", "Open it and press “Run”"),
        (Status.PAUSED, "blocked", "Open it and press “Go on”"),
        (Status.STARTED, "pending", "Open it"),
        (Status.IN_PROGRESS, "pending", "Open it"),
        (Status.CANCELLED, "failed", "Open it and press “Run”"),
        (Status.ROLLED_BACK, "failed", "Open it and press “Run”"),
    ],
)
def test_each_status_has_its_next_step(browser, migration, status, says, step):
    row = migration(status)
    assert verdict(browser("run").get("/gates", {"name": row.name}).text) == (says, [(str(row.pk), step)])


def test_it_says_what_the_api_says_to_the_same_address(browser, viewer, migration):
    for status in (Status.FINISHED, Status.ERROR, Status.SCHEDULED):
        migration(status, name=f"shop.migrations.{status.name}")
    asked = "app=shop&name=nowhere.migrations.0001&database=default"
    api = viewer.get(f"/api/async-migrations/gate?{asked}").json()
    page = browser().get(f"/gates?{asked}").text
    assert verdict(page)[0] == api["state"] == "failed"
    assert [str(reason["id"]) for reason in api["reasons"] if reason["id"]] == [pk for pk, _ in verdict(page)[1]]
    assert 'href="/migrations?search=nowhere.migrations.0001"' in page


def test_what_is_held_leads_to_the_hold(browser, migration):
    row = migration(Status.STARTED)
    lifecycle.set_hold("", "Black Friday", Origin("carol"))
    page = browser().get("/gates", {"name": row.name}).text
    assert (verdict(page)[0], 'href="/hold" aria-label' in page, "Black Friday" in page) == ("blocked", True, True)


def test_a_field_takes_several(browser, migration):
    one, two = migration(Status.FINISHED), migration()
    page = browser().get("/gates", {"name": f"{one.name}, {two.name}\n"}).text
    assert [pk for pk, _ in verdict(page)[1]] == [str(two.pk)]
    assert f'value="{one.name} {two.name}"' in page


def test_more_than_a_hundred_names_are_refused_in_words(browser):
    page = browser().get("/gates", {"name": " ".join(map(str, range(101)))}).text
    assert "These are 101; at most 100" in page


def test_without_a_question_each_package_has_a_line(browser, migration):
    module = prefix_of_app("bookshop")
    for number in range(3):
        migration(Status.FINISHED, name=f"{module}000{number}_a")
    migration(Status.FINISHED, name="shop.migrations.0001_a")
    late = migration(Status.STARTED, name="shop.migrations.0002_a", database="second")
    client = browser()
    expected = [("prefix=shop.migrations.", "pending", "1 of 2"), ("app=bookshop", "pass", "3 of 3")]
    assert standings(client.get("/gates").text) == expected
    assert standings(client.get("/gates?database=default").text)[0] == (
        *("database=default&amp;app=bookshop", "pass", "3 of 3"),
    )
    lifecycle.set_hold("second", "vacuum", Origin("bob"))
    assert standings(client.get("/gates").text)[0][1] == "blocked"
    lifecycle.pause(late.pk, Origin("bob"))
    assert "blocked" in standings(client.get("/gates").text)[0]


def test_an_empty_page_says_what_it_is_for(browser):
    client = browser()
    assert "manage.py migrate" in client.get("/gates").text
    assert "No migration is recorded on second" in client.get("/gates?database=second").text


def test_what_has_not_moved_is_not_counted_again(browser, migration):
    row = migration(Status.STARTED, name="shop.migrations.0001_a")
    client = browser()
    for path in ("/gates", f"/gates?name={row.name}"):
        tag = client.get(path).headers["ETag"]
        with CaptureQueriesContext(connection) as looked:
            assert poll(client, path, tag).status_code == 304
        assert not [query for query in looked if "SUBSTR" in query["sql"].upper()]
    begin(row.pk)
    tag = poll(client, "/gates", tag).headers["ETag"]
    AsyncMigrationStatus.objects.filter(pk=row.pk).update(updated_at="2099-01-01T00:00:00Z")  # A heartbeat.
    assert poll(client, "/gates", tag).status_code == 304
    migration(Status.FINISHED, name="shop.migrations.0002_a", database="second")
    news = poll(client, "/gates", tag)
    assert (news.status_code, "1 of 2" in news.text, "<html" in news.text) == (200, True, False)


def test_it_takes_as_many_queries_for_many_as_for_one(browser, migration):
    client = browser()
    counts = []
    for number in range(1, 40):
        migration(name=f"app_{number}.migrations.0001")
        if number in (1, 39):
            with CaptureQueriesContext(connection) as looked:
                client.get("/gates")
                client.get("/gates?prefix=app_")
            counts.append(len(looked))
    assert counts[0] == counts[1]


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_a_file_that_cannot_be_read_keeps_nobody_from_the_gates(browser, migration, request):
    files = request.getfixturevalue("project")
    row = migration(name=f"{files.package}.0002_a")
    files.file("0003_later", f"require_finished({row.name!r})")
    client = browser()
    assert "bookshop.0003_later" in client.get("/gates").text
    files.file("0003_later", "1 / 0")
    answer = client.get("/gates")
    assert (answer.status_code, "0 of 1" in answer.text, "0003_later" in answer.text) == (200, True, False)


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_files_that_require_what_is_not_finished_are_named(browser, migration, request):
    files = request.getfixturevalue("project")
    row = migration(name=f"{files.package}.0002_a")
    files.file("0003_later", f"require_finished({row.name!r}, 'nowhere.0001_x')")
    client = browser()
    page = client.get("/gates").text
    assert "bookshop.0003_later" in page
    assert f'href="?name={files.package}.0002_a&amp;name=nowhere.0001_x"' in page
    lifecycle.run(row.pk, Origin("somebody"))
    lifecycle.succeed(begin(row.pk))
    page = client.get("/gates").text.partition("bookshop.0003_later")[2]
    assert ("nowhere.0001_x</p>" in page, f"{row.name}</p>" in page) == (True, False)
    files.file("0003_later", f"require_finished({row.name!r})")
    assert "bookshop.0003_later" not in client.get("/gates").text
