"""Backfills: how one is written, and how it is carried out, in this process."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from django.db import connection, connections
from django.utils import timezone
from prometheus_client import REGISTRY

from async_migrations import asking, lifecycle, tasks
from async_migrations.errors import InvalidDefinition, PreflightFailed, TransitionRefused
from async_migrations.execution.attempt import table_key
from async_migrations.execution.keyset import keyset
from async_migrations.execution.session import Session
from async_migrations.lifecycle import Origin
from async_migrations.migration_helpers import make_backfill_migration
from async_migrations.models import AsyncMigrationBadRow, AsyncMigrationLane, AsyncMigrationStatus
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import Backfill, Project, carried_out, kinds, query

FILL = {"table": "book", "update": "n = octet_length(title)", "where": "n = 0"}
COUNT = {"table": "book", "update": "n = n + 1"}


@pytest.fixture(autouse=True)
def _at_once(settings: Any) -> None:
    settings.ASYNC_MIGRATIONS_DUTY_CYCLE = 1
    settings.ALLOW_SCHEDULED_MIGRATIONS = True


@contextmanager
def locked(sql: str) -> Iterator[psycopg2.extensions.cursor]:
    """A transaction of somebody else that holds what its statement took, until the block ends."""
    other = psycopg2.connect(**connection.get_connection_params())
    try:
        with other.cursor() as cursor:
            cursor.execute(sql)
            yield cursor
    finally:
        other.close()


def error_of(row: AsyncMigrationStatus) -> dict[str, Any]:
    found: dict[str, Any] = row.meta.get("error", {})
    return found


def test_it_works(backfill: Backfill) -> None:
    row = backfill(**FILL)
    assert (row.kind, row.status) == ("backfill", Status.SCHEDULED)
    row = carried_out(row)
    assert (row.status, error_of(row)) == (Status.FINISHED, {})
    assert query("SELECT count(*) FROM book WHERE n <> octet_length(title)") == [(0,)]
    assert (row.progress_done, row.progress_total, row.percent) == (500, 500, 100.0)
    assert kinds(row) == ["schedule", "run", "claim", "succeed"]


# --- what is refused, and when ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"update": "n = 1"}, "takes one of table, model; here is none"),
        ({**FILL, "model": "books.Book"}, "here are table and model"),
        ({"table": "book"}, "takes one of update, sql, process; here is none"),
        ({"table": "book", "sql": "UPDATE book SET n = 1"}, "no {batch}"),
        ({"table": "book", "sql": "UPDATE book SET n = 1 WHERE {batch}; SELECT 1"}, "one statement; here are 2"),
        ({"table": "book", "sql": "TRUNCATE book -- {batch}"}, "changes rows"),
        ({**FILL, "lanes": 0}, "lanes is 0"),
        ({**FILL, "batch_size": 0}, "batch_size"),
        ({**FILL, "duty_cycle": 2}, "duty_cycle"),
        ({**FILL, "throttle": {"weather": 1}}, "throttle.weather"),
        ({**FILL, "on_bad_row": "ignore"}, "on_bad_row is 'ignore'"),
        ({**FILL, "verify": "never"}, "verify is 'never'"),
        ({**FILL, "rollback": "maybe"}, "rollback is 'maybe'"),
        ({**FILL, "window": "at night"}, "at night"),
        ({**FILL, "migration_name": ""}, "migration_name"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_file_is_loaded(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        make_backfill_migration(**{"migration_name": "books.x", **options})
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "book", "update": "nn = 1"}, 'column "nn"'),
        ({**FILL, "where": "m = 0"}, 'column "m" does not exist'),
        ({**FILL, "key": "title"}, "no unique B-tree index on (title)"),
        ({**FILL, "update": "n = = 1"}, "syntax error"),
        ({"model": "bookshop.Nothing", "update": "n = 1"}, "no model 'bookshop.Nothing'"),
        ({"table": "book", "update": "n = 1, ID = id + 1"}, 'sets "id", by which the rows of'),
        ({**COUNT, "rollback_update": "id = -id"}, 'sets "id"'),
    ],
)
def test_what_the_table_does_not_have_is_refused_when_it_is_scheduled(
    backfill: Backfill, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        backfill(**options)
    assert words in str(refused.value)
    assert not lifecycle.rows().exists()


@pytest.mark.parametrize(
    ("create", "code", "words"),
    [
        ("SELECT 1", "undefined_table", "no table late"),
        ("CREATE TABLE late (n int)", "no_key", "no primary key"),
        ("CREATE TABLE late (id int PRIMARY KEY)", "invalid_statement", 'column "n"'),
    ],
)
def test_a_table_that_comes_later_is_looked_at_when_the_work_begins(
    backfill: Backfill, create: str, code: str, words: str
) -> None:
    row = backfill(table="late", update="n = 1")
    query(create)
    query("INSERT INTO late VALUES (1)") if "late" in create else None
    try:
        error = error_of(carried_out(row))
    finally:
        query("DROP TABLE IF EXISTS late")
    assert error["code"] == code
    assert words in error["message"]
    assert error["hint"]


def test_a_table_that_was_dropped_meanwhile_is_a_clear_error(backfill: Backfill) -> None:
    row = backfill(**FILL)
    query("DROP TABLE book")
    row = carried_out(row)
    assert (row.status, error_of(row)["code"]) == (Status.ERROR, "undefined_table")


def test_so_is_one_that_is_dropped_in_the_middle(backfill: Backfill) -> None:
    row = backfill(**COUNT, batch_size=10, batch_delay_seconds=0.05)
    lifecycle.run(row.pk, Origin("test"))
    worker = threading.Thread(target=_carry_out, args=[row.pk])
    worker.start()
    eventually(lambda: query("SELECT count(*) FROM book WHERE n = 1")[0][0] > 20)
    query("DROP TABLE book")
    worker.join(30)
    row = lifecycle.get(row.pk)
    assert (row.status, error_of(row)["code"]) == (Status.ERROR, "undefined_table")
    assert error_of(row)["hint"]


def test_rows_are_moved_along_the_key_only_where_a_condition_tells_which_are_done(backfill: Backfill) -> None:
    update = "n = n + 1, id = id + 75"
    query("UPDATE book SET id = id * -50")
    row = carried_out(backfill(table="book", update=update, where="n = 0", batch_size=20))
    assert (row.status, error_of(row), row.progress_done) == (Status.FINISHED, {}, 500)
    assert query("SELECT n, count(*) FROM book WHERE id % 50 <> 0 GROUP BY n") == [(1, 500)]
    # A table that comes later is looked at before it is put in line, and when the work begins.
    row = backfill("0002_later", table="late", update=update)
    query("CREATE TABLE late (id int PRIMARY KEY, n int)")
    try:
        with pytest.raises(PreflightFailed, match="is changed twice"):
            asking.ask("run", row.pk, Origin("test"))
        assert error_of(carried_out(row))["code"] == "invalid_definition"
    finally:
        query("DROP TABLE late")


# --- walking ---


@pytest.mark.parametrize(
    ("columns", "values", "key"),
    [
        ("k int PRIMARY KEY", "g * 7 - 300", None),
        ("k smallint PRIMARY KEY", "g * 16 - 8000", None),
        ("k bigint PRIMARY KEY", "(1790000000000 + g) << 22", None),
        ("k uuid PRIMARY KEY", "gen_random_uuid()", None),
        ("k text PRIMARY KEY", "md5(g::text) || E'''\\\\%'", None),
        ('k text COLLATE "C" PRIMARY KEY', "chr(64 + g % 60) || g", None),
        ("k timestamptz PRIMARY KEY", "timestamptz '2026-03-29 01:00+01' + g * interval '1.000001 s'", None),
        ("k numeric PRIMARY KEY", "g / 7.0", None),
        ("a int, b text, PRIMARY KEY (a, b)", "g / 10, 'x' || g", None),
        ('"A" int NOT NULL, b date NOT NULL, UNIQUE ("A", b)', "g % 9, date '2026-01-01' + g", ["A", "b"]),
    ],
)
@pytest.mark.parametrize("lanes", [1, 3])
def test_every_row_is_changed_exactly_once_whatever_its_key(
    backfill: Backfill, columns: str, values: str, key: list[str] | None, lanes: int
) -> None:
    query("DROP TABLE IF EXISTS odd")
    query(f"CREATE TABLE odd ({columns})")
    query("ALTER TABLE odd ADD n int NOT NULL DEFAULT 0")
    query(f"INSERT INTO odd SELECT {values}, 0 FROM generate_series(1, 997) AS g")
    query("ANALYZE odd")
    try:
        row = carried_out(backfill(table="odd", update="n = n + 1", key=key or (), batch_size=50, lanes=lanes))
        assert (row.status, error_of(row)) == (Status.FINISHED, {})
        assert query("SELECT n, count(*) FROM odd GROUP BY n") == [(1, 997)]
        assert row.progress_done == 997
        assert AsyncMigrationLane.objects.count() == lanes
        assert sum(AsyncMigrationLane.objects.values_list("rows_done", flat=True)) == 997
        assert min(AsyncMigrationLane.objects.values_list("batches", flat=True)) > 3
    finally:
        query("DROP TABLE odd")


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("lanes", [1, 4])
def test_an_empty_table_and_one_of_a_single_row_are_done_at_once(backfill: Backfill, rows: int, lanes: int) -> None:
    query(f"DELETE FROM book WHERE id > {rows}")
    row = carried_out(backfill(**FILL, lanes=lanes))
    assert (row.status, row.progress_done) == (Status.FINISHED, rows)
    assert query("SELECT count(*) FROM book WHERE n > 0") == [(rows,)]


@pytest.mark.parametrize("key", ["g", "g * 4", "g * 16", "(1790000000000 + g) << 22", "g - 5000"])
def test_batches_keep_their_size_whatever_the_bits_of_the_keys(backfill: Backfill, key: str) -> None:
    query("DROP TABLE IF EXISTS odd")
    query("CREATE TABLE odd (k bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
    query(f"INSERT INTO odd SELECT {key}, 0 FROM generate_series(1, 8000) AS g")
    try:
        row = carried_out(backfill(table="odd", update="n = pg_current_xact_id()::text::bigint", batch_size=100))
        assert (row.status, error_of(row)) == (Status.FINISHED, {})
        sizes = [count for (count,) in query("SELECT count(*) FROM odd GROUP BY n")]
        assert (sum(sizes), len(sizes)) == (8000, 80)
        assert max(sizes) <= 110
    finally:
        query("DROP TABLE odd")


def test_a_partitioned_table_is_walked_as_one(backfill: Backfill) -> None:
    query("CREATE TABLE part (id int, n int NOT NULL DEFAULT 0, PRIMARY KEY (id)) PARTITION BY RANGE (id)")
    query("CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (400)")
    query("CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (400) TO (2000)")
    query("INSERT INTO part SELECT g FROM generate_series(1, 1000) AS g")
    try:
        row = carried_out(backfill(table="part", update="n = n + 1", batch_size=64, lanes=2))
        assert (row.status, error_of(row)) == (Status.FINISHED, {})
        assert query("SELECT n, count(*) FROM part GROUP BY n") == [(1, 1000)]
    finally:
        query("DROP TABLE part")


def test_a_table_without_statistics_is_cut_by_a_sample_all_the_same(backfill: Backfill) -> None:
    query("CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    query("CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (400000)")
    query("INSERT INTO part SELECT g FROM generate_series(1, 300000) AS g")
    try:
        with Session("default", "cuts") as session:
            seen = Counted(session)
            assert len(keyset(seen, "part").cuts(4)) == 3
            assert 0 < seen.most < 60_000
    finally:
        query("DROP TABLE part")


class Counted:
    """A session that keeps how many rows it answered with at most."""

    def __init__(self, session: Session) -> None:
        self._session, self.most = session, 0
        self.all, self.literal = session.all, session.literal

    def select(self, sql: str) -> list[dict[str, Any]]:
        found = self._session.select(sql)
        self.most = max(self.most, len(found))
        return found


def test_a_condition_that_an_index_knows_is_sought_and_not_walked_to(backfill: Backfill) -> None:
    query("INSERT INTO book (title, n) SELECT 'x', 1 FROM generate_series(1, 60000)")
    query("UPDATE book SET n = 1 WHERE id <= 500")
    query("UPDATE book SET n = 0 WHERE id > 60400")
    query("CREATE INDEX book_todo ON book (id) WHERE n = 0")
    query("VACUUM ANALYZE book")
    row = carried_out(backfill(**FILL, batch_size=1000))
    assert (row.status, row.progress_done) == (Status.FINISHED, 100)
    # A stretch of four times a hundred rows has none; a few batches later an index is worth it, and leads to them.
    assert AsyncMigrationLane.objects.get().batches < 10


def test_statements_of_any_form_are_carried_out_for_each_batch(backfill: Backfill) -> None:
    query("DROP TABLE IF EXISTS copied")
    query("CREATE TABLE copied (id bigint, title text)")
    insert = "INSERT INTO copied SELECT b.id, b.title || '{x}%' FROM book AS b WHERE {batch:b}"
    join = (
        "WITH lengths AS (SELECT id, octet_length(title) AS n FROM copied) "
        "UPDATE book SET n = lengths.n FROM lengths WHERE lengths.id = book.id AND {batch}"
    )
    try:
        for number, sql in enumerate((insert, join, "DELETE FROM book AS b WHERE b.id % 2 = 0 AND {batch:b}"), 1):
            row = carried_out(backfill(f"000{number}_any", table="book", sql=sql, batch_size=37))
            assert (row.status, error_of(row)) == (Status.FINISHED, {})
        assert query("SELECT count(*), count(DISTINCT id) FROM copied WHERE title LIKE '% %{x}\\%'") == [(500, 500)]
        assert query("SELECT count(*), count(*) FILTER (WHERE n = octet_length(title) + 4) FROM book") == [(250, 250)]
    finally:
        query("DROP TABLE copied")


@pytest.mark.parametrize("count", ["exact", "estimate"])
def test_the_total_is_estimated_or_counted(backfill: Backfill, settings: Any, count: str) -> None:
    query("ALTER TABLE book SET (autovacuum_enabled = off)")
    query("ANALYZE book")
    query("UPDATE book SET n = 1 WHERE id <= 100")  # Of which the statistics know nothing.
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.05
    row = backfill(**FILL, count=count, batch_size=10, batch_delay_seconds=0.05)
    lifecycle.run(row.pk, Origin("test"))
    worker = threading.Thread(target=_carry_out, args=[row.pk])
    worker.start()
    seen = eventually(lambda: lifecycle.rows().exclude(progress_total=None).filter(pk=row.pk).first())
    worker.join(30)
    assert (seen.progress_unit, seen.progress_total == 400) == ("rows", count == "exact")
    assert lifecycle.get(row.pk).progress_total == 400


def test_the_end_says_what_was_counted_whatever_was_estimated(backfill: Backfill, settings: Any) -> None:
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.001
    query("ALTER TABLE book SET (autovacuum_enabled = off)")
    query("INSERT INTO book (title) SELECT 'x' FROM generate_series(1, 5000)")
    query("ANALYZE book")
    query("DELETE FROM book WHERE id > 600")
    row = carried_out(backfill(**FILL))
    assert (row.progress_done, row.progress_total) == (600, 600)


# --- the end ---


FILL_BY_STATEMENT = {
    "table": "book",
    "sql": "UPDATE book AS b SET n = octet_length(title) WHERE b.n = 0 AND {batch:b}",
    "where": "n = 0",
}


@pytest.mark.parametrize("fill", [FILL, FILL_BY_STATEMENT], ids=["update", "sql"])
def test_rows_that_are_written_meanwhile_are_taken_along(backfill: Backfill, fill: dict[str, str]) -> None:
    query(
        "CREATE OR REPLACE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.id = 450 THEN UPDATE book SET n = 0 WHERE id = 3; END IF; RETURN NULL; END $$"
    )
    query("CREATE TRIGGER again AFTER UPDATE ON book FOR EACH ROW EXECUTE FUNCTION again()")
    row = carried_out(backfill(**fill, batch_size=100))
    assert (row.status, error_of(row)) == (Status.FINISHED, {})
    assert query("SELECT count(*) FROM book WHERE n = 0") == [(0,)]
    assert row.progress_done == 501
    assert "rows_taken_along" in kinds(row)


def test_rows_that_are_written_meanwhile_are_reported_where_that_is_asked_for(backfill: Backfill) -> None:
    query(
        "CREATE OR REPLACE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.id = 450 THEN UPDATE book SET n = 0 WHERE id = 3; END IF; RETURN NULL; END $$"
    )
    query("CREATE TRIGGER again AFTER UPDATE ON book FOR EACH ROW EXECUTE FUNCTION again()")
    row = carried_out(backfill(**FILL, batch_size=100, verify="report"))
    assert row.status == Status.FINISHED
    assert row.events.get(kind="rows_left").detail == {"rows": 1, "sample": ["3"]}


def test_rows_behind_the_last_one_of_the_start_are_the_applications(backfill: Backfill) -> None:
    query(
        "CREATE OR REPLACE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO book (title, n) VALUES ('new', 0); RETURN NULL; END $$"
    )
    query("CREATE TRIGGER more AFTER UPDATE ON book FOR EACH STATEMENT EXECUTE FUNCTION more()")
    row = carried_out(backfill(**FILL, batch_size=100))
    assert (row.status, row.progress_done) == (Status.FINISHED, 500)
    assert query("SELECT count(*) FROM book WHERE n = 0 AND title = 'new'")[0][0] > 1


def test_a_condition_that_stays_true_is_refused_before_anything_is_changed(backfill: Backfill) -> None:
    row = carried_out(backfill(table="book", update="n = n + 1", where="title LIKE 'title%'"))
    assert (row.status, error_of(row)["code"]) == (Status.ERROR, "where_stays_true")
    assert query("SELECT max(n) FROM book") == [(0,)]
    row = carried_out(backfill("0002_off", table="book", update="n = n + 1", where="id % 2 = 0", verify="off"))
    assert (row.status, row.progress_done) == (Status.FINISHED, 250)
    assert query("SELECT n, count(*) FROM book GROUP BY n ORDER BY n") == [(0, 250), (1, 250)]


def test_so_is_one_that_a_statement_leaves_true_whatever_it_changes(backfill: Backfill) -> None:
    for number, (sql, where) in enumerate(
        [
            # It changes more rows than those that are meant, or others,
            ("UPDATE book SET n = n + 1 WHERE {batch}", "id % 2 = 0"),
            ("INSERT INTO book (title) SELECT title FROM book AS b, generate_series(1, 3) WHERE {batch:b}", "n = 0"),
            # or only half of them.
            ("UPDATE book SET n = 1 WHERE id % 2 = 0 AND {batch}", "n = 0"),
        ]
    ):
        row = carried_out(backfill(f"000{number}_any", table="book", sql=sql, where=where))
        assert (row.status, error_of(row)["code"]) == (Status.ERROR, "where_stays_true")
        assert query("SELECT max(n), count(*) FROM book") == [(0, 500)]


def test_a_statement_that_begins_with_rows_that_are_not_meant_goes_on_to_those_that_are(backfill: Backfill) -> None:
    wider = {"table": "book", "sql": "UPDATE book SET n = id WHERE {batch}", "where": "n = 0 AND id > 300"}
    row = carried_out(backfill(**wider, batch_size=100))
    assert (row.status, error_of(row)) == (Status.FINISHED, {})
    assert query("SELECT count(*) FROM book WHERE n = id") == [(500,)]


def test_the_table_is_analyzed_where_that_is_asked_for(backfill: Backfill) -> None:
    query("ALTER TABLE book SET (autovacuum_enabled = off)")
    assert carried_out(backfill(**FILL, analyze=True)).status == Status.FINISHED
    eventually(lambda: query("SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'book'") == [(1,)])


def test_the_table_is_not_analyzed_while_another_migration_builds_on_it(backfill: Backfill, settings: Any) -> None:
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.05
    row = backfill(**FILL, analyze=True)
    (oid,) = query("SELECT 'book'::regclass::oid::bigint")[0]
    with Session("default", "async-migrations/0/1") as other:
        assert other.one("try_advisory_lock", key=table_key(oid))["locked"]
        worker = threading.Thread(target=_carry_out, args=[row.pk])
        lifecycle.run(row.pk, Origin("test"))
        worker.start()
        eventually(lambda: "waits for its turn to analyze" in lifecycle.get(row.pk).phase)
        assert query("SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'book'") == [(0,)]
    worker.join(30)
    assert lifecycle.get(row.pk).status == Status.FINISHED
    eventually(lambda: query("SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'book'") == [(1,)])


# --- rows that cannot be changed ---


POISON = {"table": "book", "update": "n = 100 / (id % 100 - 50)::int", "verify": "off"}


def test_a_bad_row_ends_in_an_error_that_names_it(backfill: Backfill) -> None:
    row = backfill(**POISON)
    bad = {"50", "150", "250", "350", "450"}
    while bad:
        row = carried_out(row)
        error = error_of(row)
        assert (row.status, error["code"], error["sqlstate"]) == (Status.ERROR, "bad_row", "22012")
        assert f"id = {error['key'][0]}" in error["message"]
        assert "division by zero" in error["message"]
        bad.remove(error["key"][0])
        query(f"DELETE FROM book WHERE id = {error['key'][0]}")
    row = carried_out(row)
    assert (row.status, row.progress_done) == (Status.FINISHED, 495)
    assert query("SELECT count(*) FROM book WHERE n <> 0") == [(495,)]


def test_bad_rows_are_set_aside_and_tried_again_alone(backfill: Backfill) -> None:
    row = carried_out(backfill(**POISON, on_bad_row="quarantine", batch_size=64))
    assert (row.status, error_of(row)["code"], row.quarantined) == (Status.ERROR, "bad_rows", 5)
    assert list(AsyncMigrationBadRow.objects.values_list("key", flat=True)) == [[f"{i}50"] for i in ("", 1, 2, 3, 4)]
    assert {bad.error["sqlstate"] for bad in AsyncMigrationBadRow.objects.all()} == {"22012"}
    assert row.progress_done == 495
    query("UPDATE book SET n = 7 WHERE id % 100 <> 50")  # Were they done again, it would show.
    query("UPDATE book SET id = id + 1000 WHERE id IN (50, 150)")
    row = carried_out(row)
    assert (error_of(row)["code"], row.quarantined) == ("bad_rows", 3)
    assert query("SELECT count(*) FROM book WHERE n = 7") == [(495,)]


def test_it_finishes_with_as_many_bad_rows_as_are_allowed_and_run_tries_them_again(backfill: Backfill) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("async_migrations_rows_done_total", {"database": "default"}) or 0

    before = counted()
    query("UPDATE book SET title = 'short' WHERE id <= 5")
    poison = {"table": "book", "update": "n = 100 / (length(title) - 5)", "verify": "off"}
    row = carried_out(backfill(**poison, on_bad_row="quarantine", max_bad_rows=5))
    assert (row.status, row.quarantined, row.progress_done) == (Status.FINISHED, 5, 495)
    query("DELETE FROM book WHERE id = 1")
    query("UPDATE book SET title = 'long enough' WHERE id <= 5")
    row = carried_out(row)
    assert (row.status, row.quarantined, row.progress_done) == (Status.FINISHED, 0, 499)
    assert counted() - before == 499


# --- rows and tables that others have locked ---


def test_rows_that_others_have_locked_are_left_for_later(backfill: Backfill) -> None:
    row = backfill(**COUNT, lock_timeout=0.05)
    with locked("UPDATE book SET title = title WHERE id IN (77, 300)"):
        lifecycle.run(row.pk, Origin("test"))
        worker = threading.Thread(target=_carry_out, args=[row.pk])
        worker.start()
        eventually(lambda: len(_deferred()) == 2 and query("SELECT count(*) FROM book WHERE n = 0")[0][0] <= 200)
    worker.join(30)
    assert lifecycle.get(row.pk).status == Status.FINISHED
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(1, 500)]


def test_a_locked_table_is_waited_for_and_nothing_is_deferred(backfill: Backfill) -> None:
    row = backfill(**COUNT, lock_timeout=0.05)
    with locked("LOCK TABLE book IN SHARE MODE") as other:
        lifecycle.run(row.pk, Origin("test"))
        worker = threading.Thread(target=_carry_out, args=[row.pk])
        worker.start()
        eventually(lambda: query("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock'")[0][0])
        other.connection.rollback()
    worker.join(30)
    assert lifecycle.get(row.pk).status == Status.FINISHED
    assert _deferred() == []
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(1, 500)]


def test_rows_that_stay_locked_are_not_waited_for_for_ever(backfill: Backfill, settings: Any) -> None:
    settings.ASYNC_MIGRATIONS_LOCK_RETRY_SECONDS = 0.5
    row = backfill(**COUNT, lock_timeout=0.05, max_attempts=1)
    with locked("UPDATE book SET title = title WHERE id = 77"):
        row = carried_out(row)
    assert (row.status, error_of(row)["code"]) == (Status.ERROR, "lock_timeout")
    row = carried_out(row)
    assert row.status == Status.FINISHED
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(1, 500)]


@pytest.fixture
def slow(backfill: Backfill, settings: Any) -> Iterator[AsyncMigrationStatus]:
    """A backfill in its last attempt, which has changed some of its rows."""
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.05
    row = backfill(**FILL, batch_size=10, batch_delay_seconds=0.2, max_attempts=2)
    lifecycle.run(row.pk, Origin("test"))
    lifecycle.rows().update(attempt=1)
    worker = threading.Thread(target=_carry_out, args=[row.pk])
    worker.start()
    eventually(lambda: lifecycle.get(row.pk).progress_done)
    yield row
    worker.join(30)


def test_an_attempt_that_has_got_on_counts_as_the_first(slow: AsyncMigrationStatus) -> None:
    """A backfill of days must not end in ERROR of what happens now and then."""
    query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'async-migrations/%/2'")
    released = eventually(lambda: slow.events.filter(kind="release").first())
    assert released.detail["error"]["code"] == "connection_lost"
    now = lifecycle.get(slow.pk)
    assert (now.status, now.attempt) == ("STARTED", 1)
    lifecycle.tune(slow.pk, Origin("test"), {"batch_delay_seconds": 0})
    lifecycle.rows().update(run_at=None)
    tasks.carry_out(slow.pk)
    assert lifecycle.get(slow.pk).status == Status.FINISHED
    assert query("SELECT count(*) FROM book WHERE n = 0") == [(0,)]


def test_so_does_one_whose_worker_was_lost(slow: AsyncMigrationStatus) -> None:
    lifecycle.rows().update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    lifecycle.reap()
    assert slow.events.get(kind="reap").to_status == Status.STARTED
    lifecycle.tune(slow.pk, Origin("test"), {"batch_delay_seconds": 0})
    eventually(lambda: lifecycle.get(slow.pk).status == Status.FINISHED)


def _carry_out(pk: int) -> None:
    try:
        tasks.carry_out(pk)
    finally:
        connections.close_all()


def _deferred() -> list[Any]:
    lanes = query("SELECT deferred FROM async_migrations_asyncmigrationlane")
    return [entry for (lane,) in lanes for entry in json.loads(lane)]


# --- back ---


def test_it_goes_back_and_forwards_again(backfill: Backfill, project: Project) -> None:
    row = carried_out(backfill(**COUNT, rollback_update="n = n - 1"))
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(1, 500)]
    row = carried_out(row, backwards=True)
    assert (row.status, error_of(row)) == (Status.ROLLED_BACK, {})
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(0, 500)]
    assert carried_out(row).status == Status.FINISHED
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(1, 500)]


def test_without_a_way_back_going_backwards_is_refused(backfill: Backfill, project: Project) -> None:
    row = carried_out(backfill(**COUNT))
    with pytest.raises(TransitionRefused, match="rollback_update"):
        lifecycle.rollback(row.pk, Origin("test"))
    with pytest.raises(TransitionRefused, match="noop"):
        project.migrate("zero")
    assert lifecycle.get(row.pk).status == Status.FINISHED


def test_noop_leaves_the_rows_and_begins_anew_the_next_time(backfill: Backfill) -> None:
    row = carried_out(backfill(**COUNT, rollback="noop"))
    row = carried_out(row, backwards=True)
    assert (row.status, error_of(row)) == (Status.ROLLED_BACK, {})
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(1, 500)]
    assert carried_out(row).status == Status.FINISHED
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(2, 500)]


def test_what_never_ran_goes_back_without_a_word(backfill: Backfill, project: Project) -> None:
    row = backfill(**COUNT)
    project.migrate("zero")
    assert lifecycle.get(row.pk).status == Status.ROLLED_BACK


# --- Python ---


@pytest.fixture
def fills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A module `fills` of the project with functions to be called; the list has the sizes of the batches."""
    sizes: list[int] = []
    module = types.ModuleType("fills")

    def by_rows(rows: list[dict[str, Any]]) -> int:
        sizes.append(len(rows))
        for row in rows:
            query(f"UPDATE book SET n = n + {len(row['title'])} WHERE id = {row['id']}")
        return len(rows)

    def fails(rows: list[dict[str, Any]]) -> None:
        by_rows(rows)
        if any(row["id"] == 7 for row in rows):
            raise KeyError("no seven")

    module.by_rows, module.fails = by_rows, fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fills", module)
    return sizes


