"""Webhooks: where events are sent to, and the secret that their signatures are made with."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.crypto import salted_hmac

from .. import lifecycle, states
from ..conf import conf
from ..errors import WebhookRefused
from ..lifecycle import Origin, audit
from ..models import AsyncMigrationDelivery, AsyncMigrationWebhook
from ..states import Status
from . import addresses

#: What a webhook may want to hear of: a kind of event, or a status that is reached.
EVENTS = (*Status.values, *(transition.name for transition in states.TRANSITIONS), *states.REMARKS)

_LONGEST_NAME, _LONGEST_URL = 100, 2000


def webhooks() -> QuerySet[AsyncMigrationWebhook]:
    """Return all webhooks, in the control database."""
    return AsyncMigrationWebhook.objects.using(conf.control_database)


def add(
    name: str, url: str, by: str, *, events: Collection[str] = states.NOTABLE, databases: Collection[str] = ()
) -> AsyncMigrationWebhook:
    """Have events sent to an address from now on.

    events: some of EVENTS; by default what has ended or waits for a person. databases: aliases; none: all. by: who
    asked. Raises WebhookRefused.
    """
    check(name, url, events, databases)
    webhook = AsyncMigrationWebhook(
        name=name, url=url, events=list(events), databases=list(databases), created_by=by[:255]
    )
    draw_secret(webhook)
    try:
        with transaction.atomic(using=conf.control_database):
            webhook.save(using=conf.control_database, force_insert=True)
    except IntegrityError as exc:
        raise WebhookRefused(f"There is a webhook {name!r} already. Choose another name, or remove it first.") from exc
    return webhook


def check(name: str, url: str, events: Collection[str], databases: Collection[str]) -> None:
    """Raise WebhookRefused, with what to do, unless a webhook can be made of these."""
    if not 0 < len(name.strip()) <= _LONGEST_NAME:
        raise WebhookRefused(f"Give a name of 1 to {_LONGEST_NAME} characters.")
    check_url(url)
    if not events:
        raise WebhookRefused(f"Name an event at least. There are: {', '.join(EVENTS)}.")
    if unknown := sorted(set(events) - set(EVENTS)):
        raise WebhookRefused(f"There is no event {unknown[0]!r}. There are: {', '.join(EVENTS)}.")
    known = lifecycle.databases()
    if unknown := sorted(set(databases) - set(known)):
        raise WebhookRefused(f"There is no database {unknown[0]!r}. There are: {', '.join(known)}.")


def check_url(url: str) -> None:
    """Raise WebhookRefused unless something may be sent there; what a name leads to is looked at when it is sent."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise WebhookRefused(f"This is no address: {exc}. Say https://HOST/PATH.") from exc
    allowed = ("https", "http") if conf.webhook_private_addresses else ("https",)
    if parts.scheme not in allowed or not host or port == 0:
        raise WebhookRefused(
            f"A webhook's address begins with {' or '.join(f'{scheme}://' for scheme in allowed)} and names a host; "
            "http is for ASYNC_MIGRATIONS_WEBHOOK_PRIVATE_ADDRESSES=true."
        )
    if parts.username is not None or parts.password is not None:
        raise WebhookRefused("Leave user and password out of the address: the receiver checks the signature instead.")
    if not re.fullmatch(r"[!-~]+", url) or len(url) > _LONGEST_URL:
        raise WebhookRefused(
            f"Write the address in ASCII, without spaces, in at most {_LONGEST_URL} characters; other letters "
            "percent-encoded, and in the host as xn--."
        )
    addresses.check_literal(host)


def remove(webhook: AsyncMigrationWebhook) -> None:
    """Remove a webhook with the log of its deliveries; nothing more is sent."""
    webhook.delete(using=conf.control_database)


def set_active(webhook: AsyncMigrationWebhook, active: bool) -> None:
    """Have events sent, or no more; what is yet to be sent is given up then."""
    webhooks().filter(pk=webhook.pk).update(active=active)
    if not active:
        pending = AsyncMigrationDelivery.objects.using(conf.control_database).filter(
            webhook=webhook, next_attempt_at__isnull=False
        )
        pending.update(
            status=AsyncMigrationDelivery.Status.FAILED, next_attempt_at=None, error="The webhook was switched off."
        )


def enter(verb: str, webhook: AsyncMigrationWebhook, origin: Origin) -> None:
    """Enter in the audit what somebody has done to a webhook. verb: such as "add"."""
    said = {name: getattr(webhook, name) for name in ("name", "url", "events", "databases", "active")}
    audit.enter(f"{verb}_webhook", origin, detail=said)


def draw_secret(webhook: AsyncMigrationWebhook) -> None:
    """Give a webhook a secret of its own; the caller saves it."""
    webhook.salt = secrets.token_hex(16)
    webhook.fingerprint = _fingerprint(_derived(webhook.salt, settings.SECRET_KEY))


def secret_of(webhook: AsyncMigrationWebhook) -> bytes:
    """Return the signing secret, also by one of SECRET_KEY_FALLBACKS. Raises WebhookRefused: none of them made it."""
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        secret = _derived(webhook.salt, key)
        if secrets.compare_digest(_fingerprint(secret), webhook.fingerprint):
            return secret
    raise WebhookRefused(
        f"The secret of the webhook {webhook.name!r} was made with another SECRET_KEY than this process has. Give all "
        "processes the same one; if it was changed, keep the old one in SECRET_KEY_FALLBACKS or make the webhook anew."
    )


def shown(secret: bytes) -> str:
    """Return a secret as receivers take it."""
    return f"whsec_{base64.b64encode(secret).decode()}"


def _derived(salt: str, key: str | bytes) -> bytes:
    return salted_hmac("async_migrations.webhooks", salt, secret=key, algorithm="sha256").digest()


def _fingerprint(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
