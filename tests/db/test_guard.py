"""What the guard of a statement does about who queues behind it, looked at from within."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest
from django.db import connection

from async_migrations import lifecycle
from async_migrations.execution.guard import Guard, Mode
from async_migrations.execution.session import Session
from tests.conftest import eventually
from tests.db.conftest import kinds, query

pytestmark = pytest.mark.usefixtures("control", "book")

ALTER = "ALTER TABLE book ADD COLUMN pages int"


@contextmanager
def queueing_behind(ours: Session, application_name: str) -> Iterator[dict[str, str | None]]:
    """Let somebody of this name queue behind what the session holds until the block ends; yield how that ended."""
    ended: dict[str, str | None] = {}

    def alter() -> None:
        parameters = connection.get_connection_params() | {"application_name": application_name}
        with closing(psycopg2.connect(**parameters)) as other, other.cursor() as cursor:
            try:
                cursor.execute(ALTER)
                ended["sqlstate"] = None
            except psycopg2.Error as exc:
                ended["sqlstate"] = exc.pgcode

    thread = threading.Thread(target=alter)
    with ours.transaction():
        ours.execute("LOCK TABLE book IN SHARE UPDATE EXCLUSIVE MODE")
        thread.start()
        yield ended
    thread.join(30)


@pytest.fixture
def lease(migration) -> lifecycle.Lease:
    row = migration("SELECT 1", guard="protect")
    lifecycle.run(row.pk, lifecycle.Origin("test"))
    taken = lifecycle.claim(row.pk, "test")
    assert taken is not None
    return taken


@pytest.mark.parametrize(
    ("role", "application_name", "kind", "sqlstate"),
    [
        ("postgres", "psql", "guard_cancel", "57014"),
        ("watchman", "psql", "guard_report", None),
        ("postgres", "async-migrations/7/1", "guard_report", None),
    ],
    ids=["anybody's", "whose it may not cancel", "another migration's"],
)
def test_who_queues_is_cancelled_or_told_of_but_never_unseen(lease, role, application_name, kind, sqlstate) -> None:
    query("CREATE ROLE watchman")
    query("GRANT pg_read_all_stats TO watchman")
    (oid,) = query("SELECT 'book'::regclass::oid::bigint")[0]
    try:
        with Session("default", "async-migrations/1/1") as ours, Session("default", "async-migrations/1/side") as side:
            side.set("role", role)
            guard = Guard(lease, Mode.PROTECT, ours.backend, [oid])
            with queueing_behind(ours, application_name) as ended:
                queued = eventually(lambda: guard.look(side))
                assert queued[0]["query"] == ALTER
                guard.look(side)  # The second time it has been told.
            assert ended["sqlstate"] == sqlstate
        assert kinds(lifecycle.get(lease.pk)).count(kind) == 1
        refusal = lifecycle.get(lease.pk).events.get(kind=kind).detail.get("not_cancelled", "")
        assert bool(refusal) is (role == "watchman")
    finally:
        query("DROP OWNED BY watchman")
        query("DROP ROLE watchman")
