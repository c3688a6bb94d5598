"""Sessions that a worker keeps from one attempt to the next: nothing of the one is met by the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from async_migrations.execution.pool import LONGEST_SECONDS, sessions
from async_migrations.models import AsyncMigrationStatus
from tests.conftest import eventually
from tests.db.conftest import IDLE, carried_out, query

pytestmark = pytest.mark.usefixtures("control")

Migration = Callable[..., AsyncMigrationStatus]

SEE = """
INSERT INTO seen
SELECT pg_backend_pid(), current_user, current_setting('work_mem'), current_setting('statement_timeout'),
       current_setting('application_name'), to_regclass('pg_temp.scratch') IS NULL,
       (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory')
"""


@pytest.fixture(autouse=True)
def keeping(nobody_rests: None) -> Iterator[None]:
    """Keep sessions as a worker does, and a table for what a statement sees of its own."""
    query(
        "CREATE TABLE seen (pid int, who text, work_mem text, statement_timeout text, name text, clean bool, locks int)"
    )
    sessions.keep()
    yield
    sessions.end()
    query("DROP TABLE seen")


def finished(row: AsyncMigrationStatus) -> None:
    done = carried_out(row)
    assert (done.status, done.attempt) == ("FINISHED", 1)


def seen() -> list[tuple[Any, ...]]:
    return query("SELECT pid, who, work_mem, statement_timeout, clean, locks FROM seen")


def test_the_next_attempt_has_the_session_and_nothing_that_the_one_before_left_in_it(migration: Migration) -> None:
    finished(migration(SEE, name="first"))
    query("CREATE ROLE somebody")
    try:
        finished(
            migration(
                "SET work_mem = '7MB'; SET statement_timeout = '1h'; SELECT pg_advisory_lock(4711);"
                "CREATE TEMPORARY TABLE scratch (n int); SET ROLE somebody",
                name="untidy",
                settings={"lock_timeout": "1h"},
            )
        )
        finished(migration(SEE, name="third"))
        before, after = seen()
        assert after == before
        assert len(query("SELECT DISTINCT name FROM seen")) == 2
    finally:
        query("DROP ROLE somebody")


def test_what_rests_holds_no_lock_and_has_a_name_that_is_nobodys(migration: Migration) -> None:
    finished(migration(SEE))
    ((pid,),) = query(IDLE)
    assert pid == seen()[0][0]
    assert query(f"SELECT count(*) FROM pg_locks WHERE pid = {pid} AND locktype = 'advisory'") == [(0,)]


def test_a_session_whose_server_process_is_gone_is_replaced_without_a_word(migration: Migration) -> None:
    finished(migration(SEE, name="first"))
    query(f"SELECT pg_terminate_backend(pid) FROM ({IDLE}) AS idle")
    eventually(lambda: not query(IDLE))
    finished(migration(SEE, name="second"))
    assert len({pid for pid, *_ in seen()}) == 2


def test_a_failure_leaves_no_session(migration: Migration) -> None:
    finished(migration(SEE, name="first"))
    assert carried_out(migration("SELECT 1 / 0", name="fails")).status == "ERROR"
    eventually(lambda: not query(IDLE))


def test_an_attempt_that_lost_its_lease_leaves_no_session(migration: Migration) -> None:
    carried_out(migration("UPDATE async_migrations_asyncmigrationstatus SET lease_token = gen_random_uuid()"))
    eventually(lambda: not query(IDLE))


def test_a_session_is_closed_a_minute_after_it_was_opened(migration: Migration) -> None:
    finished(migration(SEE, name="first"))
    sessions.close_old()
    assert len(query(IDLE)) == 1
    for session in sessions._kept:
        session.opened_at -= LONGEST_SECONDS
    sessions.close_old()
    eventually(lambda: not query(IDLE))


def test_an_old_session_is_not_used_again(migration: Migration) -> None:
    finished(migration(SEE, name="first"))
    for session in sessions._kept:
        session.opened_at -= LONGEST_SECONDS
    finished(migration(SEE, name="second"))
    assert len({pid for pid, *_ in seen()}) == 2


def test_a_session_to_where_the_alias_led_before_is_not_used(migration: Migration, monkeypatch: Any) -> None:
    finished(migration(SEE, name="first"))
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"connect_timeout": 4})
    finished(migration(SEE, name="second"))
    assert len({pid for pid, *_ in seen()}) == 2


def test_no_more_are_kept_than_can_be_used_at_once() -> None:
    borrowed = [sessions.borrow("default", f"test/{number}") for number in range(3)]
    for session in borrowed:
        assert sessions.clear(session)
        sessions.give_back(session)
    eventually(lambda: len(query(IDLE)) == 1)


def test_a_process_that_is_no_worker_or_is_about_to_end_keeps_none(migration: Migration) -> None:
    finished(migration(SEE, name="first"))
    sessions.end()
    eventually(lambda: not query(IDLE))
    finished(migration(SEE, name="second"))
    eventually(lambda: not query(IDLE))
