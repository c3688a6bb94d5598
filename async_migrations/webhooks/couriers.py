"""Couriers: threads that send what is due, one for each webhook, so that a slow receiver holds up nobody else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError, InterfaceError, connections

from .. import __version__
from ..conf import conf
from ..contract import as_dict, event_as_dict
from ..errors import WebhookRefused
from ..models import AsyncMigrationDelivery, AsyncMigrationWebhook
from . import deliveries, endpoints

if TYPE_CHECKING:
    from .line import Line

logger = logging.getLogger("async_migrations")

# Threads of a process. With more webhooks than these, the rest waits for the next round, and has its turn before long.
_MOST_COURIERS = 16
_TURN = 10.0  # seconds
# What others' statements look like, and our own, is nobody's business outside.
_SQL = {"sql", "query", "definition"}


class Couriers:
    """The couriers of a process. ended: says whether it is about to end; then nothing new is begun."""

    def __init__(self, ended: Callable[[], bool]) -> None:
        self._ended = ended
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._turns: dict[int, float] = {}  # when each webhook's last courier began
        self._crowded = False

    def send_out(self) -> None:
        """Have what is due sent, by threads; remove what is old. Returns at once."""
        due = deliveries.due()
        with self._lock:
            waiting = [webhook for webhook in due if webhook not in self._threads]
            waiting.sort(key=lambda webhook: self._turns.get(webhook, 0.0))
            free = _MOST_COURIERS - len(self._threads)
            for webhook in waiting[:free]:
                name = f"courier-{webhook}"
                self._threads[webhook] = threading.Thread(target=self._run, args=(webhook,), name=name, daemon=True)
                self._turns[webhook] = time.monotonic()
                self._threads[webhook].start()
            self._crowded = len(waiting) > free
        deliveries.remove_old()

    def wait(self) -> None:
        """Wait for what is being sent, for as long as one delivery may take."""
        deadline = time.monotonic() + conf.webhook_timeout_seconds
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _is_over(self, webhook: int) -> bool:
        """Whether others wait, and this one has had its turn."""
        return self._crowded and time.monotonic() > self._turns[webhook] + _TURN

    def _run(self, webhook: int) -> None:
        try:
            send_all(webhook, lambda: self._ended() or self._is_over(webhook))
        except (DatabaseError, InterfaceError, WebhookRefused) as exc:  # What was claimed is due again before long.
            logger.warning("courier stopped", extra={"webhook_id": webhook, "reason": str(exc)}, exc_info=True)
        finally:
            connections.close_all()
            with self._lock:
                del self._threads[webhook]


def send_all(webhook: int, ended: Callable[[], bool] = lambda: False) -> int:
    """Send what is due for a webhook, one after the other, until nothing is, and return how many were tried.

    Raises WebhookRefused where httpx is not installed.
    """
    tried = 0
    with open_line() as line:
        while not ended():
            # From before the claim: when it is over and others may send the same, this process has ended its try.
            deadline = time.monotonic() + conf.webhook_timeout_seconds
            if (delivery := deliveries.claim(webhook)) is None:
                break
            _send(delivery, line, deadline)
            tried += 1
    return tried


def send_test(webhook: AsyncMigrationWebhook) -> AsyncMigrationDelivery:
    """Send an event that says nothing, from this process, and return the delivery as it is then.

    Raises WebhookRefused where httpx is not installed.
    """
    with open_line() as line:
        deadline = time.monotonic() + conf.webhook_timeout_seconds
        delivery = deliveries.make_test(webhook)
        _send(delivery, line, deadline)
    delivery.refresh_from_db()
    return delivery


def _send(delivery: AsyncMigrationDelivery, line: Line, deadline: float) -> None:
    """Send one that was claimed, and write down what became of it."""
    answer = None
    try:
        body = json.dumps(_body(delivery), cls=DjangoJSONEncoder).encode()
        said = line.post(delivery.webhook.url, _headers(delivery, body), body, deadline)
        answer, problem = said.status, "" if 200 <= said.status < 300 else f"HTTP {said.status} {said.text}".rstrip()
    except (OSError, WebhookRefused) as exc:
        problem = str(exc)
    except Exception as exc:  # Whatever it is, it backs off like the others.
        logger.exception("delivery failed", extra={"delivery_id": delivery.pk})
        problem = f"{type(exc).__name__}: {exc}"
    if answer is not None and not problem:
        deliveries.delivered(delivery, answer)
    else:
        deliveries.failed(delivery, answer, problem)


def open_line() -> Line:
    """Return a line to a receiver. Raises WebhookRefused where httpx is not installed."""
    try:
        from .line import Line
    except ImportError as exc:
        raise WebhookRefused(
            "Webhooks are not sent: httpx is not installed here. It comes with the extra `worker`: "
            "pip install 'django-async-migrations[worker]'."
        ) from exc
    return Line()


def _headers(delivery: AsyncMigrationDelivery, body: bytes) -> dict[str, str]:
    """Return the headers of the Standard Webhooks specification: id, time and signature."""
    name, moment = delivery.header, str(int(time.time()))
    secret = endpoints.secret_of(delivery.webhook)
    signature = hmac.new(secret, f"{name}.{moment}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": f"django-async-migrations/{__version__}",
        "webhook-id": name,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def _body(delivery: AsyncMigrationDelivery) -> dict[str, Any]:
    event = delivery.event
    if event is None:
        test = {"webhook": delivery.webhook.name}
        return {"type": "webhook.test", "timestamp": delivery.created_at, "data": test}
    told = event_as_dict(event)
    data = {"event": told, "migration": as_dict(event.migration)}
    return {"type": f"migration.{event.kind}", "timestamp": told["created_at"], "data": _without_sql(data)}


def _without_sql(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_sql(item) for name, item in value.items() if name not in _SQL}
    return [_without_sql(item) for item in value] if isinstance(value, list) else value
