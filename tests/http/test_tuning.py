"""PATCH /api/async-migrations/{id}/tuning"""

import pytest
from django.contrib.auth.models import Permission

from async_migrations import lifecycle
from async_migrations.states import Kind, Status

from .conftest import ORIGIN, assert_problem


def url(pk):
    return f"/api/async-migrations/{pk}/tuning"


@pytest.fixture
def backfill(migration):
    def make(status=Status.IN_PROGRESS):
        return migration(status, kind=Kind.BACKFILL)

    return make


def patch(client, row, **values):
    return client.patch(url(row.pk), values, content_type="application/json", headers={"X-Request-ID": "slow-1"})


def test_it_works(operator, backfill):
    row = backfill()

    response = patch(operator, row, batch_size=500, batch_delay_seconds=0.2, throttle={"lock_waiters": 3}, priority=4)

    assert response.status_code == 200
    found = response.json()
    assert found["tuning"] == {"batch_size": 500, "batch_delay_seconds": 0.2, "throttle": {"lock_waiters": 3}}
    assert (found["priority"], found["status"]) == (4, "IN PROGRESS")
    assert found == operator.get(f"/api/async-migrations/{row.pk}").json()
    assert response["ETag"] == operator.get(f"/api/async-migrations/{row.pk}")["ETag"]
    assert "Retry-After" in response
    event = row.events.last()
    assert (event.kind, event.by, event.request_id) == ("tuned", "operator-1", "slow-1")
    assert event.detail["before"] == {"batch_size": None, "batch_delay_seconds": None, "throttle": None, "priority": 0}


def test_what_is_left_out_stays_and_null_takes_back(operator, backfill):
    row = backfill()
    patch(operator, row, batch_size=500, duty_cycle=0.5, throttle=False)
    assert patch(operator, row, batch_size=None, throttle=True).json()["tuning"] == {
        "duty_cycle": 0.5,
        "throttle": True,
    }


@pytest.mark.parametrize("values", [{}, {"batch_size": 500}, {"duty_cycle": None}])
def test_asking_twice_changes_nothing(operator, backfill, values):
    row = backfill()
    etag = patch(operator, row, batch_size=500)["ETag"]
    events = row.events.count()
    response = patch(operator, row, **values)
    assert (response.status_code, response["ETag"]) == (200, etag)
    assert row.events.count() == events


@pytest.mark.parametrize("status", [Status.SCHEDULED, Status.STARTED, Status.PAUSED, Status.ERROR])
def test_what_is_to_go_on_one_day_can_be_tuned(operator, backfill, status):
    response = patch(operator, backfill(status), batch_size=1)
    assert (response.status_code, response.json()["status"]) == (200, status)


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        (Status.FINISHED, ["rollback"]),
        (Status.CANCELLED, ["run", "rollback"]),
        (Status.ROLLED_BACK, ["run"]),
    ],
)
def test_what_has_ended_cannot(operator, backfill, status, allowed):
    problem = assert_problem(patch(operator, backfill(status), batch_size=1), 409, "invalid_transition")
    assert (problem["status_now"], problem["allowed"]) == (status, allowed)


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"batch_size": 0}, ["batch_size"]),
        ({"batch_size": "500"}, ["batch_size"]),
        ({"batch_size": True}, ["batch_size"]),
        ({"batch_size": 2.5, "target_batch_seconds": 61, "duty_cycle": 0}, None),
        ({"max_rows_per_second": 0}, ["max_rows_per_second"]),
        ({"priority": 32768}, ["priority"]),
        ({"throttle": "off"}, ["throttle"]),
        ({"throttle": {"mood": 1, "lock_waiters": -1}}, ["throttle.lock_waiters", "throttle.mood"]),
        ({"status": "FINISHED", "batch_size": 5}, ["status"]),
        ({"größe": 1}, ["größe"]),
    ],
)
def test_every_value_that_cannot_be_used_is_named_and_nothing_is_set(operator, backfill, values, wrong):
    row = backfill()
    problem = assert_problem(patch(operator, row, **values), 400, "validation_error")
    assert sorted(problem["errors"]) == sorted(values if wrong is None else wrong)
    row.refresh_from_db()
    assert row.tuning == {}


@pytest.mark.parametrize("body", ["null", "[]", '"slower"', "7"])
def test_a_body_that_is_no_object_is_refused(operator, backfill, body):
    response = operator.generic("PATCH", url(backfill().pk), body, "application/json")
    assert list(assert_problem(response, 400, "validation_error")["errors"]) == ["body"]


def test_an_sql_migration_has_a_priority_only(operator, migration):
    row = migration()
    assert patch(operator, row, priority=-5).json()["priority"] == -5
    problem = assert_problem(patch(operator, row, priority=9, batch_size=5), 400, "validation_error")
    assert problem["errors"] == {"batch_size": ["An SQL migration has no such value, only a priority."]}
    row.refresh_from_db()
    assert row.priority == -5


def test_if_match_lets_pass_what_was_read(operator, backfill):
    row = backfill()
    etag = operator.get(f"/api/async-migrations/{row.pk}")["ETag"]
    headers = {"If-Match": etag}
    assert operator.patch(url(row.pk), {"batch_size": 5}, "application/json", headers=headers).status_code == 200
    response = operator.patch(url(row.pk), {"batch_size": 9}, "application/json", headers=headers)
    assert_problem(response, 412, "precondition_failed")
    row.refresh_from_db()
    assert row.tuning == {"batch_size": 5}


def test_two_editors_lose_nothing_of_each_other(operator, backfill):
    row = backfill()
    lifecycle.tune(row.pk, ORIGIN, {"duty_cycle": 0.3})
    assert patch(operator, row, batch_size=5).json()["tuning"] == {"duty_cycle": 0.3, "batch_size": 5}


def test_a_viewer_may_not(viewer, backfill):
    problem = assert_problem(patch(viewer, backfill(), batch_size=5), 403, "permission_denied")
    assert problem["missing_permission"] == "async_migrations.tune_asyncmigrationstatus"


def test_who_may_run_may_not_tune(operator, backfill, django_user_model):
    tune = Permission.objects.get(codename="tune_asyncmigrationstatus")
    django_user_model.objects.get(username="operator-1").groups.get().permissions.remove(tune)
    assert_problem(patch(operator, backfill(), batch_size=5), 403, "permission_denied")


def test_other_methods_are_not_allowed(operator, backfill):
    response = operator.get(url(backfill().pk))
    assert_problem(response, 405, "method_not_allowed")
    assert response["Allow"] == "PATCH"


def test_an_unknown_id_is_not_found(operator):
    assert_problem(operator.patch(url(999_999), {"batch_size": 5}, "application/json"), 404, "not_found")
