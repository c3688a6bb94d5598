"""Reasons to wait: each signal of a real server, functions of the project, and what a role may not see."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from api.embedded import start_embedded
from async_migrations.errors import ExecutionError, InvalidDefinition
from async_migrations.execution import throttle as module
from async_migrations.execution.session import Session
from async_migrations.execution.throttle import Throttle, Throttling
from async_migrations.limits import THRESHOLDS
from tests.conftest import eventually
from tests.db.conftest import query
from tests.standby import asked

pytestmark = pytest.mark.usefixtures("book")

OFF: dict[str, Any] = dict.fromkeys(THRESHOLDS)


@contextmanager
def throttle(overrides: Any, relation: str = "book", *, alias: str = "default") -> Iterator[Throttle]:
    """A throttle with a session of its own, as an attempt has it."""
    with Session(alias, "async-migrations/1/attempt") as session:
        yield Throttle(session, relation, overrides)


def only(signal: str, limit: float) -> dict[str, Any]:
    return {**OFF, signal: limit}


@pytest.fixture
def application() -> Iterator[Callable[..., None]]:
    """Sessions at work: `application(sql, application_name)` runs it in the background, until the end of the test."""
    with ExitStack() as stack:

        def start(sql: str, name: str = "shop") -> None:
            session = stack.enter_context(Session("default", name))
            thread = threading.Thread(target=_carry_out, args=(session, sql))
            stack.callback(thread.join)
            thread.start()
            stack.callback(query, f"SELECT pg_cancel_backend({session.backend.pid})")

        yield start


def _carry_out(session: Session, sql: str) -> None:
    with suppress(ExecutionError):
        session.execute(sql)


@pytest.fixture
def locked() -> Iterator[Session]:
    """A session of the application with a transaction open that has changed the first book."""
    with Session("default", "shop") as session:
        session.execute("BEGIN")
        session.execute("UPDATE book SET n = 1 WHERE id = 1")
        yield session


def test_a_healthy_server_is_no_reason_to_wait():
    with throttle(True) as healthy:
        assert healthy.look() is None
        assert healthy.unavailable == ()


# --- locks ---


def test_sessions_that_queue_for_a_row_are_a_reason_until_they_have_it(locked, application):
    with throttle(only("lock_waiters", 2)) as watching:
        for _ in range(2):
            application("UPDATE book SET n = 2 WHERE id = 1")
        eventually(lambda: waiting() == 2)
        assert watching.look() is None
        application("SELECT FROM book WHERE id = 1 FOR UPDATE")
        assert eventually(watching.look) == Throttling("lock_waiters", 3, 2)
        locked.execute("ROLLBACK")
        eventually(lambda: watching.look() is None)


@pytest.mark.parametrize("sql", ["CREATE INDEX ON book (n)", "ALTER TABLE book ADD COLUMN more int"])
def test_a_session_that_queues_for_the_table_is_a_reason(locked, application, sql):
    with throttle(only("lock_waiters", 0)) as watching:
        application(sql)
        assert eventually(watching.look) == Throttling("lock_waiters", 1, 0)


def test_who_queues_for_a_row_of_a_partition_queues_for_the_table(control, application):
    query("CREATE TABLE part (id int, n int) PARTITION BY RANGE (id)")
    query("CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10)")
    query("INSERT INTO part VALUES (1, 0)")
    try:
        with Session("default", "shop") as holder, throttle(only("lock_waiters", 0), "part") as watching:
            with holder.transaction():
                holder.execute("UPDATE part SET n = 1")
                application("UPDATE part_1 SET n = 2")
                assert eventually(watching.look) == Throttling("lock_waiters", 1, 0)
            # Not even a lock on a partition that lets nobody in makes the look itself wait.
            with holder.transaction():
                holder.execute("LOCK TABLE part_1 IN ACCESS EXCLUSIVE MODE")
                watching.session.set("lock_timeout", "1ms")
                assert watching.look() is None
    finally:
        query("DROP TABLE part")


def test_who_queues_elsewhere_is_no_reason(control, locked, application):
    query("CREATE TABLE IF NOT EXISTS other (id int, n int)")
    try:
        with throttle(only("lock_waiters", 0), "other") as elsewhere, throttle(only("lock_waiters", 0)) as watching:
            application("UPDATE book SET n = 2 WHERE id = 1")
            eventually(watching.look)
            assert elsewhere.look() is None
    finally:
        query("DROP TABLE other")


def test_our_own_sessions_are_no_reason(locked, application):
    with throttle({**OFF, "lock_waiters": 0, "active_sessions": 0}) as watching:
        application("UPDATE book SET n = 2 WHERE id = 1", "async-migrations/2/attempt")
        eventually(lambda: waiting() == 1)
        assert watching.look() is None


def waiting() -> int:
    """Return how many sessions have waited for so long that they count."""
    found = query(
        "SELECT count(*) FROM pg_locks WHERE NOT granted "
        f"AND waitstart < clock_timestamp() - make_interval(secs => {module.PATIENCE_SECONDS})"
    )
    return int(found[0][0])


# --- load ---


def test_more_active_sessions_than_allowed_are_a_reason(application):
    with throttle(only("active_sessions", 1)) as watching:
        application("SELECT pg_sleep(600)")
        assert watching.look() is None
        application("SELECT pg_sleep(600)")
        assert eventually(watching.look) == Throttling("active_sessions", 2, 1)


def test_without_a_number_the_server_says_how_many_sessions_are_too_many():
    with throttle(True) as watching:
        assert watching.limits["active_sessions"] == 2 * int(query("SHOW max_parallel_workers")[0][0])


# --- an archive that stands still, a vacuum that cannot be put off, a role that may see little ---


@pytest.fixture(scope="module")
def busy_server() -> Iterator[str]:
    """A server whose archiver fails, and whose autovacuum is slow and soon afraid of wraparound; its URL."""
    settings = {
        "archive_mode": "on",
        "archive_command": "false",
        "autovacuum_naptime": "1s",
        "autovacuum_vacuum_cost_delay": "100ms",
        "autovacuum_vacuum_cost_limit": "1",
        "synchronous_commit": "off",
        "fsync": "off",
    }
    with (
        tempfile.TemporaryDirectory(prefix="async-migrations-busy-") as folder,
        start_embedded(Path(folder), postgres=True, redis=False, settings=settings) as embedded,
    ):
        assert embedded.database_url
        # Not vacuumed but for the reason that a test gives: that vacuum would be too slow to end.
        stored = "WITH (autovacuum_enabled = false, autovacuum_freeze_max_age = 100000)"
        rows = "SELECT g AS id FROM generate_series(1, 100000) AS g"
        asked(embedded.database_url, f"CREATE TABLE book {stored} AS {rows}")
        asked(embedded.database_url, "CREATE ROLE clerk LOGIN")
        yield embedded.database_url


@pytest.fixture
def busy(busy_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make an alias of the busy server: `busy("clerk")`, for that role."""

    def make(user: str = "postgres") -> str:
        host = parse_qs(urlsplit(busy_server).query)["host"][0]
        alias = {**connections.databases["default"], "NAME": "postgres", "HOST": host, "PORT": "", "USER": user}
        monkeypatch.setitem(connections.databases, f"busy-{user}", alias)
        return f"busy-{user}"

    return make


