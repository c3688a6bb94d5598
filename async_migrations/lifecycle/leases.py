"""What the holder of a lease writes, and how a lease is taken and lost."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from .. import states
from ..conf import conf
from ..errors import ExecutionError, LeaseLost
from ..models import AsyncMigrationStatus
from ..states import Direction, Status, Transition
from .line import due, free_slot
from .moves import Lease, Origin, move, record, rows

_UNLEASED: dict[str, Any] = {
    "lease_token": None,
    "lease_expires_at": None,
    "slot": None,
    "waiting_on": [],
    "queued_behind": [],
    "phase": "",
}


def claim(pk: int, worker: str) -> Lease | None:
    """Take the lease and one of the target's places, or return None: somebody else has it, or it is not its turn."""
    waiting = rows().filter(due(), pk=pk, status=Status.STARTED)
    row = waiting.first()
    if row is None:
        return None
    slot = free_slot(row.database)
    if slot is None:
        turn = f"waits for its turn: others are being carried out on database {row.database}"[:255]
        waiting.exclude(phase=turn).update(phase=turn, updated_at=Now())
        return None
    lease = Lease(row, uuid.uuid4(), row.attempt + 1, worker)
    try:
        won = move(
            states.CLAIM,
            row,
            Status.IN_PROGRESS,
            Origin(worker),
            attempt=lease.attempt,
            lease_token=lease.token,
            lease_expires_at=_lease_end(),
            slot=slot,
            phase="",
            worker=worker,
            has_run=True,
            meta={**row.meta, "job_id": str(lease.token)},
            started_at=row.started_at or Now(),
            heartbeat_at=Now(),
        )
    except IntegrityError:  # Another migration took the last place on this database in the same moment.
        return None
    return lease if won else None


def renew(lease: Lease, **progress: Any) -> str | None:
    """Prolong the lease and write the progress fields given; return what the attempt is asked to do instead, or None.

    Raises LeaseLost when the row holds another token, or none.
    """
    held = _held(lease)
    if not held.update(lease_expires_at=_lease_end(), heartbeat_at=Now(), updated_at=Now(), **progress):
        raise LeaseLost
    return held.values_list("stop_requested", flat=True).first()


def note(lease: Lease, kind: str, **detail: Any) -> None:
    """Add an event to the history of the attempt. Raises LeaseLost when the lease is gone."""
    with transaction.atomic(using=conf.control_database):
        row = _held(lease).select_for_update(of=("self",)).first()
        if row is None:
            raise LeaseLost
        record(row, kind, Origin(lease.worker), **detail)


def succeed(lease: Lease) -> None:
    """Write FINISHED, or ROLLED BACK when it went backwards: the effect is there, verified."""
    end = Status.ROLLED_BACK if lease.migration.direction == Direction.BACKWARDS else Status.FINISHED
    changes: dict[str, Any] = {"progress_done": F("progress_total"), "eta_seconds": None, "finished_at": Now()}
    if end == Status.ROLLED_BACK:
        changes["has_run"] = False
    _end(states.SUCCEED, lease, end, **changes)


def fail(lease: Lease, error: ExecutionError) -> None:
    """Write ERROR with what happened, what it means and what to do."""
    meta = {"job_id": str(lease.token), "error": error.as_meta()}
    _end(states.FAIL, lease, Status.ERROR, meta=meta, finished_at=Now(), detail={"error": error.as_meta()})


def cancelled(lease: Lease) -> None:
    """Write CANCELLED: the stop request was obeyed and the leftovers are gone."""
    _end(states.CANCEL, lease, Status.CANCELLED, finished_at=Now())


def release(
    lease: Lease, *, error: ExecutionError | None = None, delay: timedelta = timedelta(0), reason: str = ""
) -> None:
    """Give the migration back, to be taken again after `delay`. Without an error the attempt does not count.

    reason: why it waits, for the row.
    """
    changes: dict[str, Any] = {"run_at": Now() + delay if delay else None, "dispatched_at": None}
    detail: dict[str, Any] = {"delay_seconds": round(delay.total_seconds(), 3)}
    if error is None:
        changes["attempt"] = lease.attempt - 1
    else:
        detail["error"] = error.as_meta()
        reason = f"waits for another attempt after {error.code}: {error.message}"
    if reason:
        changes["phase"] = detail["reason"] = reason[:255]
    _end(states.RELEASE, lease, Status.STARTED, keep_request=True, detail=detail, **changes)


def _end(
    transition: Transition,
    lease: Lease,
    to: Status,
    *,
    keep_request: bool = False,
    detail: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    row = _held(lease).first()
    if row is None:
        raise LeaseLost
    if not keep_request:
        changes |= {"stop_requested": None, "run_at": None}
    if not move(transition, row, to, Origin(lease.worker), detail=detail, **_UNLEASED | changes):
        raise LeaseLost


def reap() -> list[int]:
    """Take the lease from every worker that has been silent for too long; return what is in line again."""
    again = []
    for row in rows().filter(status=Status.IN_PROGRESS, lease_expires_at__lt=Now()):
        used_up = row.attempt >= row.max_attempts and not row.stop_requested
        changes: dict[str, Any] = {"dispatched_at": None}
        if used_up:
            error = _worker_lost(row)
            changes = {"meta": {**row.meta, "error": error.as_meta()}, "finished_at": Now()}
        elif row.stop_requested:
            changes["attempt"] = row.attempt - 1  # What is left of it is to clean up, and that must be possible.
        to = Status.ERROR if used_up else Status.STARTED
        expired = Q(lease_expires_at__lt=Now())
        if move(
            states.REAP, row, to, Origin("reconciler"), expired, detail={"worker": row.worker}, **_UNLEASED, **changes
        ):
            again.append(row.pk)
    return again


def _worker_lost(row: AsyncMigrationStatus) -> ExecutionError:
    return ExecutionError(
        code="worker_lost",
        message=f"The worker {row.worker} fell silent in attempt {row.attempt}, the last of {row.max_attempts}.",
        hint="Find out why the workers die (memory, restarts), then run the migration again: it goes on where it was.",
    )


def _lease_end() -> Any:
    return Now() + timedelta(seconds=conf.lease_seconds)


def _held(lease: Lease) -> QuerySet[AsyncMigrationStatus]:
    return rows().filter(pk=lease.pk, status=Status.IN_PROGRESS, lease_token=lease.token)
