"""Deliveries: which are due, who sends one, and what became of it. Times come from the database clock."""

from __future__ import annotations

import logging
import random
import uuid
from datetime import timedelta
from typing import Any

from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.functions import Coalesce, Now

from ..conf import conf
from ..errors import WebhookRefused
from ..models import AsyncMigrationDelivery, AsyncMigrationWebhook
from . import endpoints

logger = logging.getLogger("async_migrations")

PENDING, DELIVERED, FAILED = AsyncMigrationDelivery.Status

#: The receiver wants no more, says the status code 410.
GONE = 410

# Seconds. With the settings' defaults, 12 tries are then spread over 22 hours.
_LONGEST_BACKOFF = 6 * 3600.0
_BACKOFF_FACTOR = 3.0
_JITTER = 0.2

# How many old ones are removed at a time.
_SHARE = 1000

# One statement: a worker that is frozen between two would keep the row locked, and nobody could send it.
_CLAIM = f"""
UPDATE {AsyncMigrationDelivery._meta.db_table}
SET attempts = attempts + 1, next_attempt_at = STATEMENT_TIMESTAMP() + make_interval(secs => %s)
WHERE id = (
    SELECT delivery.id FROM {AsyncMigrationDelivery._meta.db_table} AS delivery
    JOIN {AsyncMigrationWebhook._meta.db_table} AS webhook ON webhook.id = delivery.webhook_id AND webhook.active
    WHERE delivery.webhook_id = %s AND delivery.next_attempt_at <= STATEMENT_TIMESTAMP()
    ORDER BY delivery.next_attempt_at, delivery.id LIMIT 1 FOR UPDATE OF delivery SKIP LOCKED
)
RETURNING *
"""  # noqa: S608 - names of our own


def deliveries() -> QuerySet[AsyncMigrationDelivery]:
    """Return all deliveries, in the control database, the newest first."""
    return AsyncMigrationDelivery.objects.using(conf.control_database)


def complete() -> QuerySet[AsyncMigrationDelivery]:
    """Return all deliveries, each with its webhook, event and migration."""
    return deliveries().select_related("webhook", "event__migration")


def due() -> list[int]:
    """Return the webhooks that something is to be sent to now; last those that have been failing for long."""
    waiting = deliveries().filter(webhook=OuterRef("pk"), next_attempt_at__lte=Now()).order_by()
    found = endpoints.webhooks().filter(Exists(waiting), active=True)
    return list(found.order_by(F("failing_since").desc(nulls_first=True), "pk").values_list("pk", flat=True))


def claim(webhook: int) -> AsyncMigrationDelivery | None:
    """Take what is to be sent to a webhook next, or return None: nothing is, or others send it.

    It is the caller's for twice the time that a delivery may take. After that it is due again, with the same id.
    """
    taken = next(iter(deliveries().raw(_CLAIM, [_claim_seconds(), webhook])), None)
    return None if taken is None else complete().filter(pk=taken.pk).first()


def make_test(webhook: AsyncMigrationWebhook) -> AsyncMigrationDelivery:
    """Write a delivery that says nothing, and take it: nobody else sends it."""
    until = Now() + timedelta(seconds=_claim_seconds())
    made = deliveries().create(message_id=uuid.uuid4(), webhook=webhook, attempts=1, next_attempt_at=until)
    return complete().get(pk=made.pk)


def delivered(delivery: AsyncMigrationDelivery, answer: int) -> None:
    """Write that it has arrived."""
    # Also where it was given up meanwhile, the webhook being switched off.
    _ours(delivery).update(status=DELIVERED, answer=answer, error="", next_attempt_at=None, delivered_at=Now())
    # Not by what was read with the delivery: another one may have failed since.
    _webhook(delivery).filter(failing_since__isnull=False).update(failing_since=None, problem="")


def failed(delivery: AsyncMigrationDelivery, answer: int | None, error: str) -> None:
    """Write why it has not arrived, and when it is sent again; a test is not. 410 switches the webhook off."""
    used_up = delivery.attempts >= conf.webhook_max_attempts or delivery.event is None
    changes: dict[str, Any] = {"answer": answer, "error": error[:500]}
    if used_up or answer == GONE:
        changes |= {"status": FAILED, "next_attempt_at": None}
    else:
        changes["next_attempt_at"] = Now() + timedelta(seconds=_backoff(delivery.attempts))
    if _ours(delivery).filter(next_attempt_at__isnull=False).update(**changes):
        _webhook(delivery).update(failing_since=Coalesce("failing_since", Now()), problem=error[:500])
    if answer == GONE:
        endpoints.set_active(delivery.webhook, False)
    logger.warning(
        "delivery_given_up" if "status" in changes else "delivery_failed",
        extra={
            "webhook": delivery.webhook.name,
            "message_id": delivery.header,
            "attempt": delivery.attempts,
            "reason": error[:500],
        },
    )


def resend(delivery: AsyncMigrationDelivery) -> None:
    """Have it sent again, with the same id and its attempts counted from zero. Raises WebhookRefused."""
    if not delivery.webhook.active:
        raise WebhookRefused(f"The webhook {delivery.webhook.name!r} is switched off; switch it on first.")
    over = deliveries().filter(pk=delivery.pk, next_attempt_at__isnull=True)
    if not over.update(status=PENDING, attempts=0, next_attempt_at=Now(), delivered_at=None):
        raise WebhookRefused(f"Delivery {delivery.pk} is on its way already.")


def remove_old() -> None:
    """Remove some of what has been over for longer than the log keeps it."""
    until = Now() - timedelta(seconds=conf.webhook_keep_seconds)
    old = deliveries().filter(next_attempt_at__isnull=True, created_at__lt=until).order_by("created_at")
    deliveries().filter(pk__in=old.values("pk")[:_SHARE]).delete()


def _claim_seconds() -> float:
    return 2 * conf.webhook_timeout_seconds


def _backoff(attempts: int) -> float:
    """Return the seconds until the next try, not the same for all that failed at once."""
    # No more than a float can hold, however many tries a setting allows.
    seconds = min(conf.webhook_backoff_seconds * _BACKOFF_FACTOR ** min(attempts - 1, 100), _LONGEST_BACKOFF)
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - not a secret


def _ours(delivery: AsyncMigrationDelivery) -> QuerySet[AsyncMigrationDelivery]:
    """Match it unless somebody else has taken it since: every claim counts an attempt."""
    return deliveries().filter(pk=delivery.pk, attempts=delivery.attempts)


def _webhook(delivery: AsyncMigrationDelivery) -> QuerySet[AsyncMigrationWebhook]:
    return endpoints.webhooks().filter(pk=delivery.webhook.pk)
