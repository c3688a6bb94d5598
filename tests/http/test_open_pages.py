"""What an open page notices, however many migrations there are, and what it counts."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from async_migrations import lifecycle
from async_migrations.dashboard import watch
from async_migrations.lifecycle import Origin
from async_migrations.rest.permissions import OPERATORS
from async_migrations.states import Status
from bench.filled import fill

from .conftest import begin

ORIGIN = Origin("somebody")


@pytest.fixture
def operator_page(request):
    request.getfixturevalue("control" if "filled" in request.fixturenames else "db")
    user = User.objects.create_user("operator")
    user.groups.add(Group.objects.get(name=OPERATORS))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def filled(control):
    with connection.cursor() as cursor:
        fill(cursor, 1_300, 1)


class Open:
    """A page that is open."""

    def __init__(self, client: Client, path: str) -> None:
        self.client, self.path = client, path
        self.tag = client.get(path).headers["ETag"]

    def sees(self) -> str:
        """Poll; return the live part where it is another one, nothing where it is not."""
        answer = self.client.get(self.path, headers={"HX-Request": "true", "If-None-Match": self.tag})
        self.tag = answer.headers["ETag"]
        return answer.text if answer.status_code == 200 else ""


def test_it_works(operator_page, migration):
    row = migration()
    pages = [Open(operator_page, path) for path in ("/", "/migrations", "/migrations?page=7", f"/migrations/{row.pk}")]
    assert [page.sees() for page in pages] == [""] * 4
    lifecycle.run(row.pk, ORIGIN)
    assert all("STARTED" in page.sees() for page in pages)
    assert [page.sees() for page in pages] == [""] * 4


def test_a_filtered_list_notices_what_comes_in_and_what_leaves(operator_page, migration):
    row, other = migration(), migration()
    page = Open(operator_page, "/migrations?status=STARTED")
    lifecycle.cancel(other.pk, ORIGIN)
    assert page.sees() == ""
    lifecycle.run(row.pk, ORIGIN)
    assert row.name.rpartition(".")[2] in page.sees()
    begin(row.pk)
    assert "No migration is like this" in page.sees()


def test_the_overview_notices_each_thing_that_it_shows(operator_page, migration, settings):
    settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = 2
    page = Open(operator_page, "/")
    for status in Status:
        migration(status)
        assert page.sees(), status
    lifecycle.set_hold("", "a reason", ORIGIN)
    assert "a reason" in page.sees()
    lifecycle.lift_hold("", ORIGIN)
    assert "a reason" not in page.sees()


def test_a_detail_notices_an_event_that_changes_nothing_else(operator_page, migration):
    row = migration()
    page = Open(operator_page, f"/migrations/{row.pk}")
    lifecycle.remark(row.pk, "noted", ORIGIN)
    assert page.sees()


@pytest.mark.parametrize(
    "path", ["/", "/migrations", "/migrations?search=APP&ordering=-updated_at", "/gates?prefix=app."]
)
def test_each_heartbeat_is_seen(operator_page, migration, path):
    first, second = migration(Status.STARTED), migration(Status.STARTED, database="second")
    leases = [begin(first.pk), begin(second.pk)]
    page = Open(operator_page, path)
    for percent, lease in zip((12.5, 25.5, 50.5, 75.5), leases * 2, strict=True):
        lifecycle.renew(lease, progress_percent=percent)
        assert f"{percent} %" in page.sees()
        assert page.sees() == ""


def test_a_search_is_carried_out_when_something_has_happened_and_not_with_each_heartbeat(operator_page, migration):
    row, other = migration(Status.STARTED), migration()
    page, lease = Open(operator_page, "/migrations?search=APP"), begin(row.pk)
    page.sees()

    def searches() -> int:
        with CaptureQueriesContext(connection) as captured:
            page.sees()
        return sum("UPPER(" in query["sql"] for query in captured)

    assert searches() == 0
    lifecycle.renew(lease, progress_percent=12.5)
    assert searches() == 0
    lifecycle.run(other.pk, ORIGIN)
    assert searches() > 0


def test_the_next_one_takes_the_place_of_a_row_that_is_deleted_by_hand(operator_page, migration):
    rows = [migration() for _ in range(watch.LISTED + 2)]
    page = Open(operator_page, "/migrations?status=SCHEDULED")
    lifecycle.rows().filter(pk=rows[-watch.NEWEST - 5].pk).delete()  # Its event is not among the newest ones.
    assert re.findall(r'id="pick-(\d+)"', page.sees())[-1] == str(rows[1].pk)
    assert page.sees() == ""


def test_what_goes_without_a_trace_is_noticed_after_a_while(operator_page, migration, monkeypatch):
    rows = [migration() for _ in range(watch.LISTED + 1)]
    page = Open(operator_page, "/migrations?status=SCHEDULED")
    lifecycle.rows().filter(pk=rows[0].pk).delete()  # On the next page: nothing that is shown has changed.
    assert page.sees() == "", "and nothing has happened that would be looked for"
    monkeypatch.setattr(watch, "TRUE_FOR", 0.0)
    assert f"1–{watch.LISTED} of {watch.LISTED}<" in page.sees()


def test_a_line_that_was_made_for_somebody_else_shows_nobody_more_than_he_may(operator_page, browser, migration):
    row, viewer = migration(), browser()
    for _ in range(2):
        lines = [client.get("/migrations").text for client in (operator_page, viewer)]
        assert all(f'href="/migrations/{row.pk}"' in line for line in lines)
        assert [f'id="pick-{row.pk}"' in line for line in lines] == [True, False]


def test_a_permission_that_is_taken_away_is_gone_at_the_next_poll(operator_page, migration):
    page = Open(operator_page, "/")
    Group.objects.get(name=OPERATORS).user_set.clear()
    assert operator_page.get(page.path, headers={"HX-Request": "true", "If-None-Match": page.tag}).status_code == 403


def test_permissions_are_asked_of_other_backends_where_there_are_some(operator_page, migration, settings):
    settings.AUTHENTICATION_BACKENDS = [*settings.AUTHENTICATION_BACKENDS, "tests.http.test_open_pages.Everybody"]
    User.objects.get().groups.clear()
    assert operator_page.get("/").status_code == 200


class Everybody:
    """An authentication backend for which everybody may do everything."""

    def authenticate(self, request, **credentials):
        return None

    def get_user(self, pk):
        return None

    def has_perm(self, user, permission, of=None):
        return True


def test_very_many_are_counted_up_to_a_bound_and_pages_go_on_behind_it(filled, operator_page):
    counts = dict(re.findall(r'status=([^"]+)"><b>([\d,+]+)</b>', operator_page.get("/").text))
    assert (counts["FINISHED"], counts["ERROR"], counts["IN%20PROGRESS"]) == ("1,000+", "13", "0")

    def said(number: str) -> str:
        page = operator_page.get(f"/migrations?page={number}").text
        return "; ".join(re.findall(r'quiet small">([\d,]+–[\d,]+ of [\d,+]+)</span>', page))

    assert said("1") == said("one") == said("0") == "1–50 of 1,000+"
    assert said("21") == "1,001–1,050 of 1,050+"
    assert said("26") == said("999999999") == "1,251–1,300 of 1,300"
