"""POST /api/async-migrations/{id}/pause"""

import pytest

from async_migrations import lifecycle
from async_migrations.states import Status

from .conftest import BROKEN, ORIGIN, assert_problem, begin


def url(pk):
    return f"/api/async-migrations/{pk}/pause"


def test_it_works(operator, migration):
    row = migration(Status.IN_PROGRESS)

    response = operator.post(url(row.pk), content_type="application/json", headers={"X-Request-ID": "rest-1"})

    assert response.status_code == 202
    assert (response.json()["status"], response.json()["stop_requested"]) == ("IN PROGRESS", "pause")
    assert response["Location"] == f"/api/async-migrations/{row.pk}"
    assert "Retry-After" in response
    event = row.events.last()
    assert (event.kind, event.by, event.request_id) == ("pause_requested", "operator-1", "rest-1")


def test_what_no_worker_has_begun_is_paused_at_once(operator, migration):
    response = operator.post(url(migration(Status.STARTED).pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (202, "PAUSED")
    assert response.json()["terminal"] is False
    assert "Retry-After" in response


def test_a_back_off_is_left_to_a_worker(operator, migration):
    row = migration(Status.STARTED)
    lifecycle.release(begin(row.pk), error=BROKEN)
    response = operator.post(url(row.pk), content_type="application/json")
    assert (response.status_code, response.json()["stop_requested"]) == (202, "pause")


def test_asking_twice_changes_nothing(operator, migration):
    row = migration(Status.IN_PROGRESS)
    operator.post(url(row.pk), content_type="application/json")
    events = row.events.count()
    assert operator.post(url(row.pk), content_type="application/json").status_code == 202
    assert row.events.count() == events


def test_what_is_paused_already_is_200(operator, migration):
    response = operator.post(url(migration(Status.PAUSED).pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (200, "PAUSED")


def test_a_cancel_that_is_pending_wins(operator, migration):
    row = migration(Status.IN_PROGRESS)
    lifecycle.cancel(row.pk, ORIGIN)
    problem = assert_problem(operator.post(url(row.pk), content_type="application/json"), 409, "invalid_transition")
    assert (problem["status_now"], problem["allowed"]) == ("IN PROGRESS", ["cancel"])
    assert "being cancelled" in problem["detail"]
    row.refresh_from_db()
    assert row.stop_requested == "cancel"


@pytest.mark.parametrize(
    ("status", "allowed"),
    [(Status.SCHEDULED, ["run", "cancel"]), (Status.FINISHED, ["rollback"]), (Status.ROLLED_BACK, ["run"])],
)
def test_what_does_not_go_on_cannot_be_paused(operator, migration, status, allowed):
    response = operator.post(url(migration(status).pk), content_type="application/json")
    problem = assert_problem(response, 409, "invalid_transition")
    assert (problem["status_now"], problem["allowed"]) == (status, allowed)


def test_if_match_refuses_what_has_changed(operator, migration):
    row = migration(Status.STARTED)
    etag = operator.get(f"/api/async-migrations/{row.pk}")["ETag"]
    begin(row.pk)
    response = operator.post(url(row.pk), content_type="application/json", headers={"If-Match": etag})
    assert_problem(response, 412, "precondition_failed")
    row.refresh_from_db()
    assert row.stop_requested is None


def test_a_viewer_may_not(viewer, migration):
    problem = assert_problem(viewer.post(url(migration(Status.STARTED).pk)), 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.run_asyncmigrationstatus"


def test_a_field_is_refused(operator, migration):
    row = migration(Status.STARTED)
    response = operator.post(url(row.pk), {"until": "later"}, content_type="application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["until"]
    row.refresh_from_db()
    assert row.status == Status.STARTED


def test_an_unknown_id_is_not_found(operator):
    assert_problem(operator.post(url(999_999), content_type="application/json"), 404, "not_found")