def test_a_function_gets_the_rows_of_a_batch_in_its_transaction(backfill: Backfill, fills: list[int]) -> None:
    row = carried_out(backfill(table="book", process="fills.by_rows", where="id % 5 > 0", verify="off", batch_size=99))
    assert (row.status, error_of(row)) == (Status.FINISHED, {})
    assert row.progress_done == sum(fills) == 400
    assert query("SELECT count(*) FROM book WHERE n = length(title)") == [(400,)]


def test_what_a_function_raises_is_a_bad_row_and_is_undone(backfill: Backfill, fills: list[int]) -> None:
    row = carried_out(backfill(table="book", process="fills.fails", batch_size=50))
    error = error_of(row)
    assert (row.status, error["code"], error["key"]) == (Status.ERROR, "bad_row", ["7"])
    assert "fills.fails raised KeyError: 'no seven'" in error["message"]
    assert query("SELECT count(*) FROM book WHERE n > 0") == [(6,)]


def test_a_worker_without_the_code_says_so_and_leaves_the_row(backfill: Backfill) -> None:
    row = carried_out(backfill(table="book", process="nowhere.fill"))
    assert (row.status, row.attempt) == (Status.STARTED, 0)
    assert "this worker has no nowhere.fill" in row.phase
    assert row.run_at is not None


def test_most_new_versions_stay_on_the_page_of_the_old_one(backfill: Backfill) -> None:
    query("DROP TABLE IF EXISTS wide")
    query("CREATE TABLE wide (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, text text)")
    query("ALTER TABLE wide SET (autovacuum_enabled = off)")
    query("INSERT INTO wide SELECT g, 0, repeat('x', 150) FROM generate_series(1, 20000) AS g")
    try:
        assert carried_out(backfill(table="wide", update="n = n + 1")).status == Status.FINISHED
        assert query("SELECT n, count(*) FROM wide GROUP BY n") == [(1, 20000)]
        counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'wide'"
        updated, in_place = eventually(lambda: [row for row in query(counts) if row[0] == 20000])[0]
        assert in_place > updated / 2
    finally:
        query("DROP TABLE wide")
