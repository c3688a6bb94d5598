"""POST /api/async-migrations/run, POST /api/async-migrations/cancel"""

from __future__ import annotations

import socket

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from async_migrations import lifecycle, tasks
from async_migrations.execution import preflight
from async_migrations.states import Status

from .conftest import ORIGIN, assert_problem, ending_whoever_changes

RUN = "/api/async-migrations/run"
CANCEL = "/api/async-migrations/cancel"


def post(client, door, **body):
    return client.post(door, body, content_type="application/json", headers={"X-Request-ID": "r-1"})


def outcomes(response):
    assert response.status_code == 200, response.content
    return [(item["id"], item["outcome"]) for item in response.json()["items"]]


def backwards(migration):
    row = migration(Status.FINISHED)
    lifecycle.rollback(row.pk, ORIGIN)
    return row


def test_it_works(operator, migration):
    scheduled, back, going = migration(), backwards(migration), migration(Status.IN_PROGRESS, database="second")
    response = post(operator, RUN, ids=[going.pk, 10**9, scheduled.pk, back.pk])
    body = response.json()
    assert outcomes(response) == [
        (going.pk, "unchanged"),
        (10**9, "not_found"),
        (scheduled.pk, "accepted"),
        (back.pk, "refused"),
    ]
    assert body["counts"] == {"accepted": 1, "unchanged": 1, "refused": 1, "not_found": 1}
    assert body["items"][2] == {
        "id": scheduled.pk,
        "name": scheduled.name,
        "database": "default",
        "outcome": "accepted",
        "status": "STARTED",
        "code": None,
        "detail": None,
    }
    refused = body["items"][3]
    assert (refused["code"], "allowed now" in refused["detail"]) == ("invalid_transition", True)
    event = scheduled.events.last()
    assert (event.kind, event.by, event.request_id) == ("run", "operator-1", "r-1")
    assert outcomes(post(operator, RUN, ids=[scheduled.pk])) == [(scheduled.pk, "unchanged")], "may be repeated"


def test_cancel_does_as_the_single_verb_does(operator, migration):
    scheduled, done, going = migration(), migration(Status.FINISHED), migration(Status.IN_PROGRESS)
    response = post(operator, CANCEL, ids=[scheduled.pk, going.pk, done.pk])
    assert outcomes(response) == [(scheduled.pk, "accepted"), (going.pk, "accepted"), (done.pk, "refused")]
    assert [item["status"] for item in response.json()["items"]] == ["CANCELLED", "IN PROGRESS", "FINISHED"]
    assert lifecycle.get(going.pk).stop_requested == "cancel"


def test_a_filter_means_what_it_means_in_the_list(operator, migration):
    first = migration(name="shop.migrations.0002_a")
    migration(name="shop.migrations.0003_b", database="second")
    migration(Status.CANCELLED, name="shop.migrations.0004_c")
    migration(name="stock.migrations.0002_a")
    wanted = {"status": ["SCHEDULED", "ERROR"], "search": "SHOP", "database": "default", "kind": "sql"}
    assert outcomes(post(operator, RUN, filter=wanted)) == [(first.pk, "accepted")]
    assert outcomes(post(operator, RUN, filter={"name": "nothing"})) == []
    stock = post(operator, CANCEL, filter={"app": "stock"})
    assert [item["name"] for item in stock.json()["items"]] == ["stock.migrations.0002_a"]


@pytest.mark.parametrize("door", [RUN, CANCEL])
@pytest.mark.parametrize("status", Status)
def test_a_dry_run_says_what_would_be_and_does_nothing(operator, migration, status, door):
    row = migration(status)
    events = row.events.count()
    foreseen = post(operator, door, ids=[row.pk, 10**9], dry_run=True)
    assert foreseen.json()["dry_run"] is True
    assert (lifecycle.get(row.pk).updated_at, row.events.count()) == (row.updated_at, events)
    assert outcomes(foreseen) == outcomes(post(operator, door, ids=[row.pk, 10**9]))


def test_a_message_goes_out_for_each_place_and_not_for_each_migration(
    operator, migration, monkeypatch, django_capture_on_commit_callbacks
):
    sent = []
    monkeypatch.setattr(tasks.execute_migration, "send", sent.append)
    rows = [migration(), migration(), migration(database="second")]
    with django_capture_on_commit_callbacks(execute=True):
        post(operator, RUN, ids=[row.pk for row in rows])
    assert sent == [rows[0].pk, rows[2].pk]


def test_a_broker_that_is_away_keeps_nothing_from_being_accepted(
    operator, migration, monkeypatch, django_capture_on_commit_callbacks
):
    def away(pk):
        raise ConnectionError

    monkeypatch.setattr(tasks.execute_migration, "send", away)
    row = migration()
    with django_capture_on_commit_callbacks(execute=True):
        assert outcomes(post(operator, RUN, ids=[row.pk])) == [(row.pk, "accepted")]
    assert lifecycle.unclaimed().get() == row, "it is sent when the broker is back"


@pytest.mark.usefixtures("control")
def test_without_a_broker_they_are_carried_out_at_once(operator, migration, monkeypatch):
    monkeypatch.setattr(tasks, "broker_is_configured", lambda: False)
    rows = [migration(), migration(sql_forwards="SELECT 1/0"), migration()]
    response = post(operator, RUN, ids=[row.pk for row in rows])
    assert {item["outcome"] for item in response.json()["items"]} == {"accepted"}
    assert [item["status"] for item in response.json()["items"]] == ["FINISHED", "ERROR", "FINISHED"]


