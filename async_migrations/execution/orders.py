"""What whoever works in a lane is told, and whom they tell: the holder of the lease, and the workers that help."""

from __future__ import annotations

import time
import uuid
from typing import Any, Protocol

from .. import lifecycle
from ..conf import conf
from ..models import AsyncMigrationStatus
from ..states import Status
from .attempt import Attempt, Interrupted
from .heartbeat import shutdown
from .pace import Wishes


class Orders(Protocol):
    """What a walk asks and tells while it goes on.

    token: what its lanes are held by.
    """

    migration: AsyncMigrationStatus
    token: str
    worker: str

    @property
    def stopped(self) -> bool:
        """Whether there is a reason not to go on."""

    @property
    def tuning(self) -> dict[str, Any]:
        """What was set live."""

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until a reason to stop turns up, which is raised as Interrupted."""

    def throttled(self, why: dict[str, Any] | None) -> None:
        """Let the row say why it waits; None: it goes on."""

    def tell(self, kind: str, **detail: Any) -> None:
        """Add an event to the history."""


class Holder:
    """The orders of the attempt that holds the lease; the heartbeat knows them."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.migration, self.worker = attempt.migration, attempt.lease.worker
        self.token = str(attempt.lease.token)

    @property
    def stopped(self) -> bool:
        return self._attempt.heartbeat.stop is not None or shutdown.is_set()

    @property
    def tuning(self) -> dict[str, Any]:
        return self._attempt.heartbeat.tuning

    def pause(self, seconds: float) -> None:
        self._attempt.heartbeat.pause(seconds)
        self._attempt.go_on()

    def throttled(self, why: dict[str, Any] | None) -> None:
        self._attempt.heartbeat.throttled = why

    def tell(self, kind: str, **detail: Any) -> None:
        lifecycle.note(self._attempt.lease, kind, **detail)


class Follower:
    """The orders of a worker that helps: it looks at the row, once a second."""

    def __init__(self, migration: AsyncMigrationStatus, worker: str) -> None:
        self.migration, self.worker = migration, worker
        self.token = str(uuid.uuid4())
        self._row = migration
        self._looked_at = time.monotonic()

    @property
    def stopped(self) -> bool:
        if time.monotonic() - self._looked_at >= conf.heartbeat_seconds:
            self._row = lifecycle.get(self.migration.pk)
            self._looked_at = time.monotonic()
        row = self._row
        # While the holder's own worker is being replaced, the row is STARTED; the lanes are as good as before.
        underway = row.status in {Status.STARTED, Status.IN_PROGRESS} and not row.stop_requested
        same = row.direction == self.migration.direction and row.sql_digest == self.migration.sql_digest
        return shutdown.is_set() or not (underway and same)

    @property
    def tuning(self) -> dict[str, Any]:
        return dict(self._row.tuning)

    def pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.stopped and (left := deadline - time.monotonic()) > 0:
            shutdown.wait(min(left, conf.heartbeat_seconds))
        if self.stopped:
            raise Interrupted

    def throttled(self, why: dict[str, Any] | None) -> None:
        """Leave the row to the holder of the lease, who is held up by the same."""

    def tell(self, kind: str, **detail: Any) -> None:
        lifecycle.remark(self.migration.pk, kind, lifecycle.Origin(self.worker), **detail)


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
