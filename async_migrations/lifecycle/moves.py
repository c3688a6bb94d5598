"""What every write shares: the conditional UPDATE of a transition, and the event that commits with it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any, cast

from django.db import connections, transaction
from django.db.models import Field, Q, QuerySet, Value
from django.db.models.functions import Now

from .. import counting, tracing
from ..conf import conf
from ..models import AsyncMigrationDelivery, AsyncMigrationEvent, AsyncMigrationStatus, AsyncMigrationWebhook
from ..signals import migration_moved
from ..states import Direction, Status, Transition
from . import audit, compiled
from .audit import Origin

logger = logging.getLogger("async_migrations")

# An event of the row that a transition has moved; none where it has not.
_EVENT_COLUMNS = ("kind", "from_status", "to_status", "attempt", "by", "request_id", "detail")
_MOVED_EVENT = "SELECT id, %s, %s, %s, %s::int, %s, %s, %s::jsonb FROM moved"
# One for each webhook that wants the event. Where there is no webhook, this is a look into an empty table.
_DELIVERIES = f"""
INSERT INTO {AsyncMigrationDelivery._meta.db_table}
    (message_id, webhook_id, event_id, status, attempts, next_attempt_at, error)
SELECT gen_random_uuid(), webhook.id, events.id, '{AsyncMigrationDelivery.Status.PENDING}', 0, STATEMENT_TIMESTAMP(), ''
FROM {AsyncMigrationWebhook._meta.db_table} AS webhook CROSS JOIN events
WHERE webhook.active AND webhook.events ?| ARRAY[events.kind, events.to_status]::text[]
    AND (webhook.databases = '[]' OR webhook.databases ? %s)
