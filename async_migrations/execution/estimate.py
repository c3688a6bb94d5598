"""How large the tables of a migration are, and how long it may take: by what earlier ones took, or unknown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from .. import lifecycle
from ..conf import conf
from ..models import AsyncMigrationEvent, AsyncMigrationStatus
from ..states import Kind, Status
from .findings import INFO, Finding
from .look import Look
from .statements import IndexAction, Statement
from .verify import tables_of

_BUILD = re.compile(r"CREATE\s+(UNIQUE\s+)?INDEX\s+CONCURRENTLY\b", re.IGNORECASE)

# Earlier migrations that are looked at, the newest first: enough for an average, few enough to be found at once.
_EARLIER = 20


def sizes(look: Look) -> Iterator[Finding]:
    """How large each table is, with its partitions."""
    for table, oid in look.tables.items():
        size = look.session.one("preflight_size", oid=oid)
        rows = "an unknown number of" if size["rows"] is None else f"about {size['rows']:,}"
        message = f"{table} has {rows} rows in {size['table_bytes']:,} bytes, and {size['index_bytes']:,} of indexes."
        yield Finding("table", INFO, message, {"table": table, **size})


def duration(look: Look, statement: Statement) -> Iterator[Finding]:
    """How long the concurrent build of an index may take, by the earlier ones on this target."""
    for index in statement.indexes:
        if index.action is not IndexAction.CREATE or not index.concurrently:
            continue
        assert index.table is not None
        size = sum(tables_of(look.session, [index.table]).values())
        detail = {"statement": statement.number, "table_bytes": size}
        yield _duration(f"the build of {index.name}", size, _builds(look), "bytes", detail)


def duration_of_backfill(look: Look) -> Iterator[Finding]:
    """How long a backfill may take, by the earlier ones of the same table."""
    assert look.definition is not None
    rows = look.keyset.estimate(look.definition.where)
    earlier = _finished(look).filter(kind=Kind.BACKFILL, options__table=look.definition.table)
    took = [
        (row.progress_done, (row.finished_at - row.started_at).total_seconds())
        for row in earlier[:_EARLIER]
        if row.progress_done and row.finished_at and row.started_at
    ]
    yield _duration("the backfill", rows, took, "rows", {"rows": rows})


def _duration(what: str, amount: int, earlier: list[tuple[int, float]], unit: str, detail: dict[str, Any]) -> Finding:
    """Return the estimate for an amount, by the amounts of earlier ones and the seconds that each took."""
    done, seconds = sum(each for each, _ in earlier), sum(each for _, each in earlier)
    if not seconds:
        message = f"How long {what} takes is not known: there is no earlier one to tell by."
        return Finding("duration", INFO, message, {**detail, "seconds": None, "basis": None})
    rate = done / seconds
    basis = {"migrations": len(earlier), f"{unit}_per_second": round(rate, 1)}
    message = f"By {len(earlier)} earlier ones, waiting included, {what} may take about {amount / rate:.0f} s."
    return Finding("duration", INFO, message, {**detail, "seconds": round(amount / rate, 1), "basis": basis})


def _finished(look: Look) -> QuerySet[AsyncMigrationStatus]:
    known = lifecycle.rows().filter(status=Status.FINISHED, database=look.migration.database)
    return known.exclude(pk=look.migration.pk).filter(started_at__isnull=False).order_by("-id")


def _builds(look: Look) -> list[tuple[int, float]]:
    """Return the bytes of the table and the seconds of the latest builds.

    By the ids of their migrations: the table of events is large. What was found done was not built then.
    """
    latest = list(_finished(look).filter(kind=Kind.SQL).values_list("pk", flat=True)[:_EARLIER])
    events = list(
        AsyncMigrationEvent.objects.using(conf.control_database).filter(
            migration_id__in=latest, kind__in=("statement_done", "found_done")
        )
    )
    found_done = {event.migration_id for event in events if event.kind == "found_done"}
    return [
        (event.detail["table_bytes"], event.detail["seconds"])
        for event in events
        if event.migration_id not in found_done
        and event.detail.get("table_bytes")
        and _BUILD.match(event.detail["sql"])
    ]
