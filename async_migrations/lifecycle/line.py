"""Who is in line for a worker, and whose message has to be sent again."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from ..conf import conf
from ..models import AsyncMigrationStatus
from ..states import Status
from .moves import rows


def unclaimed() -> QuerySet[AsyncMigrationStatus]:
    """Return the migrations whose message is due: their time has come, or nobody answered the last one."""
    late = Now() - timedelta(seconds=conf.resend_seconds)
    never_sent = Q(dispatched_at=None) & (
        Q(run_at__isnull=False) | Q(started_at__isnull=False) | Q(requested_at__lt=late)
    )
    return in_line().filter(never_sent | Q(dispatched_at__lt=late) | Q(dispatched_at__lt=F("run_at")))


def in_line(database: str | None = None) -> QuerySet[AsyncMigrationStatus]:
    """Return the migrations that a worker might claim now, by priority and then first come first."""
    waiting = rows().filter(due(), status=Status.STARTED).order_by("-priority", "requested_at", "pk")
    return waiting if database is None else waiting.filter(database=database)


def next_in_line(database: str) -> int | None:
    """Return the migration whose turn it is on a database, None when nothing waits there or there is no room."""
    if free_slot(database) is None:
        return None
    return in_line(database).values_list("pk", flat=True).first()


def mark_dispatched(row: AsyncMigrationStatus) -> bool:
    """Note that the message is about to be sent; False when somebody else sent it since `row` was read."""
    unsent = rows().filter(pk=row.pk, status=Status.STARTED, dispatched_at=row.dispatched_at)
    return bool(unsent.update(dispatched_at=Now()))


def mark_unsent(row: AsyncMigrationStatus) -> None:
    """Note that the message could not be sent after all, so that the next round of the reconciler tries again."""
    rows().filter(pk=row.pk, status=Status.STARTED).update(dispatched_at=Now() - timedelta(days=1))


def due() -> Q:
    return Q(run_at=None) | Q(run_at__lte=Now())


def free_slot(database: str) -> int | None:
    taken = set(rows().filter(database=database, status=Status.IN_PROGRESS).values_list("slot", flat=True))
    return next((slot for slot in range(conf.max_running_per_database) if slot not in taken), None)
