"""`manage.py async_migrations webhooks ...`: where events are sent to, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction

from async_migrations.client.watching import Exit
from async_migrations.conf import conf
from async_migrations.errors import WebhookRefused
from async_migrations.management.display import Display
from async_migrations.management.origin import origin
from async_migrations.models import AsyncMigrationDelivery, AsyncMigrationWebhook
from async_migrations.states import NOTABLE
from async_migrations.webhooks import couriers, deliveries, endpoints

Options = dict[str, Any]


def act(options: Options, display: Display) -> Exit:
    """Carry one action out. Raises CommandError for what is refused, with the exit code for that."""
    actions: dict[str, Callable[[], Exit]] = {
        "list": lambda: _list(display),
        "add": lambda: _add(options, display),
        "deliveries": lambda: _deliveries(options, display),
        "resend": lambda: _resend(options, display),
        "send": lambda: _send(display),
    }
    of_one: dict[str, Callable[[AsyncMigrationWebhook, Display], Exit]] = {
        "secret": _secret,
        "test": _test,
        "disable": partial(_switch, False),
        "enable": partial(_switch, True),
        "remove": _remove,
    }
    try:
        if (action := of_one.get(options["action"])) is not None:
            return action(_find(options["name"]), display)
        return actions[options["action"]]()
    except WebhookRefused as exc:
        raise CommandError(str(exc), returncode=Exit.REFUSED) from exc


def _list(display: Display) -> Exit:
    display.webhooks(list(endpoints.webhooks()))
    return Exit.DONE


def _add(options: Options, display: Display) -> Exit:
    wanted = {"events": options["events"] or NOTABLE, "databases": options["database"]}
    with transaction.atomic(using=conf.control_database):
        webhook = endpoints.add(options["name"], options["url"], origin().by, **wanted)
        endpoints.enter("add", webhook, origin())
    display.line(f"Added: {webhook.name}. Give its receiver this secret; `webhooks secret` prints it again.")
    return _secret(webhook, display)


def _secret(webhook: AsyncMigrationWebhook, display: Display) -> Exit:
    secret = endpoints.shown(endpoints.secret_of(webhook))
    if display.as_json:
        display.json({"name": webhook.name, "secret": secret})
    display.line(secret)
    return Exit.DONE


def _test(webhook: AsyncMigrationWebhook, display: Display) -> Exit:
    delivery = couriers.send_test(webhook)
    if display.as_json:
        display.deliveries([delivery])
    arrived = delivery.status == AsyncMigrationDelivery.Status.DELIVERED
    display.line(f"Arrived: HTTP {delivery.answer}." if arrived else f"Not arrived: {delivery.error}")
    return Exit.DONE if arrived else Exit.FAILED


def _switch(on: bool, webhook: AsyncMigrationWebhook, display: Display) -> Exit:
    with transaction.atomic(using=conf.control_database):
        endpoints.enter("enable" if on else "disable", webhook, origin())
        endpoints.set_active(webhook, on)
    is_now = "on; what was given up is sent by `webhooks resend`" if on else "off; what was yet to be sent is given up"
    display.line(f"{webhook.name} is {is_now}.")
    return Exit.DONE


def _remove(webhook: AsyncMigrationWebhook, display: Display) -> Exit:
    with transaction.atomic(using=conf.control_database):
        endpoints.enter("remove", webhook, origin())
        endpoints.remove(webhook)
    display.line(f"Removed: {webhook.name}.")
    return Exit.DONE


def _deliveries(options: Options, display: Display) -> Exit:
    found = deliveries.complete()
    if options["name"]:
        found = found.filter(webhook=_find(options["name"]))
    if options["failed"]:
        found = found.filter(status=AsyncMigrationDelivery.Status.FAILED)
    display.deliveries(list(found[: options["limit"]]))
    return Exit.DONE


def _resend(options: Options, display: Display) -> Exit:
    """Send some again; all are looked up before anything is asked for."""
    found = deliveries.complete().in_bulk(options["deliveries"])
    if missing := [pk for pk in options["deliveries"] if pk not in found]:
        raise WebhookRefused(f"There is no delivery {missing[0]}; `webhooks deliveries` shows what there is.")
    for delivery in found.values():
        deliveries.resend(delivery)
        display.line(f"To be sent again: {delivery.pk} to {delivery.webhook.name}.")
    if display.as_json:
        display.deliveries(list(deliveries.complete().filter(pk__in=found)))
    return Exit.DONE


def _send(display: Display) -> Exit:
    tried = sum(couriers.send_all(webhook) for webhook in deliveries.due())
    deliveries.remove_old()
    display.line(f"Tried: {tried}. `webhooks deliveries` shows what became of them.")
    if display.as_json:
        display.json({"tried": tried})
    return Exit.DONE


def _find(name: str) -> AsyncMigrationWebhook:
    webhook = endpoints.webhooks().filter(name=name).first()
    if webhook is None:
        raise WebhookRefused(f"There is no webhook {name!r}; `webhooks list` shows what there is.")
    return webhook
