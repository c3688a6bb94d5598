"""POST /api/async-migrations/{id}/run"""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import connections, transaction

from async_migrations import lifecycle
from async_migrations.states import Status
from tests.db.conftest import book, query  # noqa: F401 - a fixture

from .conftest import ORIGIN, assert_problem, begin


def url(pk):
    return f"/api/async-migrations/{pk}/run"


def test_it_works(operator, migration):
    row = migration()

    response = operator.post(url(row.pk), content_type="application/json")

    assert response.status_code == 202
    assert response["Location"] == f"/api/async-migrations/{row.pk}"
    assert int(response["Retry-After"]) > 0
    found = response.json()
    assert (found["status"], found["direction"], found["requested_by"]) == ("STARTED", "forwards", "operator-1")
    assert operator.get(response["Location"]).json()["status"] == "STARTED"
    assert operator.get(response["Location"])["ETag"] == response["ETag"]


def test_the_message_is_sent_to_the_broker(operator, migration, django_capture_on_commit_callbacks):
    redis = settings.DRAMATIQ_BROKER["OPTIONS"]["client"]
    redis.flushdb()
    row = migration()
    with django_capture_on_commit_callbacks(execute=True):
        operator.post(url(row.pk), content_type="application/json")
    assert redis.llen("dramatiq:async_migrations") == 1
    row.refresh_from_db()
    assert row.dispatched_at is not None


def test_the_event_says_who_asked_and_in_which_request(operator, migration):
    row = migration()
    operator.post(url(row.pk), content_type="application/json", headers={"X-Request-ID": "ci-4711"})
    event = row.events.last()
    assert (event.kind, event.by, event.request_id) == ("run", "operator-1", "ci-4711")