def test_files_that_the_archiver_does_not_get_rid_of_are_a_reason(busy, busy_server, monkeypatch):
    monkeypatch.setattr(module, "ARCHIVE_SECONDS", 0)
    with throttle(only("wal_archive_queue", 2), alias=busy()) as watching:
        for _ in range(4):
            asked(busy_server, "SELECT txid_current(), pg_switch_wal()")
        found = eventually(watching.look)
    assert found in [Throttling("wal_archive_queue", queued, 2) for queued in (3, 4)]


def test_where_nothing_is_archived_there_is_no_queue():
    with throttle(True) as watching:
        assert "wal_archive_queue" not in watching.limits


def test_a_vacuum_of_the_table_against_wraparound_is_a_reason(busy, busy_server):
    with throttle(only("wraparound_vacuum", 0), alias=busy()) as watching:
        assert watching.look() is None
        asked(busy_server, "DO $$ BEGIN FOR i IN 1..100001 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$")
        assert eventually(watching.look) == Throttling("wraparound_vacuum", 1, 0)
        with throttle(only("wraparound_vacuum", 0), "pg_class", alias=busy()) as elsewhere:
            assert elsewhere.look() is None


def test_what_a_role_may_not_look_at_is_named_and_does_no_harm(busy, busy_server):
    asked(busy_server, "REVOKE pg_monitor FROM clerk")
    with Session(busy(), "shop"), throttle(True, alias=busy("clerk")) as blind:
        assert blind.unavailable == (
            "replica_lag_seconds",
            "active_sessions",
            "wal_archive_queue",
            "wraparound_vacuum",
        )
        assert blind.look() is None


