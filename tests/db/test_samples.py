"""Points of a migration's curve: what they say, how many there are, and that no attempt depends on them."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
from django.db import connection

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationSample
from async_migrations.states import Status
from tests.db.conftest import carried_out, query

pytestmark = pytest.mark.usefixtures("control")
ORIGIN = Origin("alice")
SAMPLES, ROWS = "async_migrations_asyncmigrationsample", "async_migrations_asyncmigrationstatus"


def begun(migration, **progress):
    """A migration that a worker has begun, and the worker's lease."""
    row = migration("SELECT 1")
    lifecycle.run(row.pk, ORIGIN)
    lease = lifecycle.claim(row.pk, "worker")
    assert lease is not None
    lifecycle.renew(lease, **progress)
    return row, lease


def pass_by(seconds: float) -> None:
    """Let time pass, as far as the points and the row can tell."""
    earlier = f"- make_interval(secs => {seconds})"
    query(f"UPDATE {SAMPLES} SET at = at {earlier}")
    query(f"UPDATE {ROWS} SET started_at = started_at {earlier}")


def test_it_works(migration) -> None:
    throttled = {"reason": "lock_waiters", "value": 9, "limit": 5}
    counted: dict[str, Any] = {"progress_done": 40, "progress_total": 100, "progress_unit": "rows"}
    row, lease = begun(migration, phase="changing rows", progress_percent=40.0, throttled=throttled, **counted)
    assert lifecycle.take_sample(lease, 20) == 2.0
    (point,) = row.samples.values("attempt", "phase", "done", "total", "unit", "percent", "batch_size", "throttled")
    assert list(point.values()) == [1, "changing rows", 40, 100, "rows", 40.0, 20, "lock_waiters"]
    assert 0 < (lifecycle.take_sample(lease, 20) or 0) <= 2.0, "not due yet"
    assert row.samples.count() == 1
    row.delete()
    assert not AsyncMigrationSample.objects.exists(), "they go with their migration"


def test_an_attempt_that_has_lost_its_lease_writes_none(migration) -> None:
    row, lease = begun(migration)
    lifecycle.release(lease)
    later = lifecycle.claim(row.pk, "another")
    assert lifecycle.take_sample(lease) is None
    assert not row.samples.exists()
    assert later is not None
    assert lifecycle.take_sample(later) == 2.0
    lifecycle.succeed(later)
    assert lifecycle.take_sample(later) is None


def test_their_number_grows_with_the_logarithm_of_the_time(migration) -> None:
    row, lease = begun(migration)
    passed, hour = 0.0, 3600.0
    while passed < hour:
        wait = lifecycle.take_sample(lease)
        assert wait is not None
        assert wait == pytest.approx(max(2, passed / 200), rel=0.02)
        pass_by(wait + 0.01)
        passed += wait + 0.01
    assert row.samples.count() == pytest.approx(200 + 200 * log(hour / 400), rel=0.02)
    query(f"UPDATE {SAMPLES} SET at = statement_timestamp() WHERE id = (SELECT max(id) FROM {SAMPLES})")
    lifecycle.release(lease)
    again = lifecycle.claim(row.pk, "another")
    assert again is not None
    assert lifecycle.take_sample(again) == pytest.approx(18, rel=0.1), "another attempt goes on with the same curve"
    lifecycle.succeed(again)
    lifecycle.rollback(row.pk, ORIGIN)
    backwards = lifecycle.claim(row.pk, "worker")
    assert backwards is not None
    assert (lifecycle.take_sample(backwards) or 0) < 2, "another run has one of its own"


def test_no_attempt_fails_where_they_cannot_be_written(migration, settings, caplog) -> None:
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.01
    query(f"ALTER TABLE {SAMPLES} RENAME TO away")
    try:
        row = carried_out(migration("SELECT pg_sleep(0.2)"))
    finally:
        query(f"ALTER TABLE away RENAME TO {SAMPLES}")
    assert row.status == Status.FINISHED
    assert row.heartbeat_at != row.started_at, "the heart went on beating"
    assert [record.message for record in caplog.records].count("sample not taken") == 1


def test_they_are_found_by_an_index(migration) -> None:
    row, _ = begun(migration)
    query("SET enable_seqscan = off")
    try:
        newest = AsyncMigrationSample.objects.filter(migration=row).order_by("-at")[:1]
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {newest.query}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
    finally:
        query("RESET enable_seqscan")
    assert "async_migration_sample_idx" in plan
    assert "Sort" not in plan
