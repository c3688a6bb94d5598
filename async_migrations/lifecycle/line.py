"""Who is in line for a worker, whose turn it is, and whose message has to be sent again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import F, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from ..conf import conf
from ..models import AsyncMigrationStatus
from ..states import Status
from .hold import held, is_kept_back
from .moves import rows

# How the phase begins of what waits for a hold to end.
_HELD = "held by "

#: How the phase begins of what waits until nobody else works on its table.
BEHIND = "waits for its turn: another migration is at work on "


def unclaimed() -> QuerySet[AsyncMigrationStatus]:
    """Return the migrations whose message is due: their time has come, or nobody answered the last one."""
    late = Now() - timedelta(seconds=conf.resend_seconds)
    never_sent = Q(dispatched_at=None) & (
        Q(run_at__isnull=False) | Q(started_at__isnull=False) | Q(requested_at__lt=late)
    )
    return in_line().filter(never_sent | Q(dispatched_at__lt=late) | Q(dispatched_at__lt=F("run_at")))


def waiting(database: str | None = None) -> QuerySet[AsyncMigrationStatus]:
    """Return the migrations whose time has come, held or not, by priority and then first come first."""
    due_now = rows().filter(due(), status=Status.STARTED).order_by("-priority", "requested_at", "pk")
    return due_now if database is None else due_now.filter(database=database)


def in_line(database: str | None = None) -> QuerySet[AsyncMigrationStatus]:
    """Return the migrations that a worker might claim now, in their order."""
    return waiting(database).filter(~is_kept_back())


def next_in_line(database: str) -> int | None:
    """Return the migration whose turn it is on a database, None when nothing waits there or there is no room."""
    first = with_taken(in_line(database)).first()
    return None if first is None or free_slot(first) is None else first.pk


def note_waiting() -> None:
    """Let what is in line for a database without room say what it waits for: once, where it does not say so yet."""
    taken = rows().filter(status=Status.IN_PROGRESS).values("database")
    for database in taken.order_by("database").distinct().values_list("database", flat=True):
        turn = f"waits for its turn: others are being carried out on database {database}"[:255]
        if next_in_line(database) is None:
            in_line(database).exclude(phase=turn).order_by().update(phase=turn, updated_at=Now())


def call_up(database: str) -> None:
    """Let what waits for another migration on its table be due at once: one has ended on this database."""
    behind = rows().filter(database=database, status=Status.STARTED, phase__startswith=BEHIND)
    behind.update(run_at=None, updated_at=Now())


def note_held() -> None:
    """Let what is held say so, by whom and why, and say so no more when it is not; its message is due from then on."""
    over = rows().filter(~is_kept_back(), status=Status.STARTED, phase__startswith=_HELD)
    over.update(phase="", updated_at=Now())
    of_held = waiting().filter(is_kept_back()).order_by("database").distinct()
    for database in of_held.values_list("database", flat=True):
        if (hold := held(database)) is not None:
            says = {"phase": str(hold)[:255], "dispatched_at": _long_ago()}
            kept_back = waiting(database).filter(is_kept_back()).exclude(phase=says["phase"])
            kept_back.order_by().update(**says, updated_at=Now())


def mark_dispatched(row: AsyncMigrationStatus) -> bool:
    """Note that the message is about to be sent; False when somebody else sent it since `row` was read."""
    unsent = rows().filter(pk=row.pk, status=Status.STARTED, dispatched_at=row.dispatched_at)
    return bool(unsent.update(dispatched_at=Now()))


def mark_unsent(row: AsyncMigrationStatus) -> None:
    """Note that the message could not be sent after all, so that the next round of the reconciler tries again."""
    rows().filter(pk=row.pk, status=Status.STARTED).update(dispatched_at=_long_ago())


def _long_ago() -> Any:
    return Now() - timedelta(days=1)


def due() -> Q:
    # A stop is obeyed before the time to begin; not before a back-off is over, for what failed may fail again.
    return Q(run_at=None) | Q(run_at__lte=Now()) | Q(stop_requested__isnull=False, attempt=0)


def with_taken(waiting: QuerySet[AsyncMigrationStatus]) -> Any:
    """Have each row say which places of its database are taken, for `free_slot`."""
    running = rows().filter(database=OuterRef("database"), status=Status.IN_PROGRESS)
    return waiting.annotate(taken=ArraySubquery(running.order_by().values("slot")))


def free_slot(row: Any) -> int | None:
    """Return a place that is free for a row that was read by `with_taken`, None when there is no room."""
    return next((slot for slot in range(conf.max_running_per_database) if slot not in row.taken), None)
