"""How many migrations there are and how long they wait, by database: what summary and metrics say.

One indexed query each; none looks at events. Times are by the clock of the control database, which wrote them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import Count, DurationField, ExpressionWrapper, F, Min
from django.db.models.functions import Coalesce, Now

from ..conf import conf
from ..models import AsyncMigrationStatus
from ..states import Status
from .hold import holds_in_force
from .line import waiting
from .moves import rows

_TABLE = AsyncMigrationStatus._meta.db_table


class UnderWay(NamedTuple):
    """A migration in progress. silence: since its last heartbeat. throttled: why it waits, None while it does not."""

    database: str
    silence: timedelta
    throttled: dict[str, Any] | None


def counts() -> list[tuple[str, str, int]]:
    """Return (database, status, how many)."""
    # Counting ids would need the table: the index on status and database has none.
    return list(rows().order_by("database", "status").values_list("database", "status").annotate(count=Count("*")))


def counts_up_to(most: int) -> dict[str, int]:
    """Return by status how many there are, one more than `most` where there are more: so it takes no longer."""
    few = f"SELECT %s, count(*) FROM (SELECT 1 FROM {_TABLE} WHERE status = %s LIMIT %s) AS few"  # noqa: S608 - our own
    with connections[conf.control_database].cursor() as cursor:
        parameters = [value for status in Status.values for value in (status, status, most + 1)]
        cursor.execute(" UNION ALL ".join([few] * len(Status.values)), parameters)
        return dict(cursor.fetchall())


def waits() -> dict[str, float]:
    """Return by database how many seconds the first in line has waited; who is to start later waits from then on."""
    waited = _since(Min(Coalesce("run_at", "requested_at")))
    oldest = waiting().order_by().values_list("database").annotate(waited=waited)
    return {database: max(0.0, round(since.total_seconds(), 3)) for database, since in oldest}


def under_way() -> list[UnderWay]:
    """Return what is in progress: as many rows as there are places."""
    found = rows().filter(status=Status.IN_PROGRESS).order_by()
    return [UnderWay(*row) for row in found.values_list("database", _since(F("heartbeat_at")), "throttled")]


def held_for() -> list[tuple[str, float]]:
    """Return (database, seconds) for each hold in force; the database is empty for one on all."""
    ages = holds_in_force().values_list("database", _since(F("created_at")))
    return [(database, age.total_seconds()) for database, age in ages]


def _since(moment: Any) -> Any:
    return ExpressionWrapper(Now() - moment, DurationField())