def test_a_monitor_may_look_at_all_of_it(busy, busy_server):
    asked(busy_server, "GRANT pg_monitor TO clerk")
    with Session(busy(), "shop"), throttle(True, alias=busy("clerk")) as watching:
        assert watching.unavailable == ()
        watching.look()


# --- functions of the project ---


def healthy(alias: str) -> None:
    assert alias == "second"


def sale(alias: str) -> str:
    return f"a sale is on, {alias}"


def broken(alias: str) -> str:
    raise ConnectionError("nobody answers")


def test_a_function_of_the_project_says_why_to_wait(settings):
    settings.ASYNC_MIGRATIONS_THROTTLE_CALLABLES = [f"{__name__}.healthy", f"{__name__}.sale"]
    with throttle(OFF, alias="second") as watching:
        assert watching.look() == Throttling("a sale is on, second", f"{__name__}.sale", None)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (f"{__name__}.broken", "callable failed: ConnectionError: nobody answers"),
        (f"{__name__}.missing", "callable failed: ImportError"),
    ],
)
def test_a_function_that_does_not_work_is_a_reason_too(settings, path, why):
    settings.ASYNC_MIGRATIONS_THROTTLE_CALLABLES = path
    with throttle(True) as watching:
        reason = watching.look()
    assert reason.reason.startswith(why)
    assert (reason.value, reason.limit) == (path, None)


def test_off_means_that_nothing_is_looked_at(settings, locked, application):
    settings.ASYNC_MIGRATIONS_THROTTLE_CALLABLES = [f"{__name__}.broken"]
    with throttle(False) as off, throttle({**OFF, "active_sessions": 0}) as watching:
        application("UPDATE book SET n = 2 WHERE id = 1")
        eventually(lambda: watching.look().reason == "active_sessions")
        assert off.look() is None


# --- the foreground ---


def test_who_writes_makes_it_go_gently_and_not_wait():
    with throttle(only("foreground_writes", 20)) as watching, Session("default", "shop") as shop:
        assert watching.look() is None
        assert watching.foreground(0) is None
        for _ in range(100):
            shop.execute("UPDATE book SET n = n WHERE id = 1")
        assert watching.look() is None
        assert watching.foreground(0) == pytest.approx(100, abs=20)  # Over a second at least, however soon it asks.


def test_what_we_write_ourselves_is_no_foreground():
    with throttle(only("foreground_writes", 20)) as watching:
        watching.look()
        watching.foreground(0)
        for _ in range(100):
            watching.session.execute("UPDATE book SET n = n WHERE id = 1")
        watching.look()
        assert watching.foreground(100) is None


@pytest.mark.parametrize("overrides", [False, OFF])
def test_with_the_signal_off_there_is_no_foreground(overrides):
    with throttle(overrides) as watching, Session("default", "shop") as shop:
        watching.look()
        watching.foreground(0)
        for _ in range(100):
            shop.execute("UPDATE book SET n = n WHERE id = 1")
        watching.look()
        assert watching.foreground(0) is None


# --- limits ---


def test_a_migration_changes_one_limit_and_keeps_the_others(settings):
    settings.ASYNC_MIGRATIONS_THROTTLE_LOCK_WAITERS = "7"
    settings.ASYNC_MIGRATIONS_THROTTLE_WRAPAROUND_VACUUM = "off"
    assert module.limits({"replica_lag_seconds": 3, "active_sessions": None}) == {
        "replica_lag_seconds": 3,
        "lock_waiters": 7,
        "wal_archive_queue": 50,
        "foreground_writes": 20,
    }


@pytest.mark.parametrize("overrides", [{"replica_lag": 3}, {"lock_waiters": -1}, {"lock_waiters": False}, "on"])
def test_limits_that_make_no_sense_are_refused(overrides):
    with pytest.raises(InvalidDefinition):
        module.limits(overrides)


@pytest.mark.parametrize("limit", [True, "never", -1])
def test_a_setting_that_makes_no_sense_is_refused(settings, limit):
    settings.ASYNC_MIGRATIONS_THROTTLE_LOCK_WAITERS = limit
    with pytest.raises(ImproperlyConfigured):
        module.limits(True)


def test_an_error_of_the_server_is_told_as_everywhere():
    with throttle(True) as watching:
        query(f"SELECT pg_terminate_backend({watching.session.backend.pid})")
        with pytest.raises(ExecutionError) as caught:
            watching.look()
    assert caught.value.code == "connection_lost"
