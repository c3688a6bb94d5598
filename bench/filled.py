"""The tables of a control plane that has seen years: rows in every status, most of them FINISHED, each with events."""

from __future__ import annotations

from typing import Any, Final

TABLE: Final = "async_migrations_asyncmigrationstatus"
EVENTS: Final = "async_migrations_asyncmigrationevent"

# As long as SQL is.
_FURTHER: Final = "' -- ' || repeat(md5(g::text), 8)"

# One in a hundred each, of what is not FINISHED; none is IN PROGRESS, which needs a worker that holds a lease.
_ROWS = f"""
WITH numbered AS (
    SELECT g,
           CASE g %% 100
               WHEN 0 THEN 'SCHEDULED' WHEN 1 THEN 'PAUSED' WHEN 2 THEN 'ERROR' WHEN 3 THEN 'CANCELLED'
               WHEN 4 THEN 'ROLLED BACK' ELSE CASE WHEN g %% 1000 = 5 THEN 'STARTED' ELSE 'FINISHED' END
           END AS status,
           now() - make_interval(mins => %(count)s - g) AS created_at
    FROM generate_series(%(first)s, %(count)s) AS g
)
INSERT INTO {TABLE} (
    name, database, kind, direction, status, meta, sql_forwards, sql_backwards, sql_digest, options, phase,
    progress_done, progress_total, progress_unit, progress_rate, progress_percent, eta_seconds, waiting_on,
    queued_behind, tuning, quarantined, attempt, priority, max_attempts, has_run, worker, requested_by, request_id,
    created_at, updated_at, requested_at, started_at, finished_at, heartbeat_at
)
SELECT format('app_%%s.migrations.%%s_async', g %% 500, lpad(g::text, 7, '0')),
       CASE WHEN g %% 10 = 0 THEN 'second' ELSE 'default' END,
       CASE WHEN g %% 7 = 0 THEN 'backfill' ELSE 'sql' END,
       CASE WHEN status = 'ROLLED BACK' THEN 'backwards' ELSE 'forwards' END,
       status,
       '{{"job_id": "3f0c4a52-7d4a-4a3e-9b68-0a7f4f0c9d11"}}',
       'SELECT ' || g || {_FURTHER}, 'SELECT -' || g || {_FURTHER},
       md5(g::text) || md5((g + 1)::text), '{{}}', '',
       441021, 441021, 'blocks', 9120.5, 100, 0, '[]', '[]', '{{}}', 0, 1, 0, 5, true, 'db-worker-2:4711', 'ci',
       md5(g::text), created_at, created_at, created_at, created_at,
       CASE WHEN status IN ('FINISHED', 'ERROR', 'CANCELLED', 'ROLLED BACK') THEN created_at END, created_at
FROM numbered ORDER BY g
"""
_EVENTS = f"""
INSERT INTO {EVENTS} (migration_id, kind, from_status, to_status, attempt, by, request_id, detail, created_at)
SELECT row.id, 'tuned', '', '', 1, 'ci', row.request_id, '{{"after": {{"priority": 1}}}}', row.created_at
FROM generate_series(1, %(each)s), {TABLE} AS row
WHERE NOT EXISTS (SELECT FROM {EVENTS} AS event WHERE event.migration_id = row.id)
"""


def fill(cursor: Any, rows: int, events_each: int, *, first: int = 1) -> None:
    """Insert rows up to so many, so many events for each that has none, and have the planner know about it.

    cursor: of an autocommit connection. first: number of the first that is not there yet.
    """
    cursor.execute(_ROWS, {"first": first, "count": rows})
    cursor.execute(_EVENTS, {"each": events_each})
    # What autovacuum does sooner or later: an index alone answers only what the visibility map says is old.
    cursor.execute(f"VACUUM ANALYZE {TABLE}")
    cursor.execute(f"VACUUM ANALYZE {EVENTS}")


def hold(cursor: Any) -> None:
    """Have the worker leave alone what is in line."""
    cursor.execute(
        "INSERT INTO async_migrations_asyncmigrationhold (database, reason, by, request_id, lifted_by) "
        "VALUES ('', 'measured', 'the bench', '', '')"
    )
