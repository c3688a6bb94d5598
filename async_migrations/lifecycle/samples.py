"""Points of a migration's curve: so close that a chart of the whole run shows no step, and never more than that.

Between two points lie 2 seconds or a 200th of the time since the run began, whichever is more. So the number of points
grows with the logarithm of the time, 200 * ln(T): 640 in an hour, 1,660 in a week; nothing has to thin them out.
"""

from __future__ import annotations

from typing import Any

from django.db import connections

from ..conf import conf
from ..models import AsyncMigrationSample, AsyncMigrationStatus
from ..states import Status
from .moves import Lease

#: Seconds between two points at least, and how many of them a chart is wide.
SPACING_SECONDS, WIDTH = 2.0, 200

# A point says what the row says, which a heartbeat has just written. Without the lease there is no row.
_TAKE = f"""
WITH leased AS (
    SELECT m.*, STATEMENT_TIMESTAMP() AS now, make_interval(secs => %(spacing)s) AS least,
        (SELECT max(at) FROM {AsyncMigrationSample._meta.db_table} WHERE migration_id = m.id) AS last
    FROM {AsyncMigrationStatus._meta.db_table} AS m
    WHERE m.id = %(pk)s AND m.status = '{Status.IN_PROGRESS}' AND m.lease_token = %(token)s
), due AS (
    SELECT *, last + greatest(least, (last - started_at) / %(width)s) AS due_at FROM leased
), taken AS (
    INSERT INTO {AsyncMigrationSample._meta.db_table}
        (migration_id, attempt, phase, done, total, unit, percent, batch_size, throttled)
    SELECT id, attempt, phase, progress_done, progress_total, progress_unit, progress_percent, %(batch_size)s,
        throttled ->> 'reason'
    FROM due WHERE due_at <= now OR due_at IS NULL
)
SELECT extract(epoch FROM CASE WHEN due_at > now THEN due_at - now
                               ELSE greatest(least, (now - started_at) / %(width)s) END)::float
FROM due
"""  # noqa: S608 - names and values of our own


def spacing(elapsed: float) -> float:
    """Return how many seconds lie between two points, so many seconds after the run began."""
    return max(SPACING_SECONDS, elapsed / WIDTH)


def take_sample(lease: Lease, batch_size: int | None = None) -> float | None:
    """Write what the row says now as a point if one is due; return in how many seconds the next one is.

    batch_size: rows, as of now. None when the lease is gone; then nothing is written.
    """
    whose: dict[str, Any] = {"pk": lease.pk, "token": lease.token}
    with connections[conf.control_database].cursor() as cursor:
        cursor.execute(_TAKE, {**whose, "batch_size": batch_size, "spacing": SPACING_SECONDS, "width": WIDTH})
        found = cursor.fetchone()
    return None if found is None else float(found[0])
