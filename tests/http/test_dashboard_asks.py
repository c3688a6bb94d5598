"""The operators' page: what each button asks for, of one migration and of several, and what is refused."""

from __future__ import annotations

import re
from html import escape, unescape
from urllib.parse import parse_qsl

import pytest
from django.http import QueryDict

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status

from .conftest import asked, buttons, told, user

pytestmark = pytest.mark.django_db(databases=["default", "second"])

RUN, CANCEL, ROLLBACK = ("run", "cancel", "rollback")


@pytest.mark.parametrize(
    ("status", "verb", "becomes"),
    [
        (Status.SCHEDULED, "run", Status.STARTED),
        (Status.STARTED, "pause", Status.PAUSED),
        (Status.PAUSED, "resume", Status.STARTED),
        (Status.SCHEDULED, "cancel", Status.CANCELLED),
    ],
)
def test_each_button_does_what_it_says(browser, migration, status, verb, becomes):
    row = migration(status)
    client = browser("run", "cancel", "rollback")
    assert verb in buttons(client.get(f"/migrations/{row.pk}"))
    answer = client.post(f"/migrations/{row.pk}/{verb}")
    row.refresh_from_db()
    assert row.status == becomes, told(answer)
    assert asked()[-1] == ("user-view-run-cancel-rollback", verb, "accepted", "")


@pytest.mark.parametrize("verb", ["run", "pause", "resume", "cancel", "rollback", "tune", "force"])
def test_what_is_not_allowed_is_refused_and_entered(browser, migration, verb):
    row = migration(Status.ERROR)
    answer = browser().post(f"/migrations/{row.pk}/{verb}", {"name": row.name})
    assert (answer.status_code, "lacks the permission" in answer.text) == (403, True)
    assert asked() == [("user-view", verb, "refused", "permission_denied")]


def test_a_form_of_somebody_else_is_refused(browser, migration):
    row = migration()
    assert browser("run", checks=True).post(f"/migrations/{row.pk}/run").status_code == 403
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


def test_what_is_not_there(browser):
    client = browser("run")
    assert client.get("/migrations/4711").status_code == 404
    assert client.post("/migrations/4711/run").status_code == 404
    assert client.get("/migrations/4711/dance").status_code == 404


def test_a_dangerous_one_asks_for_the_name(browser, migration):
    row = migration(Status.FINISHED, name="app.migrations.0007_drop_async")
    client, path = browser("rollback"), f"/migrations/{row.pk}/rollback"
    assert "SELECT</b> 2" in client.get(path).text
    assert "Type its name" in client.post(path).text
    wrong = client.post(path, {"name": "0008"})
    assert (wrong.status_code, "This is not its name" in wrong.text) == (400, True)
    assert AsyncMigrationStatus.objects.get().status == Status.FINISHED
    assert client.post(path, {"name": "0007_drop_async"}).status_code == 302
    row.refresh_from_db()
    assert (row.status, row.direction) == (Status.STARTED, "backwards")


def test_what_goes_on_is_cancelled_by_its_name_only(browser, migration):
    row = migration(Status.IN_PROGRESS)
    client, path = browser("cancel"), f"/migrations/{row.pk}/cancel"
    client.post(path)
    row.refresh_from_db()
    assert row.stop_requested is None
    client.post(path, {"name": row.name})
    row.refresh_from_db()
    assert row.stop_requested == "cancel"


def test_a_move_that_is_not_there_is_told(browser, migration):
    row = migration(Status.FINISHED)
    (said,) = told(browser("run").post(f"/migrations/{row.pk}/pause"))
    assert "FINISHED" in said
    assert asked()[-1][1:] == ("pause", "refused", "invalid_transition")


def test_what_stands_in_the_way_leads_to_the_findings(browser, migration):
    row = migration(sql_forwards="CREATE INDEX CONCURRENTLY nowhere_idx ON nowhere (id)")
    client = browser("run")
    answer = client.post(f"/migrations/{row.pk}/run")
    assert answer.headers["Location"] == f"/migrations/{row.pk}/preflight"
    page = client.get(answer.headers["Location"]).text
    assert ("nowhere" in page, "Run all the same" in page) == (True, False)
    client.force_login(user("view", "run", "force"))
    assert "Run all the same" in client.get(answer.headers["Location"]).text
    client.post(f"/migrations/{row.pk}/force", {"name": row.name})
    row.refresh_from_db()
    assert row.status == Status.STARTED


def test_a_backfill_is_tuned(browser, migration):
    row = migration(Status.STARTED)
    AsyncMigrationStatus.objects.update(kind="backfill")
    client, path = browser("tune"), f"/migrations/{row.pk}/tune"
    client.post(path, {"batch_size": "500", "batch_delay_seconds": "0.2", "priority": ""})
    row.refresh_from_db()
    assert row.tuning == {"batch_size": 500, "batch_delay_seconds": 0.2}
    assert 'name="batch_size" step="1" min="1" max="1000000" value="500"' in client.get(f"/migrations/{row.pk}").text
    client.post(path, {"batch_size": "", "batch_delay_seconds": "0.2"})
    wrong = client.post(path, {"batch_delay_seconds": "soon", "batch_size": "70"})
    assert (wrong.status_code, "This is not a number from 0 to 3,600" in wrong.text) == (400, True)
    assert ('value="soon"' in wrong.text, 'value="70"' in wrong.text) == (True, True), "what was typed"
    row.refresh_from_db()
    assert row.tuning == {"batch_delay_seconds": 0.2}