@pytest.mark.parametrize("status", [Status.ERROR, Status.CANCELLED, Status.ROLLED_BACK, Status.PAUSED])
def test_what_has_ended_or_rests_can_be_run_again(operator, migration, status):
    response = operator.post(url(migration(status).pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (202, "STARTED")


@pytest.mark.parametrize("status", [Status.STARTED, Status.IN_PROGRESS])
def test_asking_twice_changes_nothing(operator, migration, status):
    row = migration(status)
    events = row.events.count()
    response = operator.post(url(row.pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (202, status)
    assert row.events.count() == events


def test_what_is_finished_already_is_200(operator, migration):
    response = operator.post(url(migration(Status.FINISHED).pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (200, "FINISHED")
    assert "Retry-After" not in response


def test_rows_that_were_set_aside_are_tried_again(operator, migration):
    row = migration(Status.FINISHED, kind="backfill")
    type(row).objects.filter(pk=row.pk).update(quarantined=1)
    response = operator.post(url(row.pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (202, "STARTED")
    assert row.events.last().kind == "retry"


def test_a_later_start_is_taken(operator, migration):
    at = datetime.now(UTC) + timedelta(hours=1)
    row = migration()
    response = operator.post(url(row.pk), {"run_at": at.isoformat()}, content_type="application/json")
    assert response.status_code == 202
    assert datetime.fromisoformat(response.json()["run_at"]) == at
    assert lifecycle.claim(row.pk, "worker-1") is None


def test_priority_and_attempts_are_taken_and_recorded(operator, migration):
    row, at = migration(Status.ERROR), "2026-11-22T02:00:00+00:00"
    body = {"priority": -5, "max_attempts": 1000, "run_at": at}
    response = operator.post(url(row.pk), body, content_type="application/json")
    assert (response.status_code, response.json()["max_attempts"]) == (202, 1000)
    row.refresh_from_db()
    assert (row.priority, row.max_attempts) == (-5, 1000)
    assert row.events.last().detail == body


@pytest.mark.parametrize("body", [{}, {"priority": None, "max_attempts": None}])
def test_what_is_left_out_stays_as_it_is(operator, migration, body):
    row = migration(options={"priority": 3, "max_attempts": 7})
    operator.post(url(row.pk), body, content_type="application/json")
    row.refresh_from_db()
    assert (row.priority, row.max_attempts, row.events.last().detail) == (3, 7, {})


def test_the_highest_priority_goes_first(operator, migration):
    first, second = migration(), migration()
    operator.post(url(first.pk), content_type="application/json")
    operator.post(url(second.pk), {"priority": 1}, content_type="application/json")
    assert lifecycle.next_in_line("default") == second.pk


def test_what_is_in_line_keeps_its_terms(operator, migration):
    row = migration(Status.STARTED)
    response = operator.post(url(row.pk), {"priority": 9, "max_attempts": 9}, content_type="application/json")
    assert response.status_code == 202
    row.refresh_from_db()
    assert (row.priority, row.max_attempts) == (0, 5)


@pytest.mark.parametrize(
    "body",
    [{"priority": 2**15}, {"priority": -(2**15) - 1}, {"priority": "1"}, {"priority": 1.0}, {"priority": True},
     {"max_attempts": 0}, {"max_attempts": 1001}, {"max_attempts": -1}, {"max_attempts": []}, {"max_attempts": "5"}],
)  # fmt: skip
def test_a_number_beyond_its_limits_is_named(operator, migration, body):
    row = migration()
    response = operator.post(url(row.pk), body, content_type="application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == list(body)
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


@pytest.mark.parametrize("body", [b"", b"{}", b'{"run_at": null}', b"\xef\xbb\xbf{}", b" {\n} "])
@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", ""])
def test_the_body_is_optional(operator, migration, body, content_type):
    response = operator.generic("POST", url(migration().pk), body, content_type)
    assert response.status_code == 202, response.content


@pytest.mark.parametrize(
    "run_at",
    ["tomorrow", "2026-11-22T10:00:00", "2026-11-22", "", 7, True, [], {}, "2026-13-01T00:00:00Z",
     "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-22T10:00:00Z\0", "\ud800"],
)  # fmt: skip
def test_a_bad_time_is_named(operator, migration, run_at):
    row = migration()
    response = operator.post(url(row.pk), {"run_at": run_at}, content_type="application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["run_at"]
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


def test_an_unknown_field_is_named(operator, migration):
    row = migration()
    response = operator.post(url(row.pk), {"runat": None, "forced": True}, content_type="application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["forced", "runat"]
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


@pytest.mark.parametrize("body", ["null", "[]", '"now"', "7", "true"])
def test_a_body_that_is_no_object_is_refused(operator, migration, body):
    response = operator.generic("POST", url(migration().pk), body, "application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["body"]


def test_a_migration_that_goes_backwards_cannot_be_run(operator, migration):
    row = migration(Status.FINISHED)
    lifecycle.rollback(row.pk, ORIGIN)
    begin(row.pk)
    problem = assert_problem(operator.post(url(row.pk), content_type="application/json"), 409, "invalid_transition")
    assert (problem["status_now"], problem["allowed"]) == ("IN PROGRESS", ["pause", "cancel"])


def test_if_match_lets_pass_what_was_read(operator, migration):
    row = migration()
    etag = operator.get(f"/api/async-migrations/{row.pk}")["ETag"]
    response = operator.post(url(row.pk), content_type="application/json", headers={"If-Match": etag})
    assert response.status_code == 202


def test_if_match_refuses_what_has_changed(operator, migration):
    row = migration()
    etag = operator.get(f"/api/async-migrations/{row.pk}")["ETag"]
    lifecycle.cancel(row.pk, ORIGIN)
    response = operator.post(url(row.pk), content_type="application/json", headers={"If-Match": etag})
    assert_problem(response, 412, "precondition_failed")
    row.refresh_from_db()
    assert row.status == Status.CANCELLED


def test_a_viewer_may_not(viewer, migration):
    row = migration()
    problem = assert_problem(viewer.post(url(row.pk), content_type="application/json"), 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.run_asyncmigrationstatus"
    assert problem["missing_permission"] in problem["detail"]
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}])
def test_an_unknown_id_is_not_found(operator, headers):
    assert_problem(operator.post(url(2**63), content_type="application/json", headers=headers), 404, "not_found")


def test_a_query_parameter_is_refused(operator, migration):
    row = migration()
    assert_problem(operator.post(f"{url(row.pk)}?run_at=now", content_type="application/json"), 400, "validation_error")


# --- the preflight ---


@pytest.fixture
def doomed(migration):
    """A migration that is about a table that is not there."""

    def make(status=Status.SCHEDULED):
        return migration(status, sql_forwards="UPDATE nowhere SET n = 1")

    return make


@pytest.fixture
def allowed(operator):
    """A client of an operator who may force."""
    user = User.objects.get(username="operator-1")
    user.user_permissions.add(Permission.objects.get(codename="force_asyncmigrationstatus"))
    return operator


def test_what_would_fail_is_refused_with_the_findings(operator, doomed):
    row = doomed()
    problem = assert_problem(operator.post(url(row.pk), content_type="application/json"), 409, "preflight_failed")
    (found,) = problem["findings"]
    assert (found["code"], found["level"], found["detail"]) == (
        "undefined_table",
        "error",
        {"statement": 1, "table": "nowhere"},
    )
    assert found["message"] in problem["detail"]
    row.refresh_from_db()
    assert (row.status, row.events.count()) == (Status.SCHEDULED, 1)


def test_who_may_force_runs_it_all_the_same(allowed, doomed):
    row = doomed()
    assert_problem(allowed.post(url(row.pk), content_type="application/json"), 409, "preflight_failed")
    assert_problem(allowed.post(url(row.pk), {"force": False}, "application/json"), 409, "preflight_failed")
    response = allowed.post(url(row.pk), {"force": True}, content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (202, "STARTED")
    assert row.events.last().detail == {"forced": True}


def full(alias):
    """Say that a byte is free."""
    return 1


UNIQUE = {"sql_forwards": "CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)"}
INDEX = {"sql_forwards": "CREATE INDEX CONCURRENTLY book_title_idx ON book (title)"}
BACKFILL = {
    "kind": "backfill",
    "sql_forwards": "UPDATE book SET n = 1 WHERE colour = 0 AND {batch}",
    "options": {"table": "book", "where": "colour = 0"},
}


@pytest.mark.usefixtures("control", "book")
@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        (UNIQUE, "duplicate_key", "samples"),
        (INDEX, "disk_space", "free_bytes"),
        (BACKFILL, "invalid_statement", "where"),
    ],
)
def test_whatever_is_an_error_of_the_preflight_refuses_it(allowed, migration, settings, fields, code, named):
    query("ANALYZE book")
    row = migration(**fields)
    if code == "disk_space":
        assert allowed.post(url(migration(**fields).pk), content_type="application/json").status_code == 202
        settings.ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES = f"{__name__}.full"
    problem = assert_problem(allowed.post(url(row.pk), content_type="application/json"), 409, "preflight_failed")
    (found,) = problem["findings"]
    assert (found["code"], found["level"]) == (code, "error")
    assert found["detail"][named]
    assert allowed.post(url(row.pk), {"force": True}, content_type="application/json").status_code == 202


@pytest.mark.parametrize("status", [Status.STARTED, Status.IN_PROGRESS, Status.FINISHED])
def test_asking_twice_is_not_refused(operator, doomed, status):
    assert operator.post(url(doomed(status).pk), content_type="application/json").status_code in {200, 202}


def test_an_operator_may_not_force_even_what_nothing_stands_in_the_way_of(operator, migration):
    row = migration()
    response = operator.post(url(row.pk), {"force": True}, content_type="application/json")
    problem = assert_problem(response, 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.force_asyncmigrationstatus"
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


@pytest.mark.parametrize("force", ["true", 1, None, [], {}])
def test_force_is_true_or_false(operator, migration, force):
    response = operator.post(url(migration().pk), {"force": force}, content_type="application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["force"]


def test_a_target_that_does_not_answer_keeps_nobody_from_running(operator, migration, monkeypatch):
    row = migration(sql_forwards="UPDATE nowhere SET n = 1", database="second")
    monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connections["second"].settings_dict, "PORT", "1")
    assert operator.post(url(row.pk), content_type="application/json").status_code == 202


def test_a_target_that_takes_connections_and_says_nothing_keeps_nobody_from_running(operator, migration, monkeypatch):
    row = migration(database="second")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
        monkeypatch.setitem(connections["second"].settings_dict, "PORT", str(silent.getsockname()[1]))
        assert operator.post(url(row.pk), content_type="application/json").status_code == 202


@pytest.mark.usefixtures("control")
def test_while_the_target_is_looked_at_the_row_is_free_for_others(operator, migration, monkeypatch):
    row = migration(database="second")
    tag = operator.get(f"/api/async-migrations/{row.pk}")["ETag"]

    def lock_as_soon_as_it_looks(server):
        with closing(server.accept()[0]), closing(connections["default"]), transaction.atomic():
            return lifecycle.rows().select_for_update(nowait=True).get(pk=row.pk).status

    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as threads:
        monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
        monkeypatch.setitem(connections["second"].settings_dict, "PORT", str(silent.getsockname()[1]))
        silent.settimeout(30)
        locked = threads.submit(lock_as_soon_as_it_looks, silent)
        response = operator.post(url(row.pk), content_type="application/json", headers={"If-Match": tag})
        assert locked.result() == Status.SCHEDULED
    assert response.status_code == 202
