"""Webhooks sent by real workers: what was asked for over HTTP, killed workers, many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.webhooks import deliveries, endpoints
from tests.conftest import eventually
from tests.driving import ask, scheduled
from tests.receiver import answering

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("control")]

NEARBY = {
    "ASYNC_MIGRATIONS_WEBHOOK_PRIVATE_ADDRESSES": "true",
    "ASYNC_MIGRATIONS_WEBHOOK_BACKOFF_SECONDS": "0.1",
    "ASYNC_MIGRATIONS_WEBHOOK_TIMEOUT_SECONDS": "1",
    "ASYNC_MIGRATIONS_RECONCILE_SECONDS": "0.2",
}


def all_delivered() -> bool:
    return not deliveries.deliveries().exclude(status="delivered").exists()


def test_it_works_also_when_a_worker_is_killed_while_it_sends(api: Callable[..., Any], receiver, start_worker) -> None:
    # Given a worker in the middle of sending what was carried out
    webhook = endpoints.add("ours", receiver.url, "somebody")
    gone = threading.Event()
    receiver.answers = [lambda handler: [gone.wait(), answering(204)(handler)][-1], 500]
    first = start_worker(**NEARBY | {"ASYNC_MIGRATIONS_WEBHOOK_TIMEOUT_SECONDS": "2"})
    ask(api("operator"), scheduled("SELECT 1"))
    eventually(lambda: receiver.messages)
    # When it is killed, and the next one is answered 500
    first.kill()
    gone.set()
    second = start_worker(**NEARBY)
    # Then it is sent again, with the same id and a signature that holds
    eventually(all_delivered)
    assert len(set(receiver.ids)) == 1
    assert len(receiver.messages) == 3
    secret = endpoints.shown(endpoints.secret_of(webhook))
    assert all(message.is_signed_with(secret) for message in receiver.messages)
    assert receiver.messages[-1].data["event"]["kind"] == "succeed"
    second.kill()


def test_several_workers_send_each_of_many_once(receiver, start_worker) -> None:
    endpoints.add("ours", receiver.url, "somebody")
    pks = [scheduled("SELECT 1", name=f"books.migrations.{number}") for number in range(100)]
    workers = [start_worker(**NEARBY) for _ in range(2)]
    for pk in pks:
        lifecycle.cancel(pk, Origin("somebody"))
    eventually(lambda: len(set(receiver.ids)) == 100 and all_delivered())
    assert len(receiver.ids) == 100
    for worker in workers:
        worker.kill()


def test_a_private_address_is_refused_by_default_by_a_worker(receiver, start_worker) -> None:
    name = receiver.url.replace("127.0.0.1", "localhost").replace("http", "https")
    endpoints.add("ours", name, "somebody")
    lifecycle.cancel(scheduled("SELECT 1"), Origin("somebody"))
    worker = start_worker(**NEARBY | {"ASYNC_MIGRATIONS_WEBHOOK_PRIVATE_ADDRESSES": "false"})
    refused = eventually(lambda: deliveries.deliveries().exclude(error="").first())
    assert "not a public address" in refused.error
    assert receiver.connections == 0
    worker.kill()