def test_tuning_takes_only_what_was_changed_on_the_page(browser, migration):
    row = migration(Status.STARTED, options={"batch_size": 5000})
    AsyncMigrationStatus.objects.update(kind="backfill")
    client, path = browser("tune"), f"/migrations/{row.pk}/tune"
    lifecycle.tune(row.pk, Origin("alice"), {"batch_size": 5000, "batch_delay_seconds": 0.2})
    page = client.get(f"/migrations/{row.pk}").text
    form = dict(re.findall(r'name="(shown-\w+)" value="([^"]*)"', page))
    form |= dict(re.findall(r'type="number" name="(\w+)"[^>]* value="([^"]*)"', page))
    assert (form["shown-batch_size"], form["batch_size"]) == ("5000", "5000")
    lifecycle.tune(row.pk, Origin("bob"), {"batch_size": 100})
    client.post(path, {**form, "priority": "7", "batch_delay_seconds": ""})
    row.refresh_from_db()
    assert (row.priority, row.tuning) == (7, {"batch_size": 100})
    assert "nothing to do" in told(client.post(path, form))[-1]
    client.post(path, {**form, "batch_size": "300"})
    row.refresh_from_db()
    assert row.tuning["batch_size"] == 300


# --- several ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "status", "becomes"),
    [
        (RUN, Status.SCHEDULED, Status.STARTED),
        (CANCEL, Status.SCHEDULED, Status.CANCELLED),
        (ROLLBACK, Status.FINISHED, Status.STARTED),
    ],
)
def test_several_are_asked_for_at_once(browser, migration, verb, status, becomes):
    rows = [migration(status), migration(status)]
    other = migration(Status.ROLLED_BACK if verb == ROLLBACK else Status.FINISHED)
    client, chosen = browser(verb), {"verb": verb, "pk": [row.pk for row in (*rows, other)]}
    page = client.post("/migrations/many", chosen).text
    listed = re.findall(r'name="pk" value="(\d+)"', page)
    assert set(listed) == {str(row.pk) for row in rows}
    assert other.name in page
    assert set(AsyncMigrationStatus.objects.values_list("status", flat=True)) == {status, other.status}
    sure = {"confirmed": "yes", "name": "rollback" if verb == ROLLBACK else ""}
    assert told(client.post("/migrations/many", {"verb": verb, "pk": listed, **sure})) == ["2 accepted."]
    found = lifecycle.rows().filter(pk__in=listed).values_list("status", flat=True)
    assert set(found) == {becomes}


@pytest.mark.parametrize(
    ("query", "leads"),
    [
        ("status=SCHEDULED&status=ERROR&search=caf%C3%A9&ordering=-name&page=2", None),
        ("", "/migrations"),
        ("//elsewhere.example/?status=ERROR", "/migrations?%2F%2Felsewhere.example%2F%3Fstatus=ERROR"),
    ],
)
def test_several_lead_back_to_the_list_as_it_was(browser, migration, query, leads):
    rows = [migration(), migration()]
    client, leads = browser("run"), leads or f"/migrations?{query}"
    hidden = re.compile(r'name="query" value="([^"]*)"')
    sent = unescape(hidden.findall(client.get("/migrations", query_params=QueryDict(query)).text)[0])
    assert client.post("/migrations/many", {"verb": "run", "query": query}).headers["Location"] == leads
    wanted = {"verb": "run", "pk": [row.pk for row in rows], "query": query}
    page = client.post("/migrations/many", wanted).text
    assert unescape(hidden.findall(page)[0]) == query
    assert f'href="{escape(leads)}">No, take me back' in page
    assert parse_qsl(sent) == parse_qsl(query)
    assert client.post("/migrations/many", {**wanted, "confirmed": "yes"}).headers["Location"] == leads


def test_of_several_each_is_refused_by_itself(browser, migration):
    rows = [migration(), migration(Status.FINISHED)]
    wanted = {"verb": "cancel", "pk": [row.pk for row in rows], "confirmed": "yes"}
    first, *others = told(browser("cancel").post("/migrations/many", wanted))
    assert (first, len(others)) == ("1 accepted, 1 refused.", 1)
    assert rows[1].name in others[0]


def test_a_dangerous_one_of_the_chosen_asks_for_its_name_or_for_the_word(browser, migration):
    done, waits = migration(Status.FINISHED), migration()
    going = migration(Status.IN_PROGRESS, name="app.migrations.0007_build")
    client = browser("cancel", "rollback")

    def ask(verb, rows, **typed):
        wanted = {"verb": verb, "pk": [row.pk for row in rows], "confirmed": "yes", **typed}
        answer = client.post("/migrations/many", wanted)
        going.refresh_from_db()
        return answer.status_code, re.findall(r"Type its name|Type the word|This is not [\w ]+", answer.text)

    first = client.post("/migrations/many", {"verb": "cancel", "pk": going.pk}).text
    assert "Type its name, <code>0007_build<" in first
    assert ask("cancel", [going]) == (200, ["Type its name"])
    assert ask("cancel", [going], name="cancel") == (400, ["Type its name", "This is not its name"])
    assert ask("cancel", [going, waits], name="0007_build") == (400, ["Type the word", "This is not the word"])
    assert ask("rollback", [done]) == (200, ["Type its name"])
    assert going.stop_requested is None
    assert set(lifecycle.rows().values_list("status", flat=True)) == {done.status, waits.status, going.status}
    assert ask("cancel", [going, waits], name="cancel") == (302, [])
    assert going.stop_requested == "cancel"


def test_nothing_chosen_and_nothing_asked(browser):
    client = browser("run")
    assert "Tick the boxes" in told(client.post("/migrations/many", {"verb": "run"}))[0]
    assert client.post("/migrations/many", {"verb": "dance"}).status_code == 400
    assert client.post("/migrations/many", {"verb": "rollback"}).status_code == 403
