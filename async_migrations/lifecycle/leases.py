"""What the holder of a lease writes, and how a lease is taken and lost."""

from __future__ import annotations

import uuid
from copy import copy
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from django.db import IntegrityError
from django.db.models import F, Q, QuerySet, Subquery, Value
from django.utils import timezone

from .. import states
from ..conf import conf
from ..errors import ExecutionError, LeaseLost
from ..models import AsyncMigrationEvent, AsyncMigrationStatus
from ..states import Direction, Kind, Status, StopRequest, Transition
from . import compiled
from .audit import Origin
from .hold import held, is_held, is_kept_back
from .line import free_slot, in_line, with_taken
from .moves import NOW, Lease, move, record_where, rows

_UNLEASED: dict[str, Any] = {
    "lease_token": None,
    "lease_expires_at": None,
    "slot": None,
    "waiting_on": [],
    "queued_behind": [],
    "throttled": None,
    "phase": "",
}

_BESIDE = compiled.Slot("beside")

_ALL_DONE = F("progress_total")

# Who loses a race for the first in line looks again; each time somebody else has got on.
_TRIES = 10


def claim(pk: int, worker: str) -> Lease | None:
    """Take the lease and one of the target's places, or return None: somebody else has it, or it is not its turn."""
    row = with_taken(in_line().filter(pk=pk)).first()
    return None if row is None else _take(row, worker)


def claim_first(beside: int, worker: str) -> Lease | None:
    """Take the lease of what is first in line on the database of this migration; None when nothing can be claimed."""
    first = _first_in_line(conf.control_database)
    for _ in range(_TRIES):
        row = compiled.read(first.text, first.filled({_BESIDE: beside}))
        if row is None or free_slot(row) is None:
            return None
        if lease := _take(row, worker):
            return lease
    return None


@cache
def _first_in_line(alias: str) -> compiled.Sql:
    """Return the query for the first in line beside the migration `_BESIDE`."""
    database = Subquery(rows().filter(pk=Value(_BESIDE)).order_by().values("database"))
    return compiled.select(with_taken(in_line().filter(database=database))[:1], alias)


@cache
def _not_kept_back(alias: str) -> Q:
    return ~is_kept_back()


