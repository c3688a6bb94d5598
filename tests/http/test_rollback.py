"""POST /api/async-migrations/{id}/rollback"""

import pytest

from async_migrations.states import Status

from .conftest import assert_problem


def url(pk):
    return f"/api/async-migrations/{pk}/rollback"


@pytest.mark.parametrize("status", [Status.FINISHED, Status.ERROR])
def test_it_works(operator, migration, status):
    row = migration(status)

    response = operator.post(url(row.pk), content_type="application/json", headers={"X-Request-ID": "back-1"})

    assert response.status_code == 202
    assert (response.json()["status"], response.json()["direction"]) == ("STARTED", "backwards")
    assert response["Location"] == f"/api/async-migrations/{row.pk}"
    assert "Retry-After" in response
    event = row.events.last()
    assert (event.kind, event.by, event.request_id) == ("rollback", "operator-1", "back-1")


def test_what_never_ran_is_rolled_back_at_once(operator, migration):
    response = operator.post(url(migration(Status.CANCELLED).pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (202, "ROLLED BACK")
    assert "Retry-After" not in response


def test_asking_twice_changes_nothing(operator, migration):
    row = migration(Status.FINISHED)
    operator.post(url(row.pk), content_type="application/json")
    events = row.events.count()
    response = operator.post(url(row.pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (202, "STARTED")
    assert row.events.count() == events


def test_what_is_rolled_back_already_is_200(operator, migration):
    response = operator.post(url(migration(Status.ROLLED_BACK).pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (200, "ROLLED BACK")


@pytest.mark.parametrize("status", [Status.SCHEDULED, Status.STARTED, Status.IN_PROGRESS])
def test_what_goes_forwards_has_to_be_cancelled_first(operator, migration, status):
    problem = assert_problem(
        operator.post(url(migration(status).pk), content_type="application/json"), 409, "invalid_transition"
    )
    assert problem["status_now"] == status
    assert "cancel" in problem["allowed"]


def test_a_viewer_may_not(viewer, migration):
    problem = assert_problem(viewer.post(url(migration(Status.FINISHED).pk)), 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.rollback_asyncmigrationstatus"


def test_a_field_is_refused(operator, migration):
    response = operator.post(url(migration(Status.FINISHED).pk), {"run_at": None}, content_type="application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["run_at"]


def test_an_unknown_id_is_not_found(operator):
    assert_problem(operator.post(url(999_999), content_type="application/json"), 404, "not_found")
