"""POST /api/async-migrations/{id}/cancel"""

import pytest

from async_migrations import lifecycle
from async_migrations.states import Status

from .conftest import BROKEN, assert_problem, begin


def url(pk):
    return f"/api/async-migrations/{pk}/cancel"


@pytest.mark.parametrize("status", [Status.SCHEDULED, Status.STARTED, Status.PAUSED, Status.ERROR])
def test_it_works(operator, migration, status):
    row = migration(status)

    response = operator.post(url(row.pk), content_type="application/json", headers={"X-Request-ID": "stop-1"})

    assert (response.status_code, response.json()["status"]) == (202, "CANCELLED")
    assert response["Location"] == f"/api/async-migrations/{row.pk}"
    event = row.events.last()
    assert (event.kind, event.by, event.request_id) == ("cancel", "operator-1", "stop-1")


def test_what_has_begun_is_asked_to_stop(operator, migration):
    row = migration(Status.IN_PROGRESS)
    response = operator.post(url(row.pk), content_type="application/json")
    assert response.status_code == 202
    assert (response.json()["status"], response.json()["stop_requested"]) == ("IN PROGRESS", "cancel")
    assert "Retry-After" in response


def test_a_back_off_is_left_to_a_worker_to_clean_up(operator, migration):
    row = migration(Status.STARTED)
    lifecycle.release(begin(row.pk), error=BROKEN)
    response = operator.post(url(row.pk), content_type="application/json")
    assert (response.status_code, response.json()["stop_requested"]) == (202, "cancel")


def test_asking_twice_changes_nothing(operator, migration):
    row = migration(Status.IN_PROGRESS)
    operator.post(url(row.pk), content_type="application/json")
    events = row.events.count()
    assert operator.post(url(row.pk), content_type="application/json").status_code == 202
    assert row.events.count() == events


def test_what_is_cancelled_already_is_200(operator, migration):
    response = operator.post(url(migration(Status.CANCELLED).pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (200, "CANCELLED")


@pytest.mark.parametrize(("status", "allowed"), [(Status.FINISHED, ["rollback"]), (Status.ROLLED_BACK, ["run"])])
def test_what_has_ended_well_cannot_be_cancelled(operator, migration, status, allowed):
    response = operator.post(url(migration(status).pk), content_type="application/json")
    problem = assert_problem(response, 409, "invalid_transition")
    assert (problem["status_now"], problem["allowed"]) == (status, allowed)


def test_a_viewer_may_not(viewer, migration):
    problem = assert_problem(viewer.post(url(migration().pk)), 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.cancel_asyncmigrationstatus"


def test_a_field_is_refused(operator, migration):
    row = migration()
    response = operator.post(url(row.pk), {"reason": "late"}, content_type="application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["reason"]
    row.refresh_from_db()
    assert row.status == Status.SCHEDULED


def test_an_unknown_id_is_not_found(operator):
    assert_problem(operator.post(url(999_999), content_type="application/json"), 404, "not_found")
