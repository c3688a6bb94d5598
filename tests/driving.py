"""How tests drive the service from outside: schedule, ask and poll over HTTP, and stand in its way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg2
from django.db import connections

from api.processes import Running
from async_migrations import asking, lifecycle
from async_migrations.lifecycle import Origin, Request
from tests.conftest import eventually
from tests.db.conftest import query

# A lease that runs out soon, so that a test need not wait half a minute for a dead worker's work to move on.
QUICK = {"ASYNC_MIGRATIONS_LEASE_SECONDS": "2", "ASYNC_MIGRATIONS_HEARTBEAT_SECONDS": "0.2"}

# A concurrent build waits for every older snapshot before it ends; this keeps one at that point for as long as needed.
OLD_SNAPSHOT = ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM book")


def scheduled(
    forwards: str,
    backwards: str = "SELECT 1",
    name: str = "books.migrations.0002_x",
    database: str = "default",
    **options: Any,
) -> int:
    """Schedule as `migrate` does; return the id."""
    return lifecycle.take_over(Request("schedule", name, database, forwards, backwards, options)).pk


def row(client: httpx.Client, pk: int) -> dict[str, Any]:
    """Return a migration as the API shows it."""
    answer = client.get(f"/api/async-migrations/{pk}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def force(pk: int) -> None:
    """Have a migration run although the preflight would refuse it."""
    asking.ask("run", pk, Origin("test"), force=True)


def ask(client: httpx.Client, pk: int, verb: str = "run") -> None:
    """Ask for a verb, which must be accepted."""
    answer = client.post(f"/api/async-migrations/{pk}/{verb}")
    assert answer.status_code in {200, 202}, answer.text


def ended(client: httpx.Client, pk: int, timeout: float = 30) -> dict[str, Any]:
    """Poll as a CI script does, until the migration is terminal."""
    return eventually(lambda: (now := row(client, pk))["terminal"] and now, timeout, what="a terminal status")


@contextmanager
def held(*statements: str, using: str = "default") -> Iterator[None]:
    """Keep a transaction of another client open for the length of the block."""
    other = psycopg2.connect(**connections[using].get_connection_params())
    try:
        for statement in statements:
            other.cursor().execute(statement)
        yield
    finally:
        other.close()


def backends(using: str = "default") -> list[tuple[Any, ...]]:
    """Return the sessions of attempts that are open now."""
    return query("SELECT pid, query FROM pg_stat_activity WHERE application_name LIKE 'async-migrations/%'", using)


def stop_group(process: Running, number: int) -> None:
    """Send a signal to all processes of a worker."""
    os.killpg(process.pid, number)
