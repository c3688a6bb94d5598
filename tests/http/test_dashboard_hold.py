"""The operators' page: setting a hold, and running a migration on terms."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationHold
from async_migrations.states import Status
from tests.browser import expect

from .conftest import asked, told

pytestmark = pytest.mark.django_db(databases=["default", "second"])

FORM = {"database": "", "reason": "Black Friday", "lasts": "", "unit": "hours"}


# --- the hold --------------------------------------------------------------------------------------------------------


def test_it_works(browser, migration):
    row = migration(Status.STARTED)
    client = browser("hold")
    assert 'href="/hold">Hold…' in client.get("/").text
    offered = re.findall(r'<option value="(\w*)"', client.get("/hold").text)
    assert offered == ["", "default", "second"]
    answer = client.post("/hold", {**FORM, "reason": " Black Friday "})
    assert answer.headers["Location"] == "/"
    assert told(answer) == ["Held: all databases. It lasts until somebody lifts it."]
    held = lifecycle.held("default")
    assert (held.reason, held.by, held.expires_at) == ("Black Friday", "user-view-hold", None)
    assert lifecycle.claim(row.pk, "worker-1") is None
    assert asked() == [("user-view-hold", "hold", "accepted", "")]


@pytest.mark.parametrize(("unit", "lasts"), [("minutes", timedelta(minutes=90)), ("hours", timedelta(hours=90))])
def test_one_database_for_a_time(browser, unit, lasts):
    before = timezone.now()
    answer = browser("hold").post("/hold", {**FORM, "database": "second", "lasts": "90", "unit": unit})
    assert "It ends by itself at" in told(answer)[0]
    held = lifecycle.held("second")
    assert before + lasts <= held.expires_at <= timezone.now() + lasts
    assert lifecycle.held("default") is None


def test_another_one_replaces_it_and_what_was_is_shown(browser):
    client = browser("hold")
    client.post("/hold", FORM)
    client.post("/hold", {**FORM, "reason": "an incident"})
    assert lifecycle.held("default").reason == "an incident"
    page = client.get("/hold").text
    assert page.index("an incident") < page.index("What was held before") < page.index("Black Friday")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"reason": " "}, "Say why"),
        ({"reason": "x" * 1001}, "at most 1000 characters"),
        ({"database": "nowhere"}, "nowhere is not one of the available choices"),
        ({"lasts": "0"}, "greater than or equal to 1"),
        ({"lasts": "soon"}, "This is not a whole number"),
        ({"unit": "years"}, "years is not one of the available choices"),
    ],
)
def test_nonsense_is_told_and_what_was_typed_is_kept(browser, wrong, said):
    answer = browser("hold").post("/hold", {**FORM, "lasts": "7", **wrong})
    assert (answer.status_code, said in answer.text) == (400, True)
    assert 'value="7"' in answer.text or "lasts" in wrong
    assert not AsyncMigrationHold.objects.exists()


def test_a_viewer_sees_who_holds_and_cannot_set_one(browser):
    client = browser()
    assert "Nothing is held" in client.get("/hold").text
    lifecycle.set_hold("second", "vacuum", Origin("bob"))
    page = client.get("/hold").text
    assert ("vacuum" in page, "<textarea" in page) == (True, False)
    answer = client.post("/hold", FORM)
    assert (answer.status_code, "hold_asyncmigrationstatus" in answer.text) == (403, True)
    assert asked() == [("user-view", "hold", "refused", "permission_denied")]
    assert lifecycle.held("default") is None


def lifts(client, page):
    """Press the button of the first hold on a page, and return what is said."""
    return told(client.post("/lift", {"hold": re.findall(r'name="hold" value="(\d+)"', page)[0]}))[-1]


@pytest.mark.parametrize(
    "path",
    ["/", "/migrations", "/hold", *(f"/migrations/{{}}{end}" for end in ("", "/preflight", "/set-aside", "/later",
     "/rollback"))],
)  # fmt: skip
def test_it_is_seen_on_every_page_and_lifted_there(browser, migration, path):
    row = migration(Status.ERROR)
    lifecycle.set_hold("", "Black Friday", Origin("carol"))
    client = browser("hold", "run", "rollback")
    page = client.get(path.format(row.pk)).text
    assert "Black Friday" in page
    assert lifts(client, page) == "Lifted: all databases. What was held goes on."
    assert lifecycle.held("default") is None


def test_it_is_seen_when_several_are_asked_for_and_on_no_page_of_another_database(browser, migration):
    row, other = migration(), migration(database="second")
    lifecycle.set_hold("second", "Black Friday", Origin("carol"))
    client = browser("run")
    assert "Black Friday" in client.post("/migrations/many", {"verb": "run", "pk": row.pk}).text
    assert "Black Friday" in client.get(f"/migrations/{other.pk}/later").text
    assert "Black Friday" not in client.get(f"/migrations/{row.pk}/later").text


def test_only_the_hold_that_was_seen_is_lifted(browser):
    lifecycle.set_hold("", "a test", Origin("alice"))
    client = browser("hold")
    page = client.get("/").text
    lifecycle.set_hold("", "the disk is full", Origin("bob"))
    said = lifts(client, page)
    assert said.startswith("Nothing was lifted: meanwhile another hold")
    assert "“the disk is full” by bob" in said
    assert lifecycle.held("default").reason == "the disk is full"
    lifecycle.lift_hold("", Origin("bob"))
    assert lifts(client, page) == "It was over already."
    assert asked() == [("user-view-hold", "lift", "unchanged", "")] * 2


def test_who_may_not_lift_and_what_is_no_hold(browser):
    held = lifecycle.set_hold("second", "vacuum", Origin("bob"))
    assert browser().post("/lift", {"hold": held.pk}).status_code == 403
    client = browser("hold")
    for nonsense in ({}, {"hold": "4711"}, {"hold": "9" * 19}, {"hold": "-1"}):
        assert client.post("/lift", nonsense).status_code == 404
    assert lifecycle.held("second") is not None


# --- run on terms ----------------------------------------------------------------------------------------------------


def later(client, row, **typed):
    return client.post(f"/migrations/{row.pk}/later", {"run_at": "", "priority": "", "max_attempts": "", **typed})


def test_it_is_run_later_with_the_terms_that_were_typed(browser, migration):
    row = migration()
    client = browser("run")
    assert f'href="/migrations/{row.pk}/later"' in client.get(f"/migrations/{row.pk}").text
    assert "<span data-zone>UTC</span>" in client.get(f"/migrations/{row.pk}/later").text
    # What a browser in Berlin says of a winter's night.
    typed = {"run_at": "2099-12-24T23:30", "zone": "-60", "priority": "7", "max_attempts": "2"}
    answer = later(client, row, **typed)
    assert "not before 2099-12-24T22:30:00+00:00" in told(answer)[0]
    row.refresh_from_db()
    assert (row.status, row.run_at) == (Status.STARTED, datetime(2099, 12, 24, 22, 30, tzinfo=UTC))
    assert (row.priority, row.max_attempts) == (7, 2)
    assert asked() == [("user-view-run", "run", "accepted", "")]


def test_what_is_left_empty_stays_as_it_is(browser, migration):
    row = migration()
    later(browser("run"), row)
    before = (row.priority, row.max_attempts, None)
    row.refresh_from_db()
    assert (row.status, row.priority, row.max_attempts, row.run_at) == (Status.STARTED, *before)


def test_without_script_the_time_is_in_utc(browser, migration):
    row = migration()
    later(browser("run"), row, run_at="2099-12-24T23:30")
    row.refresh_from_db()
    assert row.run_at == datetime(2099, 12, 24, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"run_at": "tomorrow"}, "This is not a time"),
        ({"run_at": "2099-12-24T23:30", "zone": "Berlin"}, "This is not a time"),
        ({"run_at": "9999-12-31T23:59", "zone": "60"}, "This is not a time"),
        ({"priority": "high"}, "This is not a whole number from -32,768"),
        ({"max_attempts": "0"}, "This is not a whole number from 1 to 1,000"),
    ],
)
def test_terms_that_cannot_be_are_told_and_nothing_is_asked_for(browser, migration, wrong, said):
    row = migration()
    answer = later(browser("run"), row, **wrong)
    assert (answer.status_code, said in answer.text, "Nothing was asked for yet" in answer.text) == (400, True, True)
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED
    assert asked() == [("user-view-run", "run", "refused", "validation_error")]


def test_who_may_not_run_may_not_later(browser, migration):
    row = migration()
    client = browser("cancel")
    assert "Run later" not in client.get(f"/migrations/{row.pk}").text
    assert client.get(f"/migrations/{row.pk}/later").status_code == 403
    assert later(client, row).status_code == 403
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


def test_what_stands_in_the_way_or_is_no_move_is_told(browser, migration):
    row = migration(sql_forwards="CREATE INDEX CONCURRENTLY nowhere_idx ON nowhere (id)")
    client = browser("run")
    assert later(client, row).headers["Location"] == f"/migrations/{row.pk}/preflight"
    assert "nothing to do" in told(later(client, migration(Status.FINISHED)))[-1]
    assert client.get("/migrations/4711/later").status_code == 404


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_a_browser_says_in_which_zone_a_time_is_meant(open_page, control, migration):
    row = migration()
    page = open_page(User.objects.create_superuser("alice"), timezone_id="Europe/Berlin")
    page.goto(f"/migrations/{row.pk}/later")
    expect(page.locator("[data-zone]")).to_have_text("Europe/Berlin")
    page.locator("[name=run_at]").fill("2090-07-24T23:30")
    page.locator(".part button").click()
    expect(page).to_have_url(re.compile(f"/migrations/{row.pk}$"))
    row.refresh_from_db()
    assert row.run_at == datetime(2090, 7, 24, 21, 30, tzinfo=UTC)