@cache
def _in(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def _take(row: AsyncMigrationStatus, worker: str) -> Lease | None:
    slot = free_slot(row)
    if slot is None:
        return None
    lease = Lease(row, uuid.uuid4(), row.attempt + 1, worker)
    try:
        won = move(
            states.CLAIM,
            row,
            Status.IN_PROGRESS,
            Origin(worker),
            _not_kept_back(conf.control_database),  # A hold that is set between the look and this one counts.
            detail={"rows_done": row.progress_done} if row.kind == Kind.BACKFILL and row.progress_done else None,
            attempt=lease.attempt,
            lease_token=lease.token,
            lease_expires_at=_in(conf.lease_seconds),
            slot=slot,
            phase="",
            worker=worker,
            has_run=True,
            meta={**row.meta, "job_id": str(lease.token)},
            started_at=row.started_at or NOW,
            heartbeat_at=NOW,
        )
    except IntegrityError:  # Another migration took the last place on this database in the same moment.
        return None
    return lease if won else None


class Asked(NamedTuple):
    """What people ask of an attempt while it goes on: a stop request, or None, what was set live, and a hold."""

    stop: str | None
    tuning: dict[str, Any]
    held: bool


def renew(lease: Lease, **progress: Any) -> Asked:
    """Prolong the lease and write the progress fields given; return what the attempt is asked.

    Raises LeaseLost when the row holds another token, or none.
    """
    leased = _leased(lease)
    if not leased.update(lease_expires_at=_in(conf.lease_seconds), heartbeat_at=NOW, updated_at=NOW, **progress):
        raise LeaseLost
    asked = leased.values_list("stop_requested", "tuning", is_held()).first()
    if asked is None:
        raise LeaseLost
    return Asked(*asked)


def note(lease: Lease, kind: str, **detail: Any) -> None:
    """Add an event to the history of the attempt. Raises LeaseLost when the lease is gone."""
    if not record_where(_leased(lease), lease.migration, kind, Origin(lease.worker), **detail):
        raise LeaseLost


def failed_since(lease: Lease, kind: str, statement: int) -> bool:
    """Whether an attempt ended in ERROR at this statement, by its number, after the last such event about it."""
    about = Q(kind=kind, detail__statement=statement) | Q(kind=states.FAIL.name, detail__error__statement=statement)
    events = AsyncMigrationEvent.objects.using(conf.control_database).filter(about, migration_id=lease.pk)
    last = events.order_by("-id").values_list("kind", flat=True).first()
    return last == states.FAIL.name


def succeed(lease: Lease, *before: tuple[str, dict[str, Any]], **counted: Any) -> None:
    """Write FINISHED, or ROLLED BACK when it went backwards: the effect is there, verified.

    before: kind and detail of events that come before it. counted: progress as it is at the end, where it was counted.
    """
    end = Status.ROLLED_BACK if lease.migration.direction == Direction.BACKWARDS else Status.FINISHED
    changes: dict[str, Any] = {"progress_done": _ALL_DONE, "eta_seconds": None, "finished_at": NOW}
    if end == Status.ROLLED_BACK:
        changes["has_run"] = False
    _end(states.SUCCEED, lease, end, before=before, **changes | counted)


def fail(lease: Lease, error: ExecutionError, **counted: Any) -> None:
    """Write ERROR with what happened, what it means and what to do. counted: as for `succeed`."""
    meta = {"job_id": str(lease.token), "error": error.as_meta()}
    _end(states.FAIL, lease, Status.ERROR, meta=meta, finished_at=NOW, detail={"error": error.as_meta()}, **counted)


def cancelled(lease: Lease) -> None:
    """Write CANCELLED: the stop request was obeyed and the leftovers are gone."""
    _end(states.CANCEL, lease, Status.CANCELLED, finished_at=NOW)


def paused(lease: Lease) -> None:
    """Write PAUSED: the stop request was obeyed at a checkpoint; the attempt does not count.

    Where the request was taken back meanwhile, or a cancel took its place, the migration is given back instead.
    """
    later = lease.migration.run_at
    run_at = later if later and later > timezone.now() else None
    changes: dict[str, Any] = {"stop_requested": None, "run_at": run_at, "attempt": lease.attempt - 1}
    changes |= {"progress_rate": None, "eta_seconds": None}
    row, still_asked = copy(lease.migration), Q(stop_requested=StopRequest.PAUSE)
    if not move(states.PAUSE, row, Status.PAUSED, Origin(lease.worker), still_asked, **_UNLEASED | changes):
        release(lease)


def release(
    lease: Lease,
    *,
    error: ExecutionError | None = None,
    delay: timedelta = timedelta(0),
    reason: str = "",
    anew: bool = False,
) -> None:
    """Give the migration back, to be taken again after `delay`. Without an error the attempt does not count.

    reason: why it waits, for the row. anew: the attempt has got on, so it counts as the first.
    """
    changes: dict[str, Any] = {"run_at": NOW + delay if delay else None, "dispatched_at": None}
    detail: dict[str, Any] = {"delay_seconds": round(delay.total_seconds(), 3)}
    if error is None:
        changes["attempt"] = lease.attempt - 1
    else:
        changes["attempt"] = 1 if anew else lease.attempt
        detail["error"] = error.as_meta()
        reason = f"waits for another attempt after {error.code}: {error.message}"
    if reason:
        changes["phase"] = detail["reason"] = reason[:255]
    _end(states.RELEASE, lease, Status.STARTED, keep_request=True, detail=detail, **changes)


def give_back(lease: Lease) -> None:
    """Give the migration back for a hold; the attempt does not count, and the row says what it waits for."""
    hold = held(lease.migration.database)
    release(lease, reason="" if hold is None else str(hold))


def _end(
    transition: Transition,
    lease: Lease,
    to: Status,
    *,
    keep_request: bool = False,
    **changes: Any,
) -> None:
    if not keep_request:
        changes |= {"stop_requested": None, "run_at": None}
    # Token, attempt and direction cannot change under the lease. A copy, for the lease stays what it was.
    if not move(transition, copy(lease.migration), to, Origin(lease.worker), **_UNLEASED | changes):
        raise LeaseLost


def reap() -> list[int]:
    """Take the lease from every worker that has been silent for too long; return what is in line again."""
    again = []
    for row in rows().filter(status=Status.IN_PROGRESS, lease_expires_at__lt=NOW):
        anew = row.attempt > 1 and row.max_attempts > 1 and _has_got_on(row)
        used_up = row.attempt >= row.max_attempts and not row.stop_requested and not anew
        changes: dict[str, Any] = {"dispatched_at": None}
        if used_up:
            error = _worker_lost(row)
            changes = {"meta": {**row.meta, "error": error.as_meta()}, "finished_at": NOW}
        elif anew:
            changes["attempt"] = 1
        elif row.attempt >= row.max_attempts:
            changes["attempt"] = row.attempt - 1  # What is left of it is to clean up, and that must be possible.
        to = Status.ERROR if used_up else Status.STARTED
        expired = Q(lease_expires_at__lt=NOW)
        if move(
            states.REAP, row, to, Origin("reconciler"), expired, detail={"worker": row.worker}, **_UNLEASED, **changes
        ):
            again.append(row.pk)
    return again


def _has_got_on(row: AsyncMigrationStatus) -> bool:
    """Whether a backfill has got on in the attempt that it is in: then that counts as the first."""
    if row.kind != Kind.BACKFILL:
        return False
    events = AsyncMigrationEvent.objects.using(conf.control_database).filter(migration_id=row.pk)
    claims = events.filter(kind=states.CLAIM.name).order_by("-id").values_list("detail", flat=True)
    return (row.progress_done or 0) > int((claims.first() or {}).get("rows_done", 0))


def _worker_lost(row: AsyncMigrationStatus) -> ExecutionError:
    return ExecutionError(
        code="worker_lost",
        message=f"The worker {row.worker} fell silent in attempt {row.attempt}, the last of {row.max_attempts}.",
        hint="Find out why the workers die (memory, restarts), then run the migration again: it goes on where it was.",
    )


def _leased(lease: Lease) -> QuerySet[AsyncMigrationStatus]:
    return rows().filter(pk=lease.pk, status=Status.IN_PROGRESS, lease_token=lease.token)
