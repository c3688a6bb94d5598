"""Every write of a migration's status, lease and counters: one conditional UPDATE each, and one event with it.

Each function reads what the row says, decides by the table in `states.py`, and writes only if the row still says so.
The row count is the answer: whoever loses the race has changed nothing. Times come from the database clock.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from . import states
from .conf import conf
from .errors import ExecutionError, LeaseLost, TransitionRefused
from .models import AsyncMigrationCheckpoint, AsyncMigrationEvent, AsyncMigrationStatus
from .states import Direction, Status, StopRequest, Transition

logger = logging.getLogger("async_migrations")

# Between the read and the conditional UPDATE somebody else may move the row. A handful of tries is plenty: each failed
# one means that another party got its way.
_TRIES = 10


@dataclass(frozen=True)
class Origin:
    """Who asks: a name for people to read, and the id of the HTTP request if there was one."""

    by: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class Lease:
    """The right to carry a migration out: valid while the row still holds `token`."""

    pk: int
    database: str
    token: uuid.UUID
    attempt: int
    max_attempts: int
    worker: str


@dataclass(frozen=True)
class Answer:
    """What became of a request: the row as it is now, and whether this request changed it."""

    migration: AsyncMigrationStatus
    changed: bool


@dataclass(frozen=True)
class Request:
    """What `migrate` asks for; it travels as JSON in the target's outbox.

    operation: "schedule", "run" or "rollback".
    options: the keyword options of the migration file.
    """

    operation: str
    name: str
    database: str
    sql_forwards: str
    sql_backwards: str
    options: dict[str, Any] = field(default_factory=dict)
    by: str = "migrate"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def digest(self) -> str:
        """SHA-256 over both texts, hexadecimal."""
        return hashlib.sha256(f"{self.sql_forwards}\0{self.sql_backwards}".encode()).hexdigest()

    @property
    def direction(self) -> Direction:
        return Direction.BACKWARDS if self.operation == "rollback" else Direction.FORWARDS

    @property
    def max_attempts(self) -> int:
        return int(self.options.get("max_attempts") or conf.max_attempts)


def rows() -> QuerySet[AsyncMigrationStatus]:
    """Return all migrations, in the control database."""
    return AsyncMigrationStatus.objects.using(conf.control_database)


def get(pk: int) -> AsyncMigrationStatus:
    """Return a migration as it is now; AsyncMigrationStatus.DoesNotExist when there is none."""
    return rows().get(pk=pk)


# --- what people and CI scripts ask for ------------------------------------------------------------------------------


def run(pk: int, origin: Origin, *, run_at: datetime | None = None) -> Answer:
    """Put a migration in line for a worker, forwards, with its attempts counted from zero.

    run_at: aware; not to begin before. Asking again while it is in line, in progress or FINISHED changes nothing.
    Raises TransitionRefused where the table of transitions has no such move.
    """
    for row in _until_settled(pk):
        underway = row.status in {Status.STARTED, Status.IN_PROGRESS, Status.FINISHED}
        if underway and row.direction == Direction.FORWARDS:
            return Answer(row, changed=False)
        _require(states.RUN, row)
        if _move(states.RUN, row, Status.STARTED, origin, **_fresh(origin, Direction.FORWARDS, run_at)):
            return Answer(get(pk), changed=True)
    raise _contended(row)


def rollback(pk: int, origin: Origin) -> Answer:
    """Put a migration in line for a worker, backwards; ROLLED BACK at once if nothing of it ever ran.

    Asking again while it is being rolled back, or is ROLLED BACK, changes nothing. Raises TransitionRefused where the
    table of transitions has no such move.
    """
    for row in _until_settled(pk):
        underway = row.status in {Status.STARTED, Status.IN_PROGRESS, Status.ROLLED_BACK}
        if underway and row.direction == Direction.BACKWARDS:
            return Answer(row, changed=False)
        _require(states.ROLLBACK, row)
        moved = (
            _move(states.ROLLBACK, row, Status.STARTED, origin, **_fresh(origin, Direction.BACKWARDS))
            if row.has_run
            else _withdraw(row, origin)
        )
        if moved:
            return Answer(get(pk), changed=True)
    raise _contended(row)


def cancel(pk: int, origin: Origin) -> Answer:
    """Stop a migration for good: at once if no worker has begun it, else the worker is asked and cleans up first.

    Asking again changes nothing. Raises TransitionRefused for what has ended well.
    """
    for row in _until_settled(pk):
        if row.status == Status.CANCELLED or row.stop_requested == StopRequest.CANCEL:
            return Answer(row, changed=False)
        _require(states.CANCEL, row)
        begun = row.status == Status.IN_PROGRESS or (row.status == Status.STARTED and row.attempt > 0)
        moved = _ask_to_cancel(row, origin) if begun else _cancel_now(row, origin)
        if moved:
            return Answer(get(pk), changed=True)
    raise _contended(row)


def _ask_to_cancel(row: AsyncMigrationStatus, origin: Origin) -> bool:
    """Leave a stop request. A back-off is cut short: the worker that takes the migration next only cleans up."""
    with transaction.atomic(using=conf.control_database):
        asked = _same(row).update(stop_requested=StopRequest.CANCEL, run_at=None, updated_at=Now())
        if asked:
            _record(row, "cancel_requested", origin)
    return bool(asked)


def _cancel_now(row: AsyncMigrationStatus, origin: Origin) -> bool:
    return _move(states.CANCEL, row, Status.CANCELLED, origin, run_at=None, finished_at=Now())


# --- what `migrate` asks for -----------------------------------------------------------------------------------------


def check_request(request: Request) -> None:
    """Raise TransitionRefused where `take_over` would, so that a migration file fails before it changes anything."""
    row = rows().filter(name=request.name, database=request.database).first()
    if row is not None:
        _refuse_while_busy(row, request)


def take_over(request: Request) -> AsyncMigrationStatus:
    """Make the row say what `migrate` asked for, and return it; the same request twice changes nothing.

    Raises TransitionRefused while a worker is busy with it in a way
    that contradicts the request.
    """
    known = rows().filter(name=request.name, database=request.database)
    row = known.first() or _create(request)
    if row is None:  # Somebody else applied the same file in the same moment.
        row = known.get()
    if str(row.outbox_id) != request.id:
        _refuse_while_busy(row, request)
        _take_new_sql(row, request)
        _follow(row, request)
        rows().filter(pk=row.pk).update(outbox_id=request.id)
    return get(row.pk)


def leave_request(request: Request) -> None:
    """Write a request into its target, in the transaction of the migration file: rolled back with it, or not lost."""
    AsyncMigrationCheckpoint.objects.using(request.database).update_or_create(
        name=request.name, defaults={"outbox": asdict(request)}
    )


def collect_requests(database: str) -> None:
    """Take over what `migrate` left in a target; twice, or in two processes at once, does no harm."""
    checkpoints = AsyncMigrationCheckpoint.objects.using(database)
    pending = checkpoints.filter(outbox__isnull=False).order_by("pk")
    outbox: dict[str, Any]
    for pk, outbox in pending.values_list("pk", "outbox"):  # type: ignore[assignment]
        take_over(Request(**outbox))
        checkpoints.filter(pk=pk, outbox__id=outbox["id"]).update(outbox=None)


def _create(request: Request) -> AsyncMigrationStatus | None:
    """Record a migration that is new, or return None: it is not.

    Going backwards over an unknown one runs the backward SQL all the same.
    """
    started = request.operation != "schedule"
    with suppress(IntegrityError), transaction.atomic(using=conf.control_database):
        row = rows().create(
            name=request.name,
            database=request.database,
            direction=request.direction,
            status=Status.STARTED if started else Status.SCHEDULED,
            sql_forwards=request.sql_forwards,
            sql_backwards=request.sql_backwards,
            sql_digest=request.digest,
            options=request.options,
            max_attempts=request.max_attempts,
            has_run=request.operation == "rollback",
            requested_by=request.by if started else "",
            requested_at=Now() if started else None,
            outbox_id=request.id,
        )
        _record(row, request.operation, Origin(request.by), to_status=row.status, sql_digest=request.digest)
        return row
    return None


def _refuse_while_busy(row: AsyncMigrationStatus, request: Request) -> None:
    busy = row.status in {Status.STARTED, Status.IN_PROGRESS}
    begun = row.status == Status.IN_PROGRESS or (busy and row.has_run)
    changed = row.sql_digest != request.digest
    if busy and row.direction == Direction.BACKWARDS and request.direction == Direction.FORWARDS:
        what = "is being rolled back: wait until it is ROLLED BACK, then migrate again"
    elif begun and row.direction == Direction.FORWARDS and request.direction == Direction.BACKWARDS:
        what = "is being carried out: cancel it first, then migrate backwards again"
    elif row.status == Status.IN_PROGRESS and changed and request.direction == Direction.FORWARDS:
        what = "is being carried out with other SQL: wait until it ends or cancel it, then migrate again"
    else:
        return
    raise TransitionRefused(
        f"{row.name} on database {row.database!r} (id {row.pk}) is {row.status} and {what}.",
        status=row.status,
        allowed=states.verbs_from(row.status),
    )


def _take_new_sql(row: AsyncMigrationStatus, request: Request) -> None:
    """Let the row carry the SQL of the file as it is now, unless its effect is there already."""
    options_changed = row.options != request.options
    if row.status == Status.FINISHED or (row.sql_digest == request.digest and not options_changed):
        return
    with transaction.atomic(using=conf.control_database):
        changed = _same(row).update(
            sql_forwards=request.sql_forwards,
            sql_backwards=request.sql_backwards,
            sql_digest=request.digest,
            options=request.options,
            max_attempts=max(request.max_attempts, row.attempt),
            updated_at=Now(),
        )
        if changed and row.sql_digest != request.digest:
            digests = {"old_digest": row.sql_digest, "new_digest": request.digest}
            _record(row, "sql_changed", Origin(request.by), **digests)


def _follow(row: AsyncMigrationStatus, request: Request) -> None:
    """Move a known row to where `migrate` wants it, if it is not there yet."""
    origin = Origin(request.by)
    undone = row.status in {Status.ROLLED_BACK, Status.CANCELLED} or (
        row.status == Status.ERROR and row.direction == Direction.BACKWARDS
    )
    if request.operation == "schedule" and undone:
        unasked = {**_fresh(Origin(), Direction.FORWARDS), "requested_at": None}
        _move(states.SCHEDULE, row, Status.SCHEDULED, origin, **unasked)
    elif request.operation == "run" and (undone or row.status == Status.SCHEDULED):
        run(row.pk, origin)
    elif request.operation == "rollback":
        if row.status in states.WITHDRAW.sources and not row.has_run:
            _withdraw(row, origin)
            return
        if row.status == Status.SCHEDULED:  # Scheduled again after a part of it ran: that part is to be undone.
            cancel(row.pk, origin)
        if row.status != Status.ROLLED_BACK:
            rollback(row.pk, origin)


def _withdraw(row: AsyncMigrationStatus, origin: Origin) -> bool:
    ended: dict[str, Any] = {"direction": Direction.BACKWARDS, "run_at": None, "finished_at": Now()}
    return _move(states.WITHDRAW, row, Status.ROLLED_BACK, origin, **ended)


# --- what the holder of the lease writes -----------------------------------------------------------------------------


def claim(pk: int, worker: str) -> Lease | None:
    """Take the lease and one of the target's places, or return None: somebody else has it, or it is not its turn."""
    row = rows().filter(_due(), pk=pk, status=Status.STARTED).first()
    if row is None or (slot := _free_slot(row.database)) is None:
        return None
    lease = Lease(pk, row.database, uuid.uuid4(), row.attempt + 1, row.max_attempts, worker)
    try:
        won = _move(
            states.CLAIM,
            row,
            Status.IN_PROGRESS,
            Origin(worker),
            attempt=lease.attempt,
            lease_token=lease.token,
            lease_expires_at=_lease_end(),
            slot=slot,
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
        _record(row, kind, Origin(lease.worker), **detail)


def succeed(lease: Lease) -> None:
    """Write FINISHED, or ROLLED BACK when it went backwards: the effect is there, verified."""
    direction = _held(lease).values_list("direction", flat=True).first()
    end = Status.ROLLED_BACK if direction == Direction.BACKWARDS else Status.FINISHED
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


def release(lease: Lease, *, error: ExecutionError | None = None, delay: timedelta = timedelta(0)) -> None:
    """Give the migration back, to be taken again after `delay`. Without an error the attempt does not count."""
    changes: dict[str, Any] = {"run_at": Now() + delay if delay else None, "dispatched_at": None}
    detail: dict[str, Any] = {"delay_seconds": round(delay.total_seconds(), 3)}
    if error is None:
        changes["attempt"] = lease.attempt - 1
    else:
        detail["error"] = error.as_meta()
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
    if not _move(transition, row, to, Origin(lease.worker), detail=detail, **_UNLEASED, **changes):
        raise LeaseLost


# --- what the reconciler does ----------------------------------------------------------------------------------------


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
        if _move(
            states.REAP, row, to, Origin("reconciler"), expired, detail={"worker": row.worker}, **_UNLEASED, **changes
        ):
            again.append(row.pk)
    return again


def unclaimed() -> QuerySet[AsyncMigrationStatus]:
    """Return the migrations whose message is due: their time has come, or nobody answered the last one."""
    late = Now() - timedelta(seconds=conf.resend_seconds)
    never_sent = Q(dispatched_at=None) & (
        Q(run_at__isnull=False) | Q(started_at__isnull=False) | Q(requested_at__lt=late)
    )
    return in_line().filter(never_sent | Q(dispatched_at__lt=late) | Q(dispatched_at__lt=F("run_at")))


def in_line(database: str | None = None) -> QuerySet[AsyncMigrationStatus]:
    """Return the migrations that a worker might claim now, first come first."""
    due = rows().filter(_due(), status=Status.STARTED).order_by("requested_at", "pk")
    return due if database is None else due.filter(database=database)


def next_in_line(database: str) -> int | None:
    """Return the migration whose turn it is on a database, None when nothing waits there or there is no room."""
    if _free_slot(database) is None:
        return None
    return in_line(database).values_list("pk", flat=True).first()


def mark_dispatched(row: AsyncMigrationStatus) -> bool:
    """Note that the message is about to be sent; False when somebody else sent it since `row` was read."""
    unsent = rows().filter(pk=row.pk, status=Status.STARTED, dispatched_at=row.dispatched_at)
    return bool(unsent.update(dispatched_at=Now()))


def _worker_lost(row: AsyncMigrationStatus) -> ExecutionError:
    return ExecutionError(
        code="worker_lost",
        message=f"The worker {row.worker} fell silent in attempt {row.attempt}, the last of {row.max_attempts}.",
        hint="Find out why the workers die (memory, restarts), then run the migration again: it goes on where it was.",
    )


# --- the moving parts ------------------------------------------------------------------------------------------------

_UNLEASED: dict[str, Any] = {"lease_token": None, "lease_expires_at": None, "slot": None, "waiting_on": [], "phase": ""}


def _fresh(origin: Origin, direction: Direction, run_at: datetime | None = None) -> dict[str, Any]:
    """Return the fields of a migration that is about to be tried for the first time since it was asked for."""
    return {
        "direction": direction,
        "attempt": 0,
        "meta": {},
        "requested_by": origin.by,
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


def _until_settled(pk: int) -> Iterator[AsyncMigrationStatus]:
    for _ in range(_TRIES):
        yield get(pk)


def _contended(row: AsyncMigrationStatus) -> TransitionRefused:
    return TransitionRefused(
        f"{row.name} was changed by others all the time: look at it and ask again.",
        status=row.status,
        allowed=states.verbs_from(row.status),
    )


def _require(transition: Transition, row: AsyncMigrationStatus) -> None:
    if row.status in transition.sources:
        return
    allowed = states.verbs_from(row.status)
    instead = f"allowed now: {', '.join(allowed)}" if allowed else "wait until it ends"
    way = " (backwards)" if row.direction == Direction.BACKWARDS else ""
    raise TransitionRefused(
        f"{transition} is not possible while {row.name} is {row.status}{way}; {instead}.",
        status=row.status,
        allowed=allowed,
    )


def _same(row: AsyncMigrationStatus) -> QuerySet[AsyncMigrationStatus]:
    """Match the row only while it says what was read: status, direction, attempt, and whose lease it is."""
    return rows().filter(
        pk=row.pk,
        status=row.status,
        direction=row.direction,
        attempt=row.attempt,
        lease_token=row.lease_token,
    )


def _held(lease: Lease) -> QuerySet[AsyncMigrationStatus]:
    return rows().filter(pk=lease.pk, status=Status.IN_PROGRESS, lease_token=lease.token)


def _move(
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
        won = _same(row).filter(*conditions).update(status=to, updated_at=Now(), **changes)
        if won:
            row.attempt = changes.get("attempt", row.attempt)
            _record(row, transition.name, origin, to_status=to, **(detail or {}))
    return bool(won)


def _record(row: AsyncMigrationStatus, kind: str, origin: Origin, *, to_status: str = "", **detail: Any) -> None:
    AsyncMigrationEvent.objects.using(conf.control_database).create(
        migration=row,
        kind=kind,
        from_status=row.status if to_status and row.status != to_status else "",
        to_status=to_status,
        attempt=row.attempt,
        by=origin.by,
        request_id=origin.request_id,
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
            "request_id": origin.request_id,
            **({"detail": detail} if detail else {}),
        },
    )


def _due() -> Q:
    return Q(run_at=None) | Q(run_at__lte=Now())


def _free_slot(database: str) -> int | None:
    taken = set(rows().filter(database=database, status=Status.IN_PROGRESS).values_list("slot", flat=True))
    return next((slot for slot in range(conf.max_running_per_database) if slot not in taken), None)


def _lease_end() -> Any:
    return Now() + timedelta(seconds=conf.lease_seconds)
