"""What `migrate` asks for: from the migration file to the row, by way of the target's outbox."""

from __future__ import annotations

import hashlib
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone

from .. import states
from ..conf import conf
from ..errors import TransitionRefused
from ..models import AsyncMigrationCheckpoint, AsyncMigrationStatus
from ..states import Direction, Kind, Status
from . import audit
from .audit import Channel, Origin
from .moves import fresh, get, move, record, rows, same
from .verbs import cancel, require_reversible, rollback, run, withdraw


@dataclass(frozen=True)
class Request:
    """What `migrate` asks for; it travels as JSON in the target's outbox.

    operation: "schedule", "run" or "rollback".
    options: the keyword options of the migration file. kind: one of `Kind`.
    """

    operation: str
    name: str
    database: str
    sql_forwards: str
    sql_backwards: str
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = Kind.SQL.value
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

    @property
    def priority(self) -> int:
        return int(self.options.get("priority") or 0)


def check_request(request: Request) -> None:
    """Raise TransitionRefused where `take_over` would, so that a migration file fails before it changes anything."""
    row = rows().filter(name=request.name, database=request.database).first()
    if row is not None:
        _refuse_while_busy(row, request)
    if request.operation == "rollback" and (row is None or row.has_run):
        require_reversible(_unsaved(request))


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
    """Take over what `migrate` left in a target; twice, or in two processes at once, does no harm.

    Raises TransitionRefused for one that contradicts what is going on, and TypeError for one of a later version, when
    all others are taken over. It stays there, and the next call tries again.
    """
    checkpoints = AsyncMigrationCheckpoint.objects.using(database)
    pending = checkpoints.filter(outbox__isnull=False).order_by("pk")
    outbox: dict[str, Any]
    refused: Exception | None = None
    for pk, outbox in pending.values_list("pk", "outbox"):  # type: ignore[assignment]
        try:
            take_over(Request(**outbox))
        except (TransitionRefused, TypeError) as exc:
            refused = exc
            continue
        checkpoints.filter(pk=pk, outbox__id=outbox["id"]).update(outbox=None)
    if refused is not None:
        raise refused


def _create(request: Request) -> AsyncMigrationStatus | None:
    """Record a migration that is new, or return None: it is not.

    Going backwards over an unknown one runs the backward SQL all the same.
    """
    started = request.operation != "schedule"
    row, origin = _unsaved(request), _origin(request)
    row.requested_by = request.by if started else ""
    row.requested_at = Now() if started else None
    with suppress(IntegrityError), transaction.atomic(using=conf.control_database):
        row.save(force_insert=True, using=conf.control_database)
        record(row, request.operation, origin, to_status=row.status, sql_digest=request.digest)
        audit.enter(request.operation, origin, row=row, after={"status": row.status, "sql_digest": request.digest})
        return row
    return None


def write_done(request: Request) -> bool:
    """Write the end of a migration that `migrate` itself carries out, in its transaction; False: it is done already.

    For databases that no worker serves, and that may know less SQL than the moves of a worker need.
    """
    end = Status.ROLLED_BACK if request.operation == "rollback" else Status.FINISHED
    known = rows().filter(name=request.name, database=request.database).first()
    if known is not None and known.status == end:
        return False
    row = _unsaved(request)
    row.status, row.finished_at = end, timezone.now()
    if known is not None:
        row.pk, row.created_at = known.pk, known.created_at
    row.requested_by, row.started_at, row.requested_at = request.by, row.finished_at, row.finished_at
    row.has_run = end == Status.FINISHED
    row.save(using=conf.control_database)
    before = {"status": known.status} if known else {}
    record(row, request.operation, _origin(request), to_status=end, sql_digest=request.digest)
    audit.enter(request.operation, _origin(request), row=row, before=before, after={"status": end})
    return True


def _unsaved(request: Request) -> AsyncMigrationStatus:
    """Return the row of a migration that is new, not stored yet."""
    return AsyncMigrationStatus(
        name=request.name,
        database=request.database,
        kind=request.kind,
        direction=request.direction,
        status=Status.SCHEDULED if request.operation == "schedule" else Status.STARTED,
        sql_forwards=request.sql_forwards,
        sql_backwards=request.sql_backwards,
        sql_digest=request.digest,
        options=request.options,
        max_attempts=request.max_attempts,
        priority=request.priority,
        has_run=request.operation == "rollback",
        outbox_id=request.id,
    )


def _origin(request: Request) -> Origin:
    return Origin(request.by, channel=Channel.MIGRATE)


def _refuse_while_busy(row: AsyncMigrationStatus, request: Request) -> None:
    busy = row.status in {Status.STARTED, Status.IN_PROGRESS}
    begun = row.status == Status.IN_PROGRESS or (busy and row.has_run)
    changed = row.sql_digest != request.digest
    if busy and row.direction == Direction.BACKWARDS and request.direction == Direction.FORWARDS:
        what = "is being rolled back: wait until it is ROLLED BACK, then migrate again"
    elif begun and row.direction == Direction.FORWARDS and request.direction == Direction.BACKWARDS:
        what = "is being carried out: cancel it first, then migrate backwards again"
    elif row.status == Status.IN_PROGRESS and changed:
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
    # Who is in line must be able to make one more attempt, or nobody could ever claim it.
    underway = 1 if row.status in {Status.STARTED, Status.IN_PROGRESS} else 0
    with transaction.atomic(using=conf.control_database):
        changed = same(row).update(
            sql_forwards=request.sql_forwards,
            sql_backwards=request.sql_backwards,
            sql_digest=request.digest,
            options=request.options,
            kind=request.kind,
            max_attempts=max(request.max_attempts, row.attempt + underway),
            priority=request.priority,
            updated_at=Now(),
        )
        if changed:
            before = {"sql_digest": row.sql_digest, "options": row.options}
            after = {"sql_digest": request.digest, "options": request.options}
            audit.enter("change_sql", _origin(request), row=row, before=before, after=after)
        if changed and row.sql_digest != request.digest:
            digests = {"old_digest": row.sql_digest, "new_digest": request.digest}
            record(row, "sql_changed", _origin(request), **digests)


def _follow(row: AsyncMigrationStatus, request: Request) -> None:
    """Move a known row to where `migrate` wants it, if it is not there yet."""
    origin = _origin(request)
    undone = row.status in {Status.ROLLED_BACK, Status.CANCELLED} or (
        row.status in {Status.ERROR, Status.PAUSED} and row.direction == Direction.BACKWARDS
    )
    if request.operation == "schedule" and undone:
        unasked = {**fresh(Origin(), Direction.FORWARDS), "requested_at": None}
        move(states.SCHEDULE, row, Status.SCHEDULED, origin, asked="schedule", **unasked)
    elif request.operation == "run" and (undone or row.status == Status.SCHEDULED):
        run(row.pk, origin)
    elif request.operation == "rollback":
        if row.status in states.WITHDRAW.sources and not row.has_run:
            withdraw(row, origin)
            return
        if row.status == Status.SCHEDULED:  # Scheduled again after a part of it ran: that part is to be undone.
            cancel(row.pk, origin)
        if row.status != Status.ROLLED_BACK:
            rollback(row.pk, origin)