"""  # noqa: S608 - names and values of our own

_ID = compiled.Slot("id")

#: The moment of a statement, on the clock of the database.
NOW = Now()

# What tells that a row has not been moved since it was read.
_SAME = ("status", "direction", "attempt", "lease_token")


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
    by_id = _by_id(conf.control_database)
    row = compiled.read(by_id.text, by_id.filled({_ID: pk}))
    if row is None:
        raise AsyncMigrationStatus.DoesNotExist(f"There is no migration {pk}.")
    return row


@cache
def _by_id(alias: str) -> compiled.Sql:
    return compiled.select(rows().filter(pk=Value(_ID)), alias)


def fresh(origin: Origin, direction: Direction, run_at: datetime | None = None) -> dict[str, Any]:
    """Return the fields of a migration that is about to be tried for the first time since it was asked for."""
    return {
        "direction": direction,
        "attempt": 0,
        "meta": {},
        "requested_by": origin.by,
        "request_id": origin.request_id,
        "traceparent": tracing.carried(),
        "requested_at": NOW,
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
    return rows().filter(pk=row.pk, **{name: getattr(row, name) for name in _SAME})


def move(
    transition: Transition,
    row: AsyncMigrationStatus,
    to: Status,
    origin: Origin,
    *conditions: Q,
    detail: dict[str, Any] | None = None,
    before: Sequence[tuple[str, dict[str, Any]]] = (),
    asked: str = "",
    **changes: Any,
) -> bool:
    """Carry a transition out if the row still says what was read; its event commits with it.

    before: kind and detail of what happened just before, and is to be in the history if the transition is.
    asked: the verb, where somebody has asked for it: then its audit entry commits with it, too.

    Afterwards `row` is as it was written. All of it is one statement: a transition is what a worker does most.
    """
    if row.status not in transition.sources or to not in transition.targets:
        raise AssertionError(f"{transition} does not lead from {row.status} to {to}")
    # What a holder does belongs to its attempt, also where that is not to count.
    attempt = row.attempt if row.status == Status.IN_PROGRESS else changes.get("attempt", row.attempt)
    events = [_event(row, kind, origin, detail=earlier, attempt=attempt) for kind, earlier in before]
    events.append(_event(row, transition.name, origin, to_status=to, detail=detail or {}, attempt=attempt))
    was, becomes = audit.difference(row, {"status": to, **changes}) if asked else ({}, {})
    known = {**was, "id": row.pk, **{name: getattr(row, name) for name in _SAME}}
    update, parameters = compiled.update({"status": to, "updated_at": NOW, **changes}, known, conditions)
    also, values = "", list[Any]()
    if asked:
        wanted = audit.entry(asked, origin, row=row, before=was, after=becomes, detail=detail or {})
        insert, values = audit.as_inserted(wanted, "moved")
        also = f", audit AS ({insert})"
    written = compiled.read(
        f"{_with_events(f'{update} RETURNING *', len(events))}{also} SELECT * FROM moved",  # noqa: S608 - names of our own
        [*parameters, *(value for event in events for value in _values(event)), row.database, *values],
    )
    if written is None:
        return False
    row.__dict__.update(written.__dict__)
    for event in events:
        _tell(row, event)
    return True


def unchanged(verb: str, row: AsyncMigrationStatus, origin: Origin, **detail: Any) -> Answer:
    """Return that there is nothing to do about what was asked for; that it was is entered."""
    outcome = audit.Outcome.UNCHANGED
    audit.enter(verb, origin, row=row, outcome=outcome, before={"status": row.status}, detail=detail)
    return Answer(row, changed=False)


def remark(pk: int, kind: str, origin: Origin, **detail: Any) -> None:
    """Add an event to the history of a migration from outside of its attempts; nothing if it is not there any more."""
    if (row := rows().filter(pk=pk).first()) is not None:
        record(row, kind, origin, **detail)


def record(row: AsyncMigrationStatus, kind: str, origin: Origin, *, to_status: str = "", **detail: Any) -> None:
    event = _event(row, kind, origin, to_status=to_status, detail=detail, attempt=row.attempt)
    if connections[conf.control_database].vendor == "postgresql":
        _insert(event, rows().filter(pk=row.pk), row.database)
    else:  # No worker serves it that could deliver anything.
        event.save(using=conf.control_database, force_insert=True)
    _tell(row, event)


def record_where(
    found: QuerySet[AsyncMigrationStatus], row: AsyncMigrationStatus, kind: str, origin: Origin, **detail: Any
) -> bool:
    """Add an event if the row is among those found; False: it is not.

    One statement: a worker that is frozen between two would keep the row locked, and nobody could reap its lease.
    """
    event = _event(row, kind, origin, detail=detail, attempt=row.attempt)
    recorded = _insert(event, found, row.database)
    if recorded:
        _tell(row, event)
    return recorded


def _insert(event: AsyncMigrationEvent, found: QuerySet[AsyncMigrationStatus], database: str) -> bool:
    """Insert an event, and its deliveries, for the row that is found; False: none is."""
    select, parameters = found.order_by().values("id").query.get_compiler(conf.control_database).as_sql()
    with connections[conf.control_database].cursor() as cursor:
        insert = _with_events(select, 1) + "SELECT id FROM events"  # noqa: S608 - names of our own
        cursor.execute(insert, [*parameters, *_values(event), database])
        return bool(cursor.rowcount > 0)


def _with_events(moved: str, count: int) -> str:
    """Return the beginning of a statement that inserts so many events of what `moved` returns, with their deliveries.

    The last placeholder is for the database of the migration. What is written together commits together: a delivery is
    neither lost nor made for what was rolled back.
    """
    return (
        f"WITH moved AS ({moved}), events AS ("
        f"INSERT INTO {AsyncMigrationEvent._meta.db_table} (migration_id, {', '.join(_EVENT_COLUMNS)}) "
        f"{' UNION ALL '.join([_MOVED_EVENT] * count)} RETURNING *), deliveries AS ({_DELIVERIES}) "
    )


def _event(
    row: AsyncMigrationStatus, kind: str, origin: Origin, *, to_status: str = "", detail: dict[str, Any], attempt: int
) -> AsyncMigrationEvent:
    return AsyncMigrationEvent(
        migration_id=row.pk,
        kind=kind,
        from_status=row.status if to_status and row.status != to_status else "",
        to_status=to_status,
        attempt=attempt,
        by=origin.by,
        request_id=origin.request_id or row.request_id,
        detail=detail,
    )


def _values(event: AsyncMigrationEvent) -> Iterator[Any]:
    """Yield the values of an event's columns as the driver takes them."""
    connection = connections[conf.control_database]
    for name in _EVENT_COLUMNS:
        field = cast("Field[Any, Any]", event._meta.get_field(name))
        yield field.get_db_prep_save(getattr(event, name), connection)


def _tell(row: AsyncMigrationStatus, event: AsyncMigrationEvent) -> None:
    """Log an event; send the signal of a move when it is committed."""
    _log(row, event)
    if event.to_status and migration_moved.has_listeners(AsyncMigrationStatus):
        fields = ("kind", "from_status", "to_status", "by")
        moved = {"migration": copy(row), **{name: str(getattr(event, name)) for name in fields}}
        tell = partial(migration_moved.send_robust, AsyncMigrationStatus, **moved)
        transaction.on_commit(tell, using=conf.control_database)


def _log(row: AsyncMigrationStatus, event: AsyncMigrationEvent) -> None:
    counting.happened(row, event)
    logger.info(
        event.kind,
        extra={
            "migration_id": row.pk,
            "migration": row.name,
            "database": row.database,
            "from_status": str(event.from_status or row.status),
            "to_status": str(event.to_status or row.status),
            "attempt": event.attempt,
            "by": event.by,
            "request_id": event.request_id,
            **({"detail": event.detail} if event.detail else {}),
        },
    )
