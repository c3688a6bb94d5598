"""POST /api/async-migrations/{id}/resume"""

import pytest
from django.conf import settings

from async_migrations import lifecycle
from async_migrations.states import Status

from .conftest import ORIGIN, assert_problem


def url(pk):
    return f"/api/async-migrations/{pk}/resume"


def test_it_works(operator, migration):
    row = migration(Status.PAUSED)

    response = operator.post(url(row.pk), content_type="application/json", headers={"X-Request-ID": "on-1"})

    assert response.status_code == 202
    assert (response.json()["status"], response.json()["requested_by"]) == ("STARTED", "operator-1")
    assert response["Location"] == f"/api/async-migrations/{row.pk}"
    assert "Retry-After" in response
    event = row.events.last()
    assert (event.kind, event.by, event.request_id) == ("resume", "operator-1", "on-1")


def test_the_message_is_sent_to_the_broker(operator, migration, django_capture_on_commit_callbacks):
    redis = settings.DRAMATIQ_BROKER["OPTIONS"]["client"]
    redis.flushdb()
    row = migration(Status.PAUSED)
    with django_capture_on_commit_callbacks(execute=True):
        operator.post(url(row.pk), content_type="application/json")
    assert redis.llen("dramatiq:async_migrations") == 1


def test_a_pause_that_is_not_obeyed_yet_is_taken_back(operator, migration):
    row = migration(Status.IN_PROGRESS)
    lifecycle.pause(row.pk, ORIGIN)
    response = operator.post(url(row.pk), content_type="application/json")
    assert response.status_code == 202
    assert (response.json()["status"], response.json()["stop_requested"]) == ("IN PROGRESS", None)
    assert row.events.last().kind == "pause_withdrawn"


@pytest.mark.parametrize("status", [Status.STARTED, Status.IN_PROGRESS])
def test_asking_twice_changes_nothing(operator, migration, status):
    row = migration(status)
    events = row.events.count()
    response = operator.post(url(row.pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (202, status)
    assert row.events.count() == events


@pytest.mark.parametrize("status", [Status.FINISHED, Status.ROLLED_BACK])
def test_what_has_ended_well_meanwhile_is_200(operator, migration, status):
    response = operator.post(url(migration(status).pk), content_type="application/json")
    assert (response.status_code, response.json()["status"]) == (200, status)
    assert "Retry-After" not in response


def test_what_is_being_cancelled_does_not_go_on(operator, migration):
    row = migration(Status.IN_PROGRESS)
    lifecycle.cancel(row.pk, ORIGIN)
    problem = assert_problem(operator.post(url(row.pk), content_type="application/json"), 409, "invalid_transition")
    assert problem["allowed"] == ["cancel"]


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        (Status.SCHEDULED, ["run", "cancel"]),
        (Status.ERROR, ["run", "cancel", "rollback"]),
        (Status.CANCELLED, ["run", "rollback"]),
    ],
)
def test_what_was_not_paused_is_refused(operator, migration, status, allowed):
    response = operator.post(url(migration(status).pk), content_type="application/json")
    problem = assert_problem(response, 409, "invalid_transition")
    assert (problem["status_now"], problem["allowed"]) == (status, allowed)


def test_if_match_refuses_what_has_changed(operator, migration):
    row = migration(Status.PAUSED)
    etag = operator.get(f"/api/async-migrations/{row.pk}")["ETag"]
    lifecycle.cancel(row.pk, ORIGIN)
    response = operator.post(url(row.pk), content_type="application/json", headers={"If-Match": etag})
    assert_problem(response, 412, "precondition_failed")


def test_a_viewer_may_not(viewer, migration):
    problem = assert_problem(viewer.post(url(migration(Status.PAUSED).pk)), 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.run_asyncmigrationstatus"


def test_a_field_is_refused(operator, migration):
    response = operator.post(url(migration(Status.PAUSED).pk), {"run_at": None}, content_type="application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["run_at"]


def test_an_unknown_id_is_not_found(operator):
    assert_problem(operator.post(url(999_999), content_type="application/json"), 404, "not_found")
