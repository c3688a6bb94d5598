"""GET /api/async-migrations/{id}"""

import math
from unittest.mock import ANY

import pytest

from async_migrations import lifecycle
from async_migrations.states import Status

from .conftest import ORIGIN, assert_problem, begin
from .test_list import FIELDS


def url(pk):
    return f"/api/async-migrations/{pk}"


def test_it_works(viewer, migration):
    row = migration(sql_forwards="SELECT 'forwards'", sql_backwards="SELECT 'backwards'")

    response = viewer.get(url(row.pk))

    assert response.status_code == 200
    found = response.json()
    detail = ["queued_behind", "priority", "tuning", "quarantined"]
    assert list(found) == [*FIELDS, *detail, "sql_forwards", "sql_backwards", "sql_digest", "options"]
    assert found["sql_forwards"] == "SELECT 'forwards'"
    assert found["sql_backwards"] == "SELECT 'backwards'"
    assert found["created_at"].endswith("Z")
    assert found["throttled"] is None
    assert response["ETag"].startswith('"')


@pytest.mark.parametrize("status", [Status.SCHEDULED, Status.STARTED, Status.IN_PROGRESS, Status.PAUSED])
def test_a_poller_is_told_when_to_look_again(viewer, migration, status):
    response = viewer.get(url(migration(status).pk))
    assert response.json()["terminal"] is False
    assert int(response["Retry-After"]) > 0


@pytest.mark.parametrize("status", [Status.FINISHED, Status.ERROR, Status.CANCELLED, Status.ROLLED_BACK])
def test_a_poller_is_told_that_it_is_over(viewer, migration, status):
    response = viewer.get(url(migration(status).pk))
    assert response.status_code == 200
    assert response.json()["terminal"] is True
    assert "Retry-After" not in response


def test_an_error_is_told_in_meta(viewer, migration):
    assert viewer.get(url(migration(Status.ERROR).pk)).json()["meta"] == {
        "job_id": ANY,
        "error": {
            "code": "unique_violation",
            "message": "could not create unique index",
            "sqlstate": "23505",
            "detail": None,
            "hint": None,
            "statement": None,
        },
    }


def test_what_has_not_changed_is_not_sent_again(viewer, migration):
    row = migration(Status.STARTED)
    etag = viewer.get(url(row.pk))["ETag"]

    for wanted in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = viewer.get(url(row.pk), headers={"If-None-Match": wanted})
        assert (response.status_code, response.content) == (304, b"")
        assert response["ETag"] == etag
        assert "Retry-After" in response

    assert viewer.get(url(row.pk), headers={"If-None-Match": '"other"'}).status_code == 200


def test_every_change_changes_the_etag(viewer, migration):
    row = migration()
    seen = [viewer.get(url(row.pk))["ETag"]]
    lifecycle.run(row.pk, ORIGIN)
    seen.append(viewer.get(url(row.pk))["ETag"])
    lease = begin(row.pk)
    seen.append(viewer.get(url(row.pk))["ETag"])
    lifecycle.renew(lease, progress_done=1)
    seen.append(viewer.get(url(row.pk))["ETag"])
    lifecycle.tune(row.pk, ORIGIN, {"priority": 1})
    seen.append(viewer.get(url(row.pk))["ETag"])
    lifecycle.pause(row.pk, ORIGIN)
    seen.append(viewer.get(url(row.pk))["ETag"])
    lifecycle.resume(row.pk, ORIGIN)
    seen.append(viewer.get(url(row.pk))["ETag"])
    lifecycle.cancel(row.pk, ORIGIN)
    seen.append(viewer.get(url(row.pk))["ETag"])
    assert len(set(seen)) == len(seen)


def test_what_a_backfill_waits_for_and_has_set_aside_is_told(viewer, migration):
    row = migration(Status.IN_PROGRESS, kind="backfill")
    throttled = {"reason": "lock_waiters", "value": 7, "limit": 4, "since": "2026-11-22T10:00:00Z"}
    type(row).objects.filter(pk=row.pk).update(throttled=throttled, quarantined=2, tuning={"batch_size": 5})
    found = viewer.get(url(row.pk)).json()
    assert (found["throttled"], found["quarantined"], found["tuning"]) == (throttled, 2, {"batch_size": 5})
    assert viewer.get("/api/async-migrations").json()["results"][0]["throttled"] == throttled


def test_a_rate_that_json_cannot_carry_is_not_known(viewer, migration):
    row = migration(Status.IN_PROGRESS)
    type(row).objects.filter(pk=row.pk).update(progress_rate=math.inf)
    assert viewer.get(url(row.pk)).json()["progress"]["rate_per_second"] is None


def test_head_works(viewer, migration):
    response = viewer.head(url(migration().pk))
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("pk", [0, 999_999, 2**63, 10**30, "9" * 4400, "abc", "-1", "1.5", "%00", "1/"])
def test_an_unknown_id_is_not_found(viewer, pk):
    assert_problem(viewer.get(url(pk)), 404, "not_found")


def test_an_unknown_parameter_is_refused(viewer, migration):
    problem = assert_problem(viewer.get(url(migration().pk), {"wait": "30"}), 400, "validation_error")
    assert list(problem["errors"]) == ["wait"]
