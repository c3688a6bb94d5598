"""GET, PUT, DELETE /api/async-migrations/hold"""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from async_migrations import lifecycle, tasks
from async_migrations.models import AsyncMigrationAudit, AsyncMigrationHold
from async_migrations.states import Status

from .conftest import assert_problem

HOLD = "/api/async-migrations/hold"


def put(client, database=None, **body):
    where = f"?database={database}" if database else ""
    return client.put(
        HOLD + where,
        {"reason": "Black Friday", **body},
        content_type="application/json",
        headers={"X-Request-ID": "r-1"},
    )


def expire():
    """Let the time of every hold be up."""
    AsyncMigrationHold.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def test_it_works(viewer, operator, migration):
    row = migration(Status.STARTED)
    assert viewer.get(HOLD).json() == {"held": False, "holds": [], "history": []}
    until = timezone.now() + timedelta(hours=1)
    response = put(operator, expires_at=until.isoformat())
    assert response.status_code == 200
    (hold,) = response.json()["holds"]
    assert hold | {"id": 0, "created_at": ""} == {
        "id": 0,
        "database": None,
        "reason": "Black Friday",
        "by": "operator-2",
        "request_id": "r-1",
        "created_at": "",
        "expires_at": until.isoformat().replace("+00:00", "Z"),
        "lifted_at": None,
        "lifted_by": "",
    }
    assert viewer.get(HOLD).json() == response.json()
    assert lifecycle.claim(row.pk, "worker-1") is None
    answer = operator.delete(HOLD).json()
    assert (answer["held"], answer["holds"]) == (False, [])
    (past,) = answer["history"]
    assert (past["id"], past["lifted_by"], bool(past["lifted_at"])) == (hold["id"], "operator-2", True)
    assert lifecycle.claim(row.pk, "worker-1") is not None


def test_run_is_accepted_and_waits(operator, migration):
    put(operator)
    row = migration()
    assert operator.post(f"/api/async-migrations/{row.pk}/run", content_type="application/json").status_code == 202
    lifecycle.note_held()
    shown = operator.get(f"/api/async-migrations/{row.pk}").json()
    assert (shown["status"], shown["phase"]) == ("STARTED", "held by operator-1: Black Friday")


def test_one_database_is_held_and_no_other(operator, viewer, migration):
    here, there = migration(Status.STARTED), migration(Status.STARTED, database="second")
    put(operator, "second")
    assert lifecycle.claim(there.pk, "worker-1") is None
    assert lifecycle.claim(here.pk, "worker-1") is not None
    assert viewer.get(f"{HOLD}?database=default").json()["held"] is False
    assert viewer.get(f"{HOLD}?database=second").json()["held"] is True


def test_lifting_one_hold_leaves_the_other_and_says_so(operator, migration):
    row = migration(Status.STARTED)
    put(operator)
    put(operator, "default", reason="vacuum")
    answer = operator.delete(f"{HOLD}?database=default").json()
    assert [hold["reason"] for hold in answer["holds"]] == ["Black Friday"]
    assert lifecycle.claim(row.pk, "worker-1") is None
    assert operator.delete(HOLD).json()["held"] is False


def test_asking_twice_changes_nothing_and_another_reason_replaces(operator):
    assert put(operator).json() == put(operator).json()
    answer = put(operator, reason="an incident").json()
    assert [hold["reason"] for hold in answer["holds"]] == ["an incident"]
    _new, old = answer["history"]
    assert (old["reason"], old["lifted_by"]) == ("Black Friday", "operator-1")
    assert operator.delete(HOLD).json() == operator.delete(HOLD).json()


def test_a_hold_ends_by_itself(operator, viewer, migration):
    row = migration(Status.STARTED)
    put(operator, expires_at=(timezone.now() + timedelta(hours=1)).isoformat())
    lifecycle.note_held()
    expire()
    answer = viewer.get(HOLD).json()
    assert (answer["held"], len(answer["history"])) == (False, 1)
    lifecycle.note_held()
    row.refresh_from_db()
    assert row.phase == ""
    assert [due.pk for due in lifecycle.unclaimed()] == [row.pk], "its message is due at once"
    put(operator, reason="again")
    old = viewer.get(HOLD).json()["history"][1]
    assert (old["lifted_at"], old["lifted_by"]) == (old["expires_at"], "")


