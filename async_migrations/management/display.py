"""What the command shows, from the models: the tables of both commands, and those of the host alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from async_migrations.client.screen import Columns, Screen
from async_migrations.execution.findings import Finding
from async_migrations.execution.janitor import Leftover
from async_migrations.models import AsyncMigrationEvent, AsyncMigrationHold, AsyncMigrationStatus
from async_migrations.words import findings, moment, size

_HOLD_COLUMNS: Columns = (
    ("DATABASE", lambda hold: hold.database or "all"),
    ("BY", lambda hold: hold.by),
    ("SINCE", lambda hold: moment(hold.created_at)),
    ("UNTIL", lambda hold: moment(hold.expires_at)),
    ("REASON", lambda hold: hold.reason),
)
_LEFTOVER_COLUMNS: Columns = (
    ("DATABASE", lambda found: found.database),
    ("SIZE", lambda found: size(found.size_bytes)),
    ("KIND", lambda found: found.kind),
    ("MIGRATION", lambda found: f"{found.migration or '-'}{' (in progress)' if found.running else ''}"),
    ("TABLE", lambda found: found.table),
    ("INDEX", lambda found: f"{found.schema}.{found.name}"),
)


def as_dict(row: AsyncMigrationStatus) -> dict[str, Any]:
    """Return the row with the field names of the HTTP contract, without the SQL."""
    plain = ("name", "database", "kind", "direction", "status", "terminal", "stop_requested", "meta", "phase")
    times = ("run_at", "created_at", "updated_at", "requested_at", "started_at", "finished_at", "heartbeat_at")
    return {
        "id": row.pk,
        **{field: getattr(row, field) for field in plain},
        "progress": {
            "done": row.progress_done,
            "total": row.progress_total,
            "unit": row.progress_unit,
            "percent": row.percent,
            "rate_per_second": row.progress_rate,
            "eta_seconds": row.eta_seconds,
        },
        "waiting_on": row.waiting_on,
        "throttled": row.throttled,
        **{field: getattr(row, field) for field in ("attempt", "max_attempts", "worker", "requested_by")},
        **{field: _time(getattr(row, field)) for field in times},
    }


def detail_as_dict(row: AsyncMigrationStatus) -> dict[str, Any]:
    """Return the row with the SQL, again as the HTTP contract has it."""
    return as_dict(row) | {field: getattr(row, field) for field in _DETAIL_FIELDS}


_DETAIL_FIELDS = (
    "queued_behind",
    "priority",
    "tuning",
    "quarantined",
    "sql_forwards",
    "sql_backwards",
    "sql_digest",
    "options",
)


def event_as_dict(event: AsyncMigrationEvent) -> dict[str, Any]:
    """Return one event with the field names of the HTTP contract."""
    fields = ("id", "kind", "from_status", "to_status", "attempt", "by", "request_id", "detail")
    return {**{field: getattr(event, field) for field in fields}, "created_at": _time(event.created_at)}


def hold_as_dict(hold: AsyncMigrationHold) -> dict[str, Any]:
    """Return a hold with the field names of the HTTP contract."""
    times = ("created_at", "expires_at", "lifted_at")
    return {
        "id": hold.pk,
        "database": hold.database or None,
        **{field: getattr(hold, field) for field in ("reason", "by", "request_id")},
        **{field: _time(getattr(hold, field)) for field in times},
        "lifted_by": hold.lifted_by,
    }


def _time(value: datetime | None) -> str | None:
    """Return the time as the HTTP contract has it: UTC, with microseconds, which Django's own encoder would cut."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value else None


class Display(Screen):
    """Writes what the host knows to standard output; with `as_json` one JSON document instead."""

    def json(self, value: Any) -> None:
        """Write one JSON document."""
        self.console.file.write(json.dumps(value, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False) + "\n")

    def rows(self, rows: Sequence[AsyncMigrationStatus]) -> None:
        """Write the list."""
        if self.as_json:
            self.json([as_dict(row) for row in rows])
        else:
            self.migrations([detail_as_dict(row) for row in rows])

    def detail(self, row: AsyncMigrationStatus, events: Sequence[AsyncMigrationEvent]) -> None:
        """Write everything about one migration."""
        said = [event_as_dict(event) for event in events]
        if self.as_json:
            self.json({**detail_as_dict(row), "events": said})
        else:
            self.migration(detail_as_dict(row), said)

    def leftovers(self, leftovers: Sequence[Leftover]) -> None:
        """Write what builds have left behind."""
        if self.as_json:
            self.json([asdict(found) for found in leftovers])
        else:
            self.table(_LEFTOVER_COLUMNS, leftovers, "No leftovers.")

    def holds(self, holds: Sequence[AsyncMigrationHold]) -> None:
        """Write what keeps migrations from going on."""
        if self.as_json:
            self.json([hold_as_dict(hold) for hold in holds])
        else:
            self.table(_HOLD_COLUMNS, holds, "Nothing is held.")

    def findings(self, found: Sequence[Finding]) -> None:
        """Write what stands in the way of a migration."""
        if self.as_json:
            self.json([asdict(each) for each in found])
        else:
            for line in findings([asdict(each) for each in found]):
                self.line(line)
