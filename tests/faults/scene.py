"""A fault's surroundings: migrations that are asked for, the workers, and the check after each fault."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from typing import Any

import httpx
from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone

from async_migrations import lifecycle
from async_migrations.execution.definition import update_text
from async_migrations.lifecycle import Request
from async_migrations.models import AsyncMigrationCheckpoint, AsyncMigrationLane, AsyncMigrationStatus
from async_migrations.states import TERMINAL, Kind, Status
from tests.conftest import Process, eventually
from tests.db.conftest import kinds, query
from tests.driving import ask, backends, scheduled

# Seconds. Far more than anything here takes: no test is decided by it unless something hangs.
PATIENCE = 90

# Short times, so that a fault is over in seconds. The defaults have a test of their own.
SHORT = {
    "ASYNC_MIGRATIONS_LEASE_SECONDS": "2",
    "ASYNC_MIGRATIONS_HEARTBEAT_SECONDS": "0.2",
    "ASYNC_MIGRATIONS_RECONCILE_SECONDS": "0.2",
    "ASYNC_MIGRATIONS_RESEND_SECONDS": "0.5",
    "ASYNC_MIGRATIONS_BACKOFF_SECONDS": "0.1",
}

BUILD = "CREATE INDEX CONCURRENTLY tome_title_idx ON tome (title)"
DROP = "DROP INDEX CONCURRENTLY IF EXISTS tome_title_idx"
INDEX = "tome_title_idx"

# 500 rows, 2 ms each: long enough that a random moment falls inside of it.
SLOWLY = "WHERE pg_sleep(0.001) IS NOT NULL"

# A table whose rows count how often each was changed. A batch of so few takes some 10 ms and its rest as long, so that
# faults fall into both.
TALLY_ROWS = 100_000
COUNT = "n = n + 1 + dawdle()"
SLOW: dict[str, Any] = {"batch_size": 5, "batch_delay_seconds": 0.01, "duty_cycle": 1}
_DAWDLE = "CREATE OR REPLACE FUNCTION dawdle() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT {}'"

# A worker that takes one message at a time leaves the others to the next.
ONE_AT_A_TIME: dict[str, Any] = {"threads": 1, "dramatiq_queue_prefetch": "1"}

# Names are never used twice: a server of a module's own keeps the rows of earlier tests.
_numbers = count(1)


class Scene:
    """One server of rows and targets, seen from outside.

    using: the alias by which this process reaches both; workers know it as `default`. client: an operator at its API.
    """

    def __init__(self, client: httpx.Client, using: str = "default") -> None:
        self.client, self.using = client, using
        self.asked: list[int] = []

    # --- asking ---

    def schedule(self, forwards: str, backwards: str = "SELECT 1", **options: Any) -> int:
        """Schedule a migration under a name of its own; return the id."""
        pk = scheduled(forwards, backwards, f"faults.migrations.{next(_numbers):04}", **options)
        self.asked.append(pk)
        return pk

    def run(self, forwards: str, backwards: str = "SELECT 1", **options: Any) -> int:
        """Schedule a migration and ask for it; return the id."""
        pk = self.schedule(forwards, backwards, **options)
        ask(self.client, pk)
        return pk

    def backfill(self, table: str, update: str, **options: Any) -> int:
        """Schedule a backfill under a name of its own and ask for it; return the id.

        options: those of `make_backfill_migration`, with numbers of seconds.
        """
        wanted = {"table": table, "update": True, **options}
        text = update_text(table, update, options.get("where", ""))
        name = f"faults.migrations.{next(_numbers):04}"
        pk = lifecycle.take_over(Request("schedule", name, "default", text, "", wanted, Kind.BACKFILL.value)).pk
        self.asked.append(pk)
        ask(self.client, pk)
        return pk

    def tune(self, pk: int, **wishes: Any) -> None:
        """Tune a migration live."""
        answer = self.client.patch(f"/api/async-migrations/{pk}/tuning", json=wishes)
        assert answer.status_code == 200, answer.text

    def hurry(self, pk: int) -> None:
        """Let a slow backfill come to its end."""
        query(_DAWDLE.format("0"), self.using)
        self.tune(pk, batch_size=10_000, batch_delay_seconds=0)

    # --- looking ---

    def lanes(self, pk: int) -> list[AsyncMigrationLane]:
        """Return the lanes of a backfill, none while its server is away."""
        try:
            return list(AsyncMigrationLane.objects.using(self.using).filter(migration_id=pk).order_by("number"))
        except (DatabaseError, InterfaceError):
            connections[self.using].close()
            return []

    def walked(self, pk: int, rows: float) -> list[AsyncMigrationLane]:
        """Wait until a backfill has changed so many rows; return its lanes."""

        def look() -> list[AsyncMigrationLane]:
            lanes = self.lanes(pk)
            return lanes if lanes and sum(lane.rows_done for lane in lanes) >= rows else []

        return eventually(look, PATIENCE, what=f"{rows:.0f} rows are changed")

    def done(self, pk: int) -> int:
        """Return how many rows a backfill has changed, as its lanes have it."""
        return sum(lane.rows_done for lane in self.lanes(pk))

    def at_work(self, pk: int) -> set[str]:
        """Return the workers that hold a lane of a backfill."""
        held = (lane for lane in self.lanes(pk) if lane.token and not lane.finished)
        return {lane.worker for lane in held if lane.lease_expires_at and lane.lease_expires_at > moment_now()}

    def both_at_work(self, pk: int) -> None:
        """Wait until two workers are at work in lanes of a backfill."""
        eventually(lambda: len(self.at_work(pk)) == 2, PATIENCE, what="two workers are at work")

    def now(self, pk: int) -> AsyncMigrationStatus | None:
        """Return the row, None while its server is away."""
        try:
            return lifecycle.get(pk)
        except (DatabaseError, InterfaceError):
            connections[self.using].close()
            return None

    def until(self, pk: int, reached: Callable[[AsyncMigrationStatus], Any], what: str) -> AsyncMigrationStatus:
        """Wait until the row is as wanted; return it."""

        def look() -> AsyncMigrationStatus | None:
            row = self.now(pk)
            return row if row is not None and reached(row) else None

        row = eventually(look, PATIENCE, what=what)
        assert row is not None
        return row

    def claimed(self, pk: int) -> AsyncMigrationStatus:
        """Wait until a worker has begun; it may have ended by then."""
        return self.until(pk, lambda row: row.attempt or row.terminal, "a worker has claimed it")

    def phase(self, pk: int, phase: str) -> AsyncMigrationStatus:
        """Wait until the row says that phase."""
        return self.until(pk, lambda row: row.phase == phase, f"phase {phase}")

    def happened(self, pk: int, kind: str) -> AsyncMigrationStatus:
        """Wait until there is an event of that kind."""
        return self.until(pk, lambda row: kind in story(row), kind)

    def ended(self, pk: int) -> AsyncMigrationStatus:
        """Wait until the migration is terminal."""
        return self.until(pk, lambda row: row.status in TERMINAL, "a terminal status")

    def finished(self, pk: int) -> AsyncMigrationStatus:
        """Wait until the migration is terminal, which must be FINISHED."""
        row = self.ended(pk)
        assert row.status == Status.FINISHED, (row.status, row.meta, story(row))
        return row

    def holders(self) -> list[Any]:
        """Return the sessions that hold a lock of a migration."""
        names = [lifecycle.get(pk).name for pk in self.asked]
        keys = ", ".join(f"hashtextextended('async_migrations:{name}', 0)" for name in names)
        return query(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
            f"AND ((classid::bigint << 32) | objid::bigint) IN ({keys})",
            self.using,
        )

    # --- the check after each fault ---

    def check(self, *pks: int) -> None:
        """All that must hold after any fault, whatever it was."""
        for pk in pks:
            self._check_row(lifecycle.get(pk))
        following = self.run("SELECT 1")
        assert kinds(self.finished(following)).count("claim") == 1
        eventually(lambda: not backends(self.using), PATIENCE, what="no session of an attempt is left")
        assert not self.holders()
        assert not query(
            "SELECT indexrelid::regclass FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE NOT (indisvalid AND indisready) OR relname ~ '_cc(new|old)[0-9]*$'",
            self.using,
        )

    def _check_row(self, row: AsyncMigrationStatus) -> None:
        told = story(row)
        assert row.status in TERMINAL, told
        assert row.lease_token is None, told
        assert row.stop_requested is None, told
        assert row.waiting_on == [], told
        assert row.attempt <= row.max_attempts, told
        assert told[-1] == {"FINISHED": "succeed", "ERROR": "fail", "CANCELLED": "cancel"}[row.status], told
        assert told.count("succeed") <= 1, told
        if row.kind == Kind.BACKFILL:
            assert all(lane.finished for lane in self.lanes(row.pk)) or row.status != Status.FINISHED, told
        elif row.status == Status.FINISHED and row.database == "default":
            mark = AsyncMigrationCheckpoint.objects.using(self.using).get(name=row.name)
            assert mark.done, told
            assert not mark.begun, told


class Crew:
    """The workers of a test; one of them holds the migration."""

    def __init__(self, start: Callable[..., Process], **environment: str) -> None:
        self._start, self._environment = start, {**SHORT, **environment}
        self.workers: list[Process] = []

    def hire(self, number: int = 1, *, threads: int = 4, **environment: str) -> None:
        """Start further workers."""
        env = {**self._environment, **environment}
        self.workers += [self._start(threads=threads, **env) for _ in range(number)]

    def holder(self, row: AsyncMigrationStatus) -> Process:
        """Return the worker that carries a migration out, or did so last."""
        return self.named(row.worker)

    def named(self, name: str) -> Process:
        """Return the worker of that name, as rows and lanes have it."""
        group = os.getpgid(int(name.rpartition(":")[2]))
        return next(worker for worker in self.workers if worker.pid == group)

    def kill(self, worker: Process) -> None:
        """SIGKILL to the worker's whole process group."""
        self.workers.remove(worker)
        worker.kill()

    def dismiss(self, worker: Process) -> None:
        """SIGTERM to the worker, and wait until it is gone."""
        self.workers.remove(worker)
        worker.terminate()
        eventually(lambda: not worker.is_alive(), PATIENCE, what="the worker ends")

    @contextmanager
    def frozen(self, worker: Process) -> Any:
        """SIGSTOP to the worker for the length of the block, then SIGCONT."""
        os.killpg(worker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(worker.pid, signal.SIGCONT)


def make_tally(rows: int = TALLY_ROWS, using: str = "default") -> None:
    """Make the table, every third key taken, and what makes changing it slow."""
    query("DROP TABLE IF EXISTS tally", using)
    query("CREATE TABLE tally (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)", using)
    query(f"INSERT INTO tally SELECT 3 * g FROM generate_series(1, {rows}) AS g", using)
    query("ANALYZE tally", using)
    query(_DAWDLE.format("length(pg_sleep(0.002)::text)"), using)


def drop_tally(using: str = "default") -> None:
    """Remove both."""
    query("DROP TABLE IF EXISTS tally", using)
    query("DROP FUNCTION IF EXISTS dawdle", using)


def story(row: AsyncMigrationStatus) -> list[str]:
    """Return what happened to a migration, oldest first."""
    return kinds(row)


def way(row: AsyncMigrationStatus) -> str:
    """Say in a few words how a migration ended, from its events alone."""
    told = story(row)
    if told.count("claim") < 2:
        return f"{row.status}, nothing to take over"
    if "repair" in told:
        return f"{row.status}, remains removed, built again"
    if "found_done" in told:
        return f"{row.status}, the orphan's work adopted"
    if "resumed" in told:
        return f"{row.status}, went on behind what was done"
    return f"{row.status}, begun again"


def taken_over(row: AsyncMigrationStatus, at: datetime) -> float | None:
    """Return after how many seconds a worker had the work again; None when there was nothing left to do."""
    claims = row.events.filter(kind="claim", created_at__gt=at).order_by("id").values_list("created_at", flat=True)
    first = next(iter(claims), None)
    return None if first is None else (first - at).total_seconds()


def until_end(row: AsyncMigrationStatus, at: datetime) -> float:
    """Return after how many seconds it was over."""
    assert row.finished_at is not None
    return max(0.0, (row.finished_at - at).total_seconds())


def moment_now() -> datetime:
    """Return the time; server and tests are on one machine, and have one clock."""
    return timezone.now()