def test_what_was_held_goes_on_at_once(operator, migration, monkeypatch, django_capture_on_commit_callbacks):
    sent = []
    monkeypatch.setattr(tasks.execute_migration, "send", sent.append)
    first = migration(Status.STARTED)
    migration(Status.STARTED)  # There is one place on a database: who takes the first goes on with the next.
    other = migration(Status.STARTED, database="second")
    put(operator)
    lifecycle.note_held()
    with django_capture_on_commit_callbacks(execute=True):
        operator.delete(HOLD)
    assert sent == [first.pk, other.pk]
    first.refresh_from_db()
    assert first.phase == ""


def test_setting_and_lifting_needs_its_own_permission(viewer, client_of):
    for response in (put(viewer), viewer.delete(HOLD)):
        problem = assert_problem(response, 403, "permission_denied")
        assert problem["missing_permission"] == "async_migrations.hold_asyncmigrationstatus"
    assert_problem(client_of(None).get(HOLD), 401, "not_authenticated")
    assert not AsyncMigrationHold.objects.exists()


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"reason": ""}, "reason"),
        ({"reason": None}, "reason"),
        ({"reason": "x" * 1001}, "reason"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"until": None}, "until"),
    ],
)
def test_nonsense_is_refused(operator, body, wrong):
    assert list(assert_problem(put(operator, **body), 400, "validation_error")["errors"]) == [wrong]
    assert not AsyncMigrationHold.objects.exists()


def test_a_database_that_is_not_there_is_refused(operator):
    problem = assert_problem(put(operator, "nowhere"), 400, "validation_error")
    assert "default, second" in problem["detail"]


def test_the_database_knows_one_hold_of_a_kind(operator):
    put(operator)
    with connection.cursor() as cursor, pytest.raises(Exception, match="async_migration_one_hold"):
        cursor.execute(
            "INSERT INTO async_migrations_asyncmigrationhold (database, reason, by, request_id, lifted_by) "
            "VALUES ('', '', '', '', '')"
        )


# --- conditions ---


def test_polling_is_cheap(viewer, operator):
    etag = viewer.get(HOLD)["ETag"]
    same = viewer.get(HOLD, headers={"If-None-Match": f"W/{etag}"})
    assert (same.status_code, same["ETag"], same.content) == (304, etag, b"")
    set_ = put(operator)
    news = viewer.get(HOLD, headers={"If-None-Match": etag})
    assert (news.status_code, news["ETag"]) == (200, set_["ETag"])
    assert news["ETag"] != etag
    expire()
    assert viewer.get(HOLD, headers={"If-None-Match": news["ETag"]}).status_code == 200, "it has ended by itself"


@pytest.mark.parametrize("method", ["put", "delete"])
def test_what_was_read_is_changed_and_nothing_else(operator, method):
    def change(etag):
        return getattr(operator, method)(
            HOLD, {"reason": "mine"}, content_type="application/json", headers={"If-Match": etag}
        )

    etag = put(operator)["ETag"]
    put(operator, reason="somebody else's")
    problem = assert_problem(change(etag), 412, "precondition_failed")
    assert "Nothing was done" in problem["detail"]
    assert [hold.reason for hold in lifecycle.holds_in_force()] == ["somebody else's"]
    assert AsyncMigrationAudit.objects.latest("pk").code == "precondition_failed"
    done = change(operator.get(HOLD)["ETag"])
    assert done.status_code == 200
    assert [hold.reason for hold in lifecycle.holds_in_force()] == (["mine"] if method == "put" else [])
    assert_problem(change(etag), 412, "precondition_failed")
    assert change("*").status_code == 200
