"""GET /api/async-migrations/summary"""

from datetime import UTC, datetime, timedelta

from django.db.models.functions import Now

from async_migrations import lifecycle
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status

from .conftest import ORIGIN, assert_problem

URL = "/api/async-migrations/summary"


def test_it_works(viewer, migration):
    migration(Status.STARTED)
    migration(Status.STARTED, database="second")
    migration(Status.ERROR, database="second")
    migration(Status.FINISHED)
    AsyncMigrationStatus.objects.filter(status=Status.STARTED).update(requested_at=Now() - timedelta(minutes=1))

    found = viewer.get(URL).json()

    assert found["total"] == 4
    assert found["by_status"] == dict.fromkeys(Status.values, 0) | {"STARTED": 2, "ERROR": 1, "FINISHED": 1}
    assert found["by_database"] == {
        "default": {"STARTED": 1, "FINISHED": 1},
        "second": {"STARTED": 1, "ERROR": 1},
    }
    assert 60 <= found["oldest_in_line_seconds"] < 70


def test_nothing_is_there(viewer):
    found = viewer.get(URL).json()
    assert (found["total"], found["by_database"], found["oldest_in_line_seconds"]) == (0, {}, None)


def test_what_is_to_start_later_does_not_wait(viewer, migration):
    lifecycle.run(migration().pk, ORIGIN, run_at=datetime.now(UTC) + timedelta(hours=1))
    assert viewer.get(URL).json()["oldest_in_line_seconds"] is None


def test_an_unknown_parameter_is_refused(viewer):
    assert_problem(viewer.get(URL, {"database": "second"}), 400, "validation_error")
