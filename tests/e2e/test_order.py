"""Whose turn it is, who queues behind a build, and what is done about that; with real workers."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import pytest
from django.db import connection

from async_migrations import lifecycle
from tests.conftest import eventually
from tests.db.conftest import book, index_is_valid, kinds, query  # noqa: F401 - a fixture
from tests.driving import OLD_SNAPSHOT, QUICK, ask, ended, held, row, scheduled
from tests.e2e.test_worker import BUILD, DROP, client  # noqa: F401 - a fixture

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("control", "book")]


class Application(threading.Thread):
    """A client of the application that runs one statement and remembers how it ended."""

    def __init__(self, sql: str) -> None:
        super().__init__(daemon=True)
        self.sql = sql
        self.sqlstate: str | None = "unfinished"
        self.start()

    def run(self) -> None:
        with psycopg2.connect(**connection.get_connection_params()) as other, other.cursor() as cursor:
            try:
                cursor.execute(self.sql)
                self.sqlstate = None
            except psycopg2.Error as exc:
                self.sqlstate = exc.pgcode
        other.close()


def waiting_in_its_last_phase(client: Any, pk: int) -> None:  # noqa: F811
    ask(client, pk)
    eventually(lambda: row(client, pk)["phase"] == "waiting for old snapshots")


def test_the_guard_cancels_ddl_that_queues_behind_a_build(client, start_worker) -> None:  # noqa: F811
    start_worker(**QUICK)
    pk = scheduled(BUILD, DROP, guard="protect")
    with held(*OLD_SNAPSHOT):
        waiting_in_its_last_phase(client, pk)
        careless = Application("ALTER TABLE book ADD COLUMN pages int")
        careless.join(30)
        assert careless.sqlstate == "57014"
    assert ended(client, pk)["status"] == "FINISHED"
    event = lifecycle.get(pk).events.get(kind="guard_cancel")
    assert "ADD COLUMN pages" in event.detail["query"]


def test_the_guard_reports_who_queues_unless_it_is_told_otherwise(client, start_worker) -> None:  # noqa: F811
    start_worker(**QUICK, ASYNC_MIGRATIONS_BACKOFF_SECONDS="0.1")
    pk = scheduled(BUILD, DROP)
    with held(*OLD_SNAPSHOT):
        waiting_in_its_last_phase(client, pk)
        careless = Application("ALTER TABLE book ADD COLUMN pages int")
        queued = eventually(lambda: row(client, pk)["queued_behind"])
        assert "ADD COLUMN pages" in queued[0]["query"]
        assert careless.is_alive()
    assert ended(client, pk)["status"] == "FINISHED"
    careless.join(30)
    assert "guard_report" in kinds(lifecycle.get(pk))


def test_a_careful_session_is_left_alone(client, start_worker) -> None:  # noqa: F811
    start_worker(**QUICK)
    pk = scheduled(BUILD, DROP, guard="protect")
    with held(*OLD_SNAPSHOT):
        waiting_in_its_last_phase(client, pk)
        careful = Application("SET lock_timeout = '100ms'; ALTER TABLE book ADD COLUMN pages int")
        careful.join(30)
        assert careful.sqlstate == "55P03"
    assert ended(client, pk)["status"] == "FINISHED"
    assert "guard_cancel" not in kinds(lifecycle.get(pk))


def test_the_highest_priority_goes_first_then_who_asked_first(client, start_worker) -> None:  # noqa: F811
    query("CREATE TABLE done (id serial, name text)")
    try:
        names = {"a": 0, "b": 5, "c": 0, "d": 9}
        pks = [
            scheduled(f"INSERT INTO done (name) VALUES ('{name}')", name=name, priority=priority)
            for name, priority in names.items()
        ]
        for pk in pks:
            ask(client, pk)
        start_worker(threads=4)
        for pk in pks:
            assert ended(client, pk)["status"] == "FINISHED"
        assert [name for (name,) in query("SELECT name FROM done ORDER BY id")] == ["d", "b", "a", "c"]
    finally:
        query("DROP TABLE done")


def test_what_waits_for_its_turn_says_so(client, start_worker) -> None:  # noqa: F811
    start_worker(**QUICK, threads=4)
    first, second = scheduled(BUILD, DROP), scheduled("SELECT 1", name="second")
    with held(*OLD_SNAPSHOT):
        waiting_in_its_last_phase(client, first)
        ask(client, second)
        waiting = eventually(lambda: (now := row(client, second))["phase"] and now)
        assert waiting["status"] == "STARTED"
        assert waiting["phase"].startswith("waits for its turn")
    assert ended(client, second)["status"] == "FINISHED"


def test_two_builds_on_one_table_wait_for_each_other_even_where_several_may_run(client, start_worker) -> None:  # noqa: F811
    start_worker(**QUICK, threads=4, ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE="4")
    first = scheduled(BUILD, DROP)
    second = scheduled("CREATE INDEX CONCURRENTLY book_n_idx ON book (n)", name="second")
    other = scheduled("SELECT 1", name="other")
    with held(*OLD_SNAPSHOT):
        waiting_in_its_last_phase(client, first)
        ask(client, second)
        waiting = eventually(lambda: (now := row(client, second))["phase"].startswith("waits for its turn") and now)
        assert (waiting["status"], waiting["attempt"]) == ("STARTED", 0)
        assert "book" in waiting["phase"]
        ask(client, other)
        assert ended(client, other)["status"] == "FINISHED"
    assert {ended(client, pk)["status"] for pk in (first, second)} == {"FINISHED"}
    assert index_is_valid("book_n_idx") is True
    assert "fail" not in kinds(lifecycle.get(second))


def test_a_failing_migration_does_not_block_the_ones_behind_it(client, start_worker) -> None:  # noqa: F811
    start_worker(ASYNC_MIGRATIONS_BACKOFF_SECONDS="60")
    query("CREATE TABLE done (id serial)")
    try:
        fails = scheduled("SELECT 1 / 0", name="fails")
        behind = scheduled("INSERT INTO done DEFAULT VALUES", name="behind")
        ask(client, fails)
        ask(client, behind)
        assert ended(client, behind)["status"] == "FINISHED"
        assert ended(client, fails)["status"] == "ERROR"
    finally:
        query("DROP TABLE done")