@pytest.fixture
def silent(monkeypatch):
    """Put something in place of "second" that takes connections and says nothing; return how many it got so far."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        server.setblocking(False)
        monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
        monkeypatch.setitem(connections["second"].settings_dict, "PORT", str(server.getsockname()[1]))

        def accepted():
            count = 0
            while True:
                try:
                    server.accept()[0].close()
                except BlockingIOError:
                    return count
                count += 1

        yield accepted


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_target_that_says_nothing_is_asked_once_and_not_for_each(operator, migration, silent, dry_run):
    rows = [migration(database="second") for _ in range(20)]
    doomed = migration(sql_forwards="UPDATE nowhere SET n = 1")
    response = post(operator, RUN, ids=[*(row.pk for row in rows), doomed.pk], dry_run=dry_run)
    assert outcomes(response) == [*((row.pk, "accepted") for row in rows), (doomed.pk, "refused")]
    assert silent() == 1


def test_the_command_asks_such_a_target_once_too_when_they_are_named(operator, migration, silent):
    rows = [migration(database="second") for _ in range(3)]
    call_command("async_migrations", "run", *(str(row.pk) for row in rows))
    assert {lifecycle.get(row.pk).status for row in rows} == {Status.STARTED}
    assert silent() == 1


def test_when_the_time_for_looking_is_up_nothing_is_looked_at(operator, migration, silent, monkeypatch):
    monkeypatch.setattr(preflight, "_MANY_SECONDS", 0)
    row = migration(database="second")
    assert outcomes(post(operator, RUN, ids=[row.pk])) == [(row.pk, "accepted")]
    assert silent() == 0


@pytest.mark.usefixtures("control")
def test_when_the_database_fails_in_between_it_is_told_what_is_done(operator, migration, monkeypatch):
    sent = []
    monkeypatch.setattr(tasks.execute_migration, "send", sent.append)
    rows = [migration(sql_forwards="UPDATE nowhere SET n = 1"), migration(), migration(), migration()]
    refused, first, second, third = (row.pk for row in rows)

    def ask():
        body, headers = {"ids": [row.pk for row in rows]}, {"Idempotency-Key": "k-1"}
        return operator.post(RUN, body, content_type="application/json", headers=headers)

    with ending_whoever_changes(rows[2]):
        problem = assert_problem(ask(), 503, "database_unavailable")
    assert (problem["done"], sent) == ([first], [first]), "and workers are told"
    assert "1 of 4 migrations were done" in problem["detail"]
    assert lifecycle.get(third).status == Status.SCHEDULED
    assert outcomes(ask()) == [
        (refused, "refused"),
        (first, "unchanged"),
        (second, "accepted"),
        (third, "accepted"),
    ], "the same request may be sent again, with its key"


@pytest.mark.usefixtures("control")
def test_the_command_and_the_page_say_so_too(browser, migration):
    rows = [migration(), migration()]
    with ending_whoever_changes(rows[1]):
        page = browser("run").post(
            "/migrations/many", {"verb": "run", "pk": [row.pk for row in rows], "confirmed": "1"}
        )
        with pytest.raises(CommandError, match="1 of 2 migrations were done") as refused:
            call_command("async_migrations", "run", database="default")
    assert (page.status_code, refused.value.returncode) == (503, 3)
    assert "of 2 migrations were done" in page.text


def test_each_is_taken_once_in_the_order_given(operator, migration):
    first, second = migration(), migration()
    response = post(operator, RUN, ids=[second.pk, first.pk, second.pk])
    assert outcomes(response) == [(second.pk, "accepted"), (first.pk, "accepted")]


def test_too_many_are_refused_with_their_number_and_nothing_is_done(operator, migration):
    problem = assert_problem(post(operator, RUN, ids=list(range(1, 502))), 422, "too_many_items")
    assert (problem["count"], problem["most"]) == (501, 500)
    row = migration(name="shop.migrations.0")
    for number in range(1, 501):
        migration(name=f"shop.migrations.{number}")
    problem = assert_problem(post(operator, RUN, filter={"search": "shop"}, dry_run=True), 422, "too_many_items")
    assert problem["count"] == 501
    assert lifecycle.get(row.pk).status == "SCHEDULED"


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, "body"),
        ({"ids": [1], "filter": {"search": "x"}}, "body"),
        ({"ids": []}, "ids"),
        ({"ids": [0]}, "ids.0"),
        ({"ids": "all"}, "ids"),
        ({"filter": {}}, "filter"),
        ({"filter": {"status": "SCHEDULED"}}, "filter.status"),
        ({"filter": {"status": ["DONE"]}}, "filter.status.0"),
        ({"filter": {"nam": "x"}}, "filter.nam"),
        ({"filter": {"search": " "}}, "filter.search"),
        ({"ids": [1], "force": True}, "force"),
    ],
)
def test_nonsense_is_refused(operator, migration, body, wrong):
    row = migration()
    assert list(assert_problem(post(operator, RUN, **body), 400, "validation_error")["errors"]) == [wrong]
    assert lifecycle.get(row.pk).status == "SCHEDULED"


def test_each_verb_needs_its_permission(viewer, client_of, migration):
    row = migration()
    for door, verb in ((RUN, "run"), (CANCEL, "cancel")):
        problem = assert_problem(post(viewer, door, ids=[row.pk]), 403, "permission_denied")
        assert problem["missing_permission"] == f"async_migrations.{verb}_asyncmigrationstatus"
        assert_problem(post(client_of(None), door, ids=[row.pk]), 401, "not_authenticated")
