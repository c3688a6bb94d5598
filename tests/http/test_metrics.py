"""GET /metrics"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import timedelta

from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from async_migrations import counting, lifecycle
from async_migrations.models import AsyncMigrationEvent, AsyncMigrationStatus
from async_migrations.rest import metrics
from async_migrations.states import Status

from .conftest import ORIGIN, assert_problem, begin

URL = "/metrics"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;"
    "version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def samples(answer, parse=text_string_to_metric_families):
    """Return (name, labels) -> value of what is exposed."""
    assert answer.status_code == 200, answer.content
    return {
        (sample.name.removeprefix("async_migrations_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(answer.content.decode())
        for sample in family.samples
    }


def test_it_works(viewer, migration):
    migration(Status.STARTED)
    migration(Status.ERROR, database="second")
    row = migration(Status.IN_PROGRESS)
    AsyncMigrationStatus.objects.filter(pk=row.pk).update(throttled={"reason": "replica_lag_seconds"})
    lifecycle.set_hold("", "release night", ORIGIN)

    found = samples(viewer.get(URL))

    assert found["control_database_up", ()] == 1
    assert found["migrations", (("database", "default"), ("status", "STARTED"))] == 1
    assert found["migrations", (("database", "default"), ("status", "FINISHED"))] == 0
    assert found["migrations", (("database", "second"), ("status", "ERROR"))] == 1
    assert 0 <= found["oldest_in_line_seconds", (("database", "default"),)] < 10
    assert 0 <= found["heartbeat_age_seconds", (("database", "default"),)] < 10
    assert found["heartbeat_age_seconds", (("database", "second"),)] == 0
    assert 0 <= found["hold_age_seconds", (("database", metrics.ALL),)] < 10
    assert found["throttled", (("database", "default"), ("reason", "replica_lag_seconds"))] == 1
    assert found["failures_total", (("code", "unique_violation"), ("database", "second"), ("final", "yes"))] >= 1


def test_whoever_asks_for_openmetrics_gets_it(viewer):
    answer = viewer.get(URL, headers={"Accept": PROMETHEUS})
    assert answer["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert samples(answer, parse_openmetrics)
    for accept in ("*/*", "text/plain", "text/html,*/*;q=0.1"):
        assert viewer.get(URL, headers={"Accept": accept})["Content-Type"].startswith("text/plain; version=0.0.4")
    assert_problem(viewer.get(URL, headers={"Accept": "image/png"}), 406, "not_acceptable")


def test_a_token_is_needed_unless_the_project_says_otherwise(client_of, settings):
    nobody = client_of(None)
    assert_problem(nobody.get(URL), 401, "not_authenticated")
    settings.ASYNC_MIGRATIONS_METRICS_PUBLIC = "yes"
    assert samples(nobody.get(URL))


def test_the_life_of_a_migration_is_counted(viewer, migration):
    before = samples(viewer.get(URL))
    row = migration(Status.STARTED, kind="backfill")
    AsyncMigrationStatus.objects.filter(pk=row.pk).update(requested_at=Now() - timedelta(minutes=1))
    lease = begin(row.pk)
    lifecycle.note(lease, "lock_retry", statement=1)
    lifecycle.note(lease, "waiting_for_session", holders=[{"application_name": "manage.py migrate"}])
    lifecycle.note(lease, "waiting_for_session", holders=[{"application_name": f"async-migrations/{row.pk}/1"}])
    lifecycle.note(lease, "throttled", reason="lock_waiters", seconds=2.5)
    lifecycle.note(lease, "throttled", reason="it is Monday", seconds=1.5)
    lifecycle.succeed(lease)
    after = samples(viewer.get(URL))

    def grown(name, **labels):
        key = name, tuple(sorted(labels.items()))
        return after[key] - before.get(key, 0)

    on = {"database": "default"}
    assert grown("attempts_total", kind="backfill", **on) == 1
    assert 60 <= grown("time_in_line_seconds_sum", kind="backfill", **on) < 70
    assert grown("duration_seconds_count", kind="backfill", status="FINISHED", **on) == 1
    assert grown("lock_retries_total", **on) == grown("adoptions_total", **on) == 1
    assert grown("throttled_seconds_total", reason="lock_waiters", **on) == 2.5
    assert grown("throttled_seconds_total", reason="callable", **on) == 1.5


def test_requests_are_timed_by_door_without_the_values_in_their_addresses(viewer, migration):
    row = migration()
    viewer.get(f"/api/async-migrations/{row.pk}")
    viewer.get(f"/api/async-migrations/{row.pk}", headers={"Prefer": "wait=0"})
    viewer.get("/api/async-migrations/99999999")
    viewer.generic("BREW", f"/api/async-migrations/{row.pk}")
    seen = {
        (labels["method"], labels["status"], labels["waited"])
        for (name, found), _ in samples(viewer.get(URL)).items()
        if name == "request_seconds_count" and (labels := dict(found))["door"] == "/api/async-migrations/{id}"
    }
    assert seen >= {("GET", "200", "no"), ("GET", "200", "yes"), ("GET", "404", "no"), ("other", "405", "no")}


def test_files_that_go_while_they_are_read_are_no_error(tmp_path, monkeypatch):
    for process in "123":
        file = MmapedDict(str(tmp_path / f"counter_{process}.db"))
        file.write_value(mmap_key("asked", "asked_total", [], [], "-"), 1, 0)
        file.close()
    (tmp_path / "counter_4.db").touch()
    (tmp_path / "counter_5.db").symlink_to(tmp_path / "gone")  # It is seen, and is not there when looked at.
    read, (first, *others) = MmapedDict.read_all_values_from_file, tmp_path.glob("counter_[123].db")

    def others_go(file):
        for other in others:
            other.unlink(missing_ok=True)
        return read(file)

    collector = counting.Collector(None, str(tmp_path))
    assert [sample.value for metric in collector.collect() for sample in metric.samples] == [3]
    monkeypatch.setattr(MmapedDict, "read_all_values_from_file", staticmethod(others_go))
    assert [sample.value for metric in collector.collect() for sample in metric.samples] == [1]
    monkeypatch.undo()
    first.unlink()
    assert list(collector.collect()) == []


def test_a_control_database_that_is_away_leaves_the_counters(client_of, settings, monkeypatch):
    def away():
        raise OperationalError

    settings.ASYNC_MIGRATIONS_METRICS_PUBLIC = True
    monkeypatch.setattr(lifecycle, "counts", away)
    found = samples(client_of(None).get(URL))
    assert found["control_database_up", ()] == 0
    assert not any(name == "migrations" for name, _ in found)


def test_a_scrape_is_four_queries_however_much_there_is_and_none_reads_a_large_table(control):
    fill(20_000)
    with CaptureQueriesContext(connection) as asked:
        list(metrics.State().collect())
    statements = [query["sql"] for query in asked]
    assert len(statements) == 4
    for statement in statements:
        assert AsyncMigrationEvent._meta.db_table not in statement
        assert f"Seq Scan on {AsyncMigrationStatus._meta.db_table}" not in plan(statement)
    assert "Index Only Scan" in plan(statements[0])


def fill(rows):
    """Make so many rows, nearly all of them at their end."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO async_migrations_asyncmigrationstatus (name, database, kind, direction, status, meta,
                 sql_forwards, sql_backwards, sql_digest, options, phase, progress_unit, waiting_on, queued_behind,
                 tuning, quarantined, attempt, priority, max_attempts, has_run, worker, requested_by, request_id,
                 traceparent, requested_at, finished_at)
               SELECT 'app.migrations.' || g, 'default', 'sql', 'forwards',
                 CASE WHEN g %% 100 = 0 THEN 'STARTED' ELSE 'FINISHED' END, '{}', repeat('SELECT 1 ', 50), '', '', '{}',
                 '', '', '[]', '[]', '{}', 0, 1, 0, 5, true, '', '', '', '', now(),
                 CASE WHEN g %% 100 = 0 THEN NULL ELSE now() END
               FROM generate_series(1, %s) AS g""",
            [rows],
        )
        # Commits do not wait for the disk here, and nothing is visible to all before it is there.
        cursor.execute("CHECKPOINT")
        cursor.execute("VACUUM ANALYZE async_migrations_asyncmigrationstatus")


def plan(statement):
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {statement}")
        return "\n".join(line for (line,) in cursor.fetchall())


def test_without_prometheus_client_all_else_works_and_the_page_says_what_is_missing(tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError")
    (tmp_path / "opentelemetry.py").write_text("raise ImportError")
    script = """
import sys, types, django; django.setup()
from django.test import RequestFactory
from async_migrations import counting, tracing
from async_migrations.rest.metrics import MetricsDoor
counting.worker_seen("queue"); counting.rows_done("default", 1)
with tracing.span("x", {}) as tell: tell({"y": 1})
answer = MetricsDoor.as_view()(RequestFactory().get("/metrics"))
print(answer.status_code, answer.content.decode(), repr(tracing.carried()))
"""
    env = {"DATABASE_URL": "sqlite://:memory:", "SECRET_KEY": "x", "DJANGO_SETTINGS_MODULE": "api.settings"}
    env |= {"PYTHONPATH": f"{tmp_path}:.", "ASYNC_MIGRATIONS_METRICS_PUBLIC": "yes"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("404 "), done.stderr
    (problem,) = map(json.loads, re.findall(r"{.*}", done.stdout))
    assert problem["detail"] == metrics.NOT_INSTALLED
