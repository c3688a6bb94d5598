"""What whoever works in a lane is told, and whom they tell: the holder of the lease, and the workers that help."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone

from .. import lifecycle
from ..conf import conf
from ..errors import ExecutionError
from ..models import AsyncMigrationStatus
from ..states import Status, StopRequest
from .attempt import Attempt, Interrupted
from .heartbeat import shutdown
from .lanes import Lanes, lane_application_name
from .pace import Wishes
from .session import Backend, Session

logger = logging.getLogger("async_migrations")

#: The phase of a backfill that is at it.
CHANGING = "changing rows"

# Seconds between two looks whether a pause is to be cut short.
_LOOK_SECONDS = 0.2


class Orders(Protocol):
    """What a walk asks and tells while it goes on.

    token: what its lanes are held by. tuning: what was set live.
    """

    migration: AsyncMigrationStatus
    token: str
    worker: str

    @property
    def tuning(self) -> dict[str, Any]: ...

    @property
    def stopped(self) -> bool:
        """Whether there is a reason not to go on."""

    def go_on(self) -> None:
        """Raise Interrupted when there is a reason not to; asked between two batches."""

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until a reason to stop turns up, which is raised as Interrupted."""

    def throttled(self, why: dict[str, Any] | None) -> None:
        """Let the row say why it waits; None: it goes on."""

    def goes_gently(self, why: str) -> None:
        """Let the row say why it goes gently; empty: it does not."""

    def tell(self, kind: str, **detail: Any) -> None:
        """Add an event to the history."""


class Holder:
    """The orders of the attempt that holds the lease; the heartbeat knows them.

    between: what the holder does beside its lane, between two batches.
    """

    def __init__(self, attempt: Attempt, between: Callable[[], None]) -> None:
        self._attempt, self._between = attempt, between
        self.migration, self.worker = attempt.migration, attempt.lease.worker
        self.token = str(attempt.lease.token)

    @property
    def stopped(self) -> bool:
        return self._attempt.heartbeat.stop is not None or shutdown.is_set()

    @property
    def tuning(self) -> dict[str, Any]:
        return self._attempt.heartbeat.tuning

    def go_on(self) -> None:
        self._attempt.go_on()
        self._between()

    def pause(self, seconds: float) -> None:
        self._attempt.heartbeat.pause(seconds)
        self._attempt.go_on()

    def throttled(self, why: dict[str, Any] | None) -> None:
        self._attempt.heartbeat.throttled = why

    def goes_gently(self, why: str) -> None:
        self._attempt.heartbeat.phase = f"{CHANGING}, {why}" if why else CHANGING

    def tell(self, kind: str, **detail: Any) -> None:
        lifecycle.note(self._attempt.lease, kind, **detail)


class Follower:
    """The orders of a worker that helps, while the `with` block runs.

    A thread looks at the row once a second, and keeps the lanes.
    """

    def __init__(self, migration: AsyncMigrationStatus, worker: str, backend: Backend) -> None:
        self.migration, self.worker = migration, worker
        self.token = str(uuid.uuid4())
        self.tuning: dict[str, Any] = migration.tuning
        self._backend = backend
        self._unclaimed_since: float | None = None
        self._told_to_stop = not self._underway(migration)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lanes-{migration.pk}", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def stopped(self) -> bool:
        return self._told_to_stop or shutdown.is_set()

    def go_on(self) -> None:
        if self.stopped:
            raise Interrupted

    def pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.stopped and (left := deadline - time.monotonic()) > 0:
            shutdown.wait(min(left, _LOOK_SECONDS))
        self.go_on()

    def throttled(self, why: dict[str, Any] | None) -> None:
        """Leave the row to the holder of the lease, who is held up by the same."""

    def goes_gently(self, why: str) -> None:
        """Leave that to the holder of the lease, too."""

    def tell(self, kind: str, **detail: Any) -> None:
        lifecycle.remark(self.migration.pk, kind, lifecycle.Origin(self.worker), **detail)

    def _underway(self, row: AsyncMigrationStatus) -> bool:
        # While the holder's own worker is being replaced, the row is STARTED; the lanes are as good as before.
        going = row.status in {Status.STARTED, Status.IN_PROGRESS} and not row.stop_requested
        same = (row.direction, row.sql_digest) == (self.migration.direction, self.migration.sql_digest)
        return going and same and not self._is_missed(row) and lifecycle.held(row.database) is None

    def _is_missed(self, row: AsyncMigrationStatus) -> bool:
        """Whether it is due and nobody claims it: maybe all others who could are helping, too."""
        due = row.status == Status.STARTED and (row.run_at is None or row.run_at <= timezone.now())
        now = time.monotonic()
        self._unclaimed_since = (self._unclaimed_since or now) if due else None
        return self._unclaimed_since is not None and now - self._unclaimed_since > conf.resend_seconds

    def _run(self) -> None:
        name = f"{lane_application_name(self.migration.pk)}/heartbeat"
        try:
            while not self._ended.wait(conf.heartbeat_seconds):
                try:
                    self._look(name)
                except (ExecutionError, DatabaseError, InterfaceError):  # The leases hold until their time is up.
                    logger.warning("helper could not look", extra={"migration_id": self.migration.pk}, exc_info=True)
                    connections.close_all()
        finally:
            connections.close_all()

    def _look(self, name: str) -> None:
        row = lifecycle.get(self.migration.pk)
        self.tuning = row.tuning
        with Session(self.migration.database, name) as session:
            if self._underway(row):
                Lanes(session, self.migration).keep(self.token)
                return
            self._told_to_stop = True
            to_the_end = row.status == Status.STARTED or row.stop_requested == StopRequest.PAUSE
            if not to_the_end and lifecycle.held(row.database) is None:
                session.one("cancel_backend", **self._backend._asdict())


def wishes(orders: Orders) -> Wishes:
    """Return what the file, the settings and live tuning ask of the pace now."""
    wanted = {**orders.migration.options, **orders.tuning}
    most = wanted.get("max_rows_per_second")
    return Wishes(
        ceiling=int(wanted.get("batch_size", conf.batch_size)),
        target=float(wanted.get("target_batch_seconds", conf.target_batch_seconds)),
        delay=float(wanted.get("batch_delay_seconds", 0)),
        duty=float(wanted.get("duty_cycle", conf.duty_cycle)),
        rows_per_second=None if most is None else float(most) / int(wanted.get("lanes", 1)),
    )
