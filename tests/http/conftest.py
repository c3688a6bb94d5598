"""Clients and rows for the tests of the doors; factories, all of them. The worker is played."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import count
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.core.management import call_command
from django.db import connections
from django.test import Client

from async_migrations import lifecycle
from async_migrations.errors import ExecutionError
from async_migrations.lifecycle import Lease, Origin, Request
from async_migrations.models import AsyncMigrationAudit, AsyncMigrationStatus
from async_migrations.states import Status

ORIGIN = Origin("somebody")
BROKEN = ExecutionError(code="unique_violation", message="could not create unique index", sqlstate="23505")


@pytest.fixture
def bearer(db: None) -> Callable[..., str]:
    """Make a token for a new user: `bearer("viewer")`; further keywords are options of `create_api_token`."""
    number = count(1)

    def make(role: str = "operator", **options: Any) -> str:
        out = StringIO()
        call_command("create_api_token", f"{role}-{next(number)}", role=role, stdout=out, stderr=StringIO(), **options)
        return out.getvalue().strip()

    return make


@pytest.fixture
def client_of(bearer: Callable[..., str]) -> Callable[..., Client]:
    """Make a client: `client_of("viewer")`, or `client_of(None)` for one without a token."""

    def make(role: str | None = "operator") -> Client:
        headers = {"Authorization": f"Bearer {bearer(role)}"} if role else {}
        return Client(raise_request_exception=False, headers=headers)

    return make


@pytest.fixture
def operator(client_of: Callable[..., Client]) -> Client:
    return client_of("operator")


@pytest.fixture
def viewer(client_of: Callable[..., Client]) -> Client:
    return client_of("viewer")


def user(*verbs: str) -> User:
    """Make a user who may do this and nothing else: `user("view", "run")`."""
    made = User.objects.create_user(f"user-{'-'.join(verbs)}", password="correct horse")
    names = [f"{verb}_asyncmigrationstatus" for verb in verbs]
    made.user_permissions.set(Permission.objects.filter(codename__in=names))
    return made


@pytest.fixture
def browser() -> Callable[..., Client]:
    """Make a client that is logged in to the operators' page and may look, and more: `browser("run")`."""

    def make(*verbs: str, checks: bool = False) -> Client:
        client = Client(enforce_csrf_checks=checks)
        client.force_login(user("view", *verbs))
        return client

    return make


def told(response: Any) -> list[str]:
    """Return what the next page will say."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def poll(client: Client, path: str, tag: str = "") -> Any:
    """Ask as a page that is open does."""
    return client.get(path, headers={"HX-Request": "true", "If-None-Match": tag})


def asked() -> list[tuple[Any, ...]]:
    """Return what was asked for on the operators' page, by the audit."""
    entries = AsyncMigrationAudit.objects.filter(channel="dashboard")
    return list(entries.values_list("by", "action", "outcome", "code"))


def buttons(page: Any) -> set[str]:
    """Return the verbs that a page has buttons for."""
    return set(re.findall(r'(?:action|href)="/migrations/\d+/(run|pause|resume|cancel|rollback|tune)"', page.text))


@pytest.fixture
def migration(db: None) -> Callable[..., AsyncMigrationStatus]:
    """Make a migration in a status: `migration(Status.ERROR, name="app.migrations.0001")`."""
    number = count(1)

    def make(status: Status = Status.SCHEDULED, **fields: Any) -> AsyncMigrationStatus:
        name = fields.pop("name", f"app.migrations.{next(number):04}_async")
        wanted = {"database": "default", "sql_forwards": "SELECT 1", "sql_backwards": "SELECT 2", **fields}
        row = lifecycle.take_over(Request("schedule", name, **wanted))
        assert row is not None
        _LEADS_TO[status](row.pk)
        row.refresh_from_db()
        assert row.status == status
        return row

    return make


def begin(pk: int) -> Lease:
    """Play a worker that begins."""
    lease = lifecycle.claim(pk, "worker-1")
    assert lease is not None
    return lease


def _started(pk: int) -> None:
    lifecycle.run(pk, ORIGIN)


def _in_progress(pk: int) -> Lease:
    _started(pk)
    return begin(pk)


def _finished(pk: int) -> None:
    lifecycle.succeed(_in_progress(pk))


def _rolled_back(pk: int) -> None:
    _finished(pk)
    lifecycle.rollback(pk, ORIGIN)
    lifecycle.succeed(begin(pk))


def _paused(pk: int) -> None:
    lease = _in_progress(pk)
    lifecycle.pause(pk, ORIGIN)
    lifecycle.paused(lease)


_LEADS_TO: dict[Status, Callable[[int], object]] = {
    Status.SCHEDULED: lambda pk: None,
    Status.STARTED: _started,
    Status.IN_PROGRESS: _in_progress,
    Status.FINISHED: _finished,
    Status.ERROR: lambda pk: lifecycle.fail(_in_progress(pk), BROKEN),
    Status.PAUSED: _paused,
    Status.CANCELLED: lambda pk: lifecycle.cancel(pk, ORIGIN),
    Status.ROLLED_BACK: _rolled_back,
}


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Assert that the answer is this problem, complete and in one envelope, and return it."""
    assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json"), response.content
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:problem-type:async-migrations:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"].startswith("/")
    assert problem["request_id"] == response["X-Request-ID"]
    assert "Traceback" not in response.text
    return problem


@contextmanager
def ending_whoever_changes(row: AsyncMigrationStatus) -> Iterator[None]:
    """End the server process of the control database that is about to change this migration."""
    _execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'"
    )
    try:
        _execute(
            f"CREATE TRIGGER die BEFORE UPDATE ON {row._meta.db_table} "
            f"FOR EACH ROW WHEN (NEW.id = {row.pk}) EXECUTE FUNCTION die()"
        )
        yield
    finally:
        _execute("DROP FUNCTION die() CASCADE")


def _execute(sql: str) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)
