"""Rows, events and holds with the field names of the HTTP contract, where REST framework may not be installed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from .models import (
    AsyncMigrationDelivery,
    AsyncMigrationEvent,
    AsyncMigrationHold,
    AsyncMigrationStatus,
    AsyncMigrationWebhook,
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
        **{field: time_as_text(getattr(row, field)) for field in times},
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
    return {**{field: getattr(event, field) for field in fields}, "created_at": time_as_text(event.created_at)}


def hold_as_dict(hold: AsyncMigrationHold) -> dict[str, Any]:
    """Return a hold with the field names of the HTTP contract."""
    times = ("created_at", "expires_at", "lifted_at")
    return {
        "id": hold.pk,
        "database": hold.database or None,
        **{field: getattr(hold, field) for field in ("reason", "by", "request_id")},
        **{field: time_as_text(getattr(hold, field)) for field in times},
        "lifted_by": hold.lifted_by,
    }


def webhook_as_dict(webhook: AsyncMigrationWebhook) -> dict[str, Any]:
    """Return a webhook without its secret."""
    fields = ("name", "url", "events", "databases", "state", "problem", "created_by")
    times = ("failing_since", "created_at")
    return {field: getattr(webhook, field) for field in fields} | {
        field: time_as_text(getattr(webhook, field)) for field in times
    }


def delivery_as_dict(delivery: AsyncMigrationDelivery) -> dict[str, Any]:
    """Return a delivery; `event` is the id of the event, null for a test."""
    times = ("next_attempt_at", "created_at", "delivered_at")
    return {
        "id": delivery.pk,
        "message_id": delivery.header,
        "webhook": delivery.webhook.name,
        "event": delivery.event.pk if delivery.event else None,
        "migration": delivery.event.migration.pk if delivery.event else None,
        **{field: getattr(delivery, field) for field in ("status", "attempts", "answer", "error")},
        **{field: time_as_text(getattr(delivery, field)) for field in times},
    }


def time_as_text(value: datetime | None) -> str | None:
    """Return the time as the HTTP contract has it: UTC, with microseconds, which Django's own encoder would cut."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value else None
