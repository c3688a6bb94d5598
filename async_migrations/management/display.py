"""What the command shows, from the models: the tables of both commands, and those of the host alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from async_migrations.client.screen import Columns, Screen
from async_migrations.contract import (
    as_dict,
    delivery_as_dict,
    detail_as_dict,
    event_as_dict,
    hold_as_dict,
    webhook_as_dict,
)
from async_migrations.execution.findings import Finding
from async_migrations.execution.janitor import Leftover
from async_migrations.models import (
    AsyncMigrationDelivery,
    AsyncMigrationEvent,
    AsyncMigrationHold,
    AsyncMigrationStatus,
    AsyncMigrationWebhook,
)
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
_WEBHOOK_COLUMNS: Columns = (
    ("NAME", lambda webhook: webhook.name),
    ("STATE", lambda webhook: webhook.state),
    ("SINCE", lambda webhook: moment(webhook.failing_since or webhook.created_at)),
    ("EVENTS", lambda webhook: ", ".join(webhook.events)),
    ("DATABASES", lambda webhook: ", ".join(webhook.databases) or "all"),
    ("URL", lambda webhook: webhook.url),
    ("PROBLEM", lambda webhook: webhook.problem or "-"),
)
_DELIVERY_COLUMNS: Columns = (
    ("ID", lambda delivery: str(delivery.pk)),
    ("STATUS", lambda delivery: delivery.status),
    ("WEBHOOK", lambda delivery: delivery.webhook.name),
    ("EVENT", lambda delivery: delivery.event.kind if delivery.event else "test"),
    ("MIGRATION", lambda delivery: delivery.event.migration.name if delivery.event else "-"),
    ("ATTEMPTS", lambda delivery: str(delivery.attempts)),
    ("NEXT", lambda delivery: moment(delivery.next_attempt_at)),
    ("ANSWER", lambda delivery: str(delivery.answer or "-")),
    ("ERROR", lambda delivery: delivery.error or "-"),
)


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

    def webhooks(self, webhooks: Sequence[AsyncMigrationWebhook]) -> None:
        """Write where events are sent to."""
        if self.as_json:
            self.json([webhook_as_dict(webhook) for webhook in webhooks])
        else:
            self.table(_WEBHOOK_COLUMNS, webhooks, "No webhooks.")

    def deliveries(self, deliveries: Sequence[AsyncMigrationDelivery]) -> None:
        """Write what was sent, or is to be sent."""
        if self.as_json:
            self.json([delivery_as_dict(delivery) for delivery in deliveries])
        else:
            self.table(_DELIVERY_COLUMNS, deliveries, "No deliveries.")

    def findings(self, found: Sequence[Finding]) -> None:
        """Write what stands in the way of a migration."""
        if self.as_json:
            self.json([asdict(each) for each in found])
        else:
            for line in findings([asdict(each) for each in found]):
                self.line(line)
