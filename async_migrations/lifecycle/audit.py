"""Who asked for what, from where, and what became of it: an entry for every request to change something.

What was accepted is entered by the statement or the transaction that changes it: neither is ever there without the
other. What was refused is entered by whoever answers, when nothing of the request can be rolled back any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from ..conf import conf
from ..models import AsyncMigrationAudit, AsyncMigrationStatus

logger = logging.getLogger("async_migrations")

Channel = AsyncMigrationAudit.Channel
Outcome = AsyncMigrationAudit.Outcome

#: What `prune` leaves in any case; the trigger of the table holds the same.
YOUNGEST = timedelta(days=30)

# What of a migration a request can change. The priority is told with the tuning, where both are set.
_SHOWN = ("status", "direction", "stop_requested", "run_at", "priority", "max_attempts")
_LONGEST_REASON = 1000


@dataclass(frozen=True)
class Origin:
    """Who asks, and from where.

    by: a name for people to read. request_id: of the HTTP request, if there was one, and so are address (IP) and token
    (the beginning of its digest).
    """

    by: str = ""
    request_id: str = ""
    channel: Channel = Channel.CODE
    address: str = ""
    token: str = ""


def shown(digest: str) -> str:
    """Return as much of a token's digest as tells tokens apart and opens nothing."""
    return digest[:32]


def difference(row: AsyncMigrationStatus, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what of a migration these changes would make different: as it is, and as it will be."""
    after = {name: changes[name] for name in _SHOWN if name in changes and changes[name] != getattr(row, name)}
    return {name: getattr(row, name) for name in after}, after


def entry(
    action: str, origin: Origin, *, row: AsyncMigrationStatus | None = None, database: str = "", **fields: Any
) -> AsyncMigrationAudit:
    """Return an entry that is not written yet; `accepted` unless the fields say otherwise."""
    return AsyncMigrationAudit(
        by=origin.by[:255],
        channel=origin.channel,
        address=origin.address,
        token=origin.token,
        request_id=origin.request_id,
        action=action,
        migration_id=row.pk if row else None,
        name=row.name if row else "",
        database=row.database if row else database,
        **{"outcome": Outcome.ACCEPTED, **fields},
    )


def enter(action: str, origin: Origin, **fields: Any) -> None:
    """Write an entry, in the current transaction if there is one; the fields are those of `entry`."""
    entry(action, origin, **fields).save(using=conf.control_database, force_insert=True)


def refuse(
    action: str,
    origin: Origin,
    code: str,
    reason: str,
    *,
    row: AsyncMigrationStatus | None = None,
    database: str = "",
    outcome: Outcome = Outcome.REFUSED,
    **detail: Any,
) -> None:
    """Write that something was not done, and why. Nothing is raised where that fails: there is an answer to give."""
    said = {**detail, **({"reason": _printable(reason)} if reason else {})}
    state = {"status": row.status} if row else {}
    fields = {"row": row, "database": _printable(database)[:255], "before": state, "detail": said, "code": code}
    try:
        enter(action, origin, outcome=outcome, **fields)
    except (DatabaseError, InterfaceError):
        logger.warning("audit entry not written", exc_info=True, extra={"action": action, "code": code})


def as_inserted(wanted: AsyncMigrationAudit, source: str) -> tuple[str, list[Any]]:
    """Return the INSERT of an entry for each row of a source, for a statement that changes something besides."""
    fields = [field for field in wanted._meta.concrete_fields if field.name not in {"id", "at"}]
    connection = connections[conf.control_database]
    values = [field.get_db_prep_save(getattr(wanted, field.name), connection) for field in fields]
    names = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(["%s"] * len(fields))
    return f"INSERT INTO {wanted._meta.db_table} ({names}) SELECT {places} FROM {source}", values  # noqa: S608


def entries(
    *, since: datetime | None = None, until: datetime | None = None, by: str | None = None
) -> QuerySet[AsyncMigrationAudit]:
    """Return the entries, oldest first. since: aware, included. until: aware, left out. by: who asked, exactly."""
    found = AsyncMigrationAudit.objects.using(conf.control_database).order_by("at", "id")
    found = found if since is None else found.filter(at__gte=since)
    found = found if until is None else found.filter(at__lt=until)
    return found if by is None else found.filter(by=by)


def as_lines(found: QuerySet[AsyncMigrationAudit]) -> Iterator[dict[str, Any]]:
    """Yield each entry with all its fields, however many there are: a part of them at a time is held in memory."""
    names = [field.name for field in AsyncMigrationAudit._meta.concrete_fields]
    yield from found.values(*names).iterator(chunk_size=1000)


def prune(older_than: timedelta, origin: Origin) -> int:
    """Remove the entries that are older, YOUNGEST at least, by the database's clock; return how many they were.

    That is an entry itself, in the same transaction. Raises ValueError for an age below YOUNGEST.
    """
    if older_than < YOUNGEST:
        raise ValueError(f"Entries are kept for {YOUNGEST.days} days at least.")
    with transaction.atomic(using=conf.control_database):
        _permit_pruning("on")
        removed, _ = entries().filter(at__lt=Now() - older_than).delete()
        _permit_pruning("off")
        enter("prune", origin, detail={"older_than_seconds": older_than.total_seconds(), "removed": removed})
    return removed


def _permit_pruning(switch: str) -> None:
    """Tell the trigger, for the rest of the transaction."""
    connection = connections[conf.control_database]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('async_migrations.prune', %s, true)", [switch])


def _printable(text: str) -> str:
    """Return a text that may repeat what a client sent as one that any database takes."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)[:_LONGEST_REASON]
