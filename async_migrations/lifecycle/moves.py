"""What every write shares: the conditional UPDATE of a transition, and the event that commits with it."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from ..conf import conf
from ..models import AsyncMigrationEvent, AsyncMigrationStatus
from ..states import Direction, Status, Transition

logger = logging.getLogger("async_migrations")


@dataclass(frozen=True)
class Origin:
    """Who asks: a name for people to read, and the id of the HTTP request if there was one."""

    by: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class Lease:
    """The right to carry a migration out: valid while the row still holds `token`.

    migration: the row as it was when the lease was taken.
    """

    migration: AsyncMigrationStatus
    token: uuid.UUID
    attempt: int
    worker: str

    @property
    def pk(self) -> int:
        """Id of the migration."""
        return self.migration.pk


@dataclass(frozen=True)
class Answer:
    """What became of a request: the row as it is now, and whether this request changed it."""

    migration: AsyncMigrationStatus
    changed: bool


def rows() -> QuerySet[AsyncMigrationStatus]:
    """Return all migrations, in the control database."""
    return AsyncMigrationStatus.objects.using(conf.control_database)


def get(pk: int) -> AsyncMigrationStatus:
    """Return a migration as it is now; AsyncMigrationStatus.DoesNotExist when there is none."""
    return rows().get(pk=pk)


def fresh(origin: Origin, direction: Direction, run_at: datetime | None = None) -> dict[str, Any]:
    """Return the fields of a migration that is about to be tried for the first time since it was asked for."""
    return {
        "direction": direction,
        "attempt": 0,
        "meta": {},
        "requested_by": origin.by,
        "request_id": origin.request_id,
        "requested_at": Now(),
        "run_at": run_at,
        "dispatched_at": None,
        "started_at": None,
        "finished_at": None,
        "stop_requested": None,
        "worker": "",
        "progress_done": None,
        "progress_total": None,
        "progress_unit": "",
        "progress_rate": None,
        "progress_percent": None,
        "eta_seconds": None,
    }


def same(row: AsyncMigrationStatus) -> QuerySet[AsyncMigrationStatus]:
    """Match the row only while it says what was read: status, direction, attempt, and whose lease it is."""
    return rows().filter(
        pk=row.pk,
        status=row.status,
        direction=row.direction,
        attempt=row.attempt,
        lease_token=row.lease_token,
    )


def move(
    transition: Transition,
    row: AsyncMigrationStatus,
    to: Status,
    origin: Origin,
    *conditions: Q,
    detail: dict[str, Any] | None = None,
    **changes: Any,
) -> bool:
    """Carry a transition out if the row still says what was read; its event commits with it."""
    if row.status not in transition.sources or to not in transition.targets:
        raise AssertionError(f"{transition} does not lead from {row.status} to {to}")
    with transaction.atomic(using=conf.control_database):
        won = same(row).filter(*conditions).update(status=to, updated_at=Now(), **changes)
        if won:
            row.attempt = changes.get("attempt", row.attempt)
            record(row, transition.name, origin, to_status=to, **(detail or {}))
    return bool(won)


def remark(pk: int, kind: str, origin: Origin, **detail: Any) -> None:
    """Add an event to the history of a migration from outside of its attempts; nothing if it is not there any more."""
    if (row := rows().filter(pk=pk).first()) is not None:
        record(row, kind, origin, **detail)


def record(row: AsyncMigrationStatus, kind: str, origin: Origin, *, to_status: str = "", **detail: Any) -> None:
    request_id = origin.request_id or row.request_id
    AsyncMigrationEvent.objects.using(conf.control_database).create(
        migration=row,
        kind=kind,
        from_status=row.status if to_status and row.status != to_status else "",
        to_status=to_status,
        attempt=row.attempt,
        by=origin.by,
        request_id=request_id,
        detail=detail,
    )
    logger.info(
        kind,
        extra={
            "migration_id": row.pk,
            "migration": row.name,
            "database": row.database,
            "from_status": str(row.status),
            "to_status": str(to_status or row.status),
            "attempt": row.attempt,
            "by": origin.by,
            "request_id": request_id,
            **({"detail": detail} if detail else {}),
        },
    )
