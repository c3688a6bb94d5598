"""One attempt, in this process, against real PostgreSQL: what runs, what is verified, what the row says afterwards."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg2
import pytest
from django.db import connection, connections

from async_migrations import lifecycle, tasks
from async_migrations.errors import ExecutionError
from async_migrations.execution import heartbeat, steps, verify
from async_migrations.execution.session import Session
from async_migrations.execution.statements import parse
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationCheckpoint
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import carried_out, index_is_valid, kinds, query

pytestmark = pytest.mark.usefixtures("control", "book")

BUILD = "CREATE INDEX CONCURRENTLY book_title_idx ON book (title, octet_length(body::text) DESC) INCLUDE (id)"
DROP = "DROP INDEX CONCURRENTLY IF EXISTS book_title_idx"


def test_it_works(migration) -> None:
    row = carried_out(migration(BUILD, DROP))
    assert row.status == Status.FINISHED
    assert index_is_valid("book_title_idx") is True
    assert row.percent == 100
    assert row.finished_at is not None
    assert row.lease_token is None
    assert kinds(row) == ["schedule", "run", "claim", "statement_done", "succeed"]


def test_going_backwards_and_forwards_again_really_runs_again(migration) -> None:
    row = migration(BUILD, DROP)
    assert carried_out(row).status == Status.FINISHED
    assert carried_out(row, backwards=True).status == Status.ROLLED_BACK
    assert index_is_valid("book_title_idx") is None
    assert carried_out(row).status == Status.FINISHED
    assert index_is_valid("book_title_idx") is True


def test_statements_run_one_by_one_and_the_mark_commits_with_each(migration) -> None:
    row = carried_out(
        migration(f"UPDATE book SET n = n + 1; {BUILD}; UPDATE book SET n = n / 0; UPDATE book SET n = 7;")
    )
    assert row.status == Status.ERROR
    assert row.meta["error"]["code"] == "data_error"
    assert row.meta["error"]["sqlstate"] == "22012"
    assert row.meta["error"]["statement"] == 3
    assert query("SELECT DISTINCT n FROM book") == [(1,)]
    assert len(AsyncMigrationCheckpoint.objects.get(name=row.name).done) == 2


def test_a_second_run_goes_on_behind_the_last_statement_that_is_done(migration) -> None:
    row = carried_out(migration("UPDATE book SET n = n + 1; UPDATE book SET n = n / (SELECT count(*) FROM shelf)"))
    assert row.meta["error"]["code"] == "undefined_table"
    query("CREATE TABLE shelf AS SELECT 1")
    try:
        assert carried_out(row).status == Status.FINISHED
    finally:
        query("DROP TABLE shelf")
    assert query("SELECT DISTINCT n FROM book") == [(1,)]


def test_an_invalid_index_of_the_same_name_is_repaired(migration) -> None:
    query("UPDATE book SET n = id % 400")
    with pytest.raises(Exception, match="could not create unique index"):
        query("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    assert index_is_valid("book_n_idx") is False
    query("UPDATE book SET n = id")
    row = carried_out(migration("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS book_n_idx ON book (n)"))
    assert row.status == Status.FINISHED, row.meta
    assert index_is_valid("book_n_idx") is True
    assert "repair" in kinds(row)


def test_a_unique_index_over_duplicates_ends_in_error_with_the_key_and_leaves_nothing(migration) -> None:
    query("UPDATE book SET n = CASE WHEN id IN (7, 8) THEN 42 ELSE id + 1000 END")
    row = carried_out(migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)"))
    assert row.status == Status.ERROR
    assert row.meta["error"]["code"] == "duplicate_key"
    assert "(n)=(42)" in row.meta["error"]["detail"]
    assert index_is_valid("book_n_idx") is None
    assert kinds(row)[-2:] == ["leftover_removed", "fail"]


@pytest.mark.parametrize(
    "definition",
    ["(title)", "(title, octet_length(body::text)) INCLUDE (id)", "(title) WHERE n > 0", "USING hash (title)"],
)
@pytest.mark.parametrize("tolerant", ["", "IF NOT EXISTS "])
def test_a_valid_index_with_another_definition_is_an_error_that_shows_both(migration, definition, tolerant) -> None:
    query(f"CREATE INDEX book_title_idx ON book {definition}")
    row = carried_out(migration(BUILD.replace("book_title_idx", f"{tolerant}book_title_idx")))
    assert row.status == Status.ERROR
    assert row.meta["error"]["code"] == "index_differs"
    assert "octet_length((body)::text) DESC) INCLUDE (id)" in row.meta["error"]["detail"]
    assert index_is_valid("book_title_idx") is True


def test_a_valid_index_with_the_same_definition_is_taken_as_done(migration) -> None:
    query(BUILD.replace("CONCURRENTLY ", ""))
    row = carried_out(migration(BUILD))
    assert row.status == Status.FINISHED, row.meta
    assert "found_done" in kinds(row)


def test_a_build_in_a_transaction_over_an_invalid_index_is_not_believed(migration) -> None:
    query("UPDATE book SET n = 1")
    with pytest.raises(Exception, match="could not create unique index"):
        query("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    row = carried_out(migration("CREATE UNIQUE INDEX IF NOT EXISTS book_n_idx ON book (n)", max_attempts=1))
    assert row.status == Status.ERROR
    assert row.meta["error"]["code"] == "effect_invalid"


def test_a_role_with_a_statement_timeout_does_not_kill_a_build(migration) -> None:
    query("ALTER ROLE CURRENT_USER SET statement_timeout = '10ms'")
    query("ALTER ROLE CURRENT_USER SET lock_timeout = '10ms'")
    try:
        row = carried_out(
            migration("SELECT pg_sleep(0.2); SELECT set_config('a.b', current_setting('lock_timeout'), false)")
        )
    finally:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0; ALTER ROLE CURRENT_USER RESET ALL")
    assert row.status == Status.FINISHED, row.meta


def test_a_statement_that_blocks_readers_gets_a_lock_timeout_and_tries_again(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_LOCK_TIMEOUT_SECONDS = 0.1
    row = migration("ALTER TABLE book ADD COLUMN pages int")
    lifecycle.run(row.pk, Origin("test"))
    worker = threading.Thread(target=in_thread, args=(row.pk,))
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT * FROM book LIMIT 1")
        worker.start()
        eventually(lambda: "lock_retry" in kinds(row), what="a lock retry")
        cursor.execute("COMMIT")
    worker.join(30)
    assert lifecycle.get(row.pk).status == Status.FINISHED


def in_thread(pk: int) -> None:
    try:
        tasks.carry_out(pk)
    finally:
        connections.close_all()


def test_a_setting_of_the_session_holds_in_every_attempt(migration) -> None:
    row = migration("SET a.b = 'x'; UPDATE book SET n = 1; UPDATE book SET title = current_setting('a.c')")
    assert carried_out(row).meta["error"]["statement"] == 3
    lifecycle.rows().filter(pk=row.pk).update(sql_forwards=row.sql_forwards.replace("a.c", "a.b"))
    assert carried_out(row).status == Status.FINISHED
    assert query("SELECT DISTINCT title FROM book") == [("x",)]


@pytest.mark.parametrize("how", ["option", "statement"])
def test_a_search_path_of_the_migration_hides_our_own_tables_from_nobody(migration, how) -> None:
    query("CREATE SCHEMA shelf")
    query("CREATE TABLE shelf.book (title text)")
    query("CREATE TABLE shelf.async_migrations_asyncmigrationcheckpoint (name text, token uuid, begun text)")
    options = {"settings": {"search_path": "shelf"}} if how == "option" else {}
    before = "" if how == "option" else "SET search_path = shelf; "
    try:
        row = carried_out(migration(f"{before}CREATE INDEX CONCURRENTLY book_title_idx ON book (title)", **options))
        assert row.status == Status.FINISHED, row.meta
        assert index_is_valid("shelf.book_title_idx") is True
    finally:
        query("DROP SCHEMA shelf CASCADE")


def test_what_nobody_can_look_up_is_never_run_again_unasked(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_SHUTDOWN_GRACE_SECONDS, settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0, 0.05
    query(
        "CREATE OR REPLACE PROCEDURE raise_all() LANGUAGE plpgsql AS "
        "$$ BEGIN UPDATE book SET n = n + 1; COMMIT; PERFORM pg_advisory_lock(4711); END $$"
    )
    row = migration("CALL raise_all()", atomic=False, max_attempts=5)
    for again in (1, 2):
        lifecycle.run(row.pk, Origin("test"))
        worker = threading.Thread(target=in_thread, args=(row.pk,))
        with psycopg2.connect(**connection.get_connection_params()) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(4711)")
            worker.start()
            eventually(partial(_is_raised_to, again))
            heartbeat.begin_shutdown()  # A deploy, whose grace period is over at once.
            worker.join(30)
            heartbeat.shutdown.clear()
        other.close()
        assert lifecycle.get(row.pk).status == Status.STARTED
        lifecycle.pause(row.pk, Origin("test"))
        tasks.carry_out(row.pk)
        lifecycle.resume(row.pk, Origin("test"))
        tasks.carry_out(row.pk)
        now = lifecycle.get(row.pk)
        assert (now.status, now.meta["error"]["code"]) == (Status.ERROR, "outcome_unknown"), kinds(now)
        assert query("SELECT DISTINCT n FROM book") == [(again,)]
    query("DROP PROCEDURE raise_all")


def _is_raised_to(n: int) -> bool:
    return query("SELECT DISTINCT n FROM book") == [(n,)]


def test_a_server_that_is_read_only_for_a_while_is_no_final_error(migration) -> None:
    row = migration("UPDATE book SET n = n + 1", settings={"default_transaction_read_only": "on"})
    assert carried_out(row).status == Status.STARTED
    assert row.events.get(kind="release").detail["error"]["code"] == "read_only"


def test_rows_that_a_policy_hides_are_an_error_and_not_left_out(migration) -> None:
    query("ALTER TABLE book ENABLE ROW LEVEL SECURITY")
    query("CREATE POLICY few ON book USING (id < 100)")
    query("CREATE ROLE clerk")
    query("GRANT SELECT, UPDATE ON book TO clerk")
    query("GRANT ALL ON async_migrations_asyncmigrationcheckpoint TO clerk")
    try:
        row = carried_out(migration("SET ROLE clerk; UPDATE book SET n = n + 1"))
        error = row.meta["error"]
        assert (row.status, error["code"]) == (Status.ERROR, "not_allowed")
        assert "row-level security" in error["message"]
        assert query("SELECT max(n) FROM book") == [(0,)]
    finally:
        query("DROP OWNED BY clerk")
        query("DROP ROLE clerk")


def test_the_control_database_lost_in_the_middle_is_no_final_error(migration, monkeypatch) -> None:
    row = migration("UPDATE book SET n = n + 1; UPDATE book SET n = n + 10")
    note = lifecycle.note

    def lose_the_connection(lease, kind, **detail) -> None:
        if kind == "statement_done":
            monkeypatch.setattr(lifecycle, "note", note)
            query("SELECT pg_terminate_backend(pg_backend_pid())")
        note(lease, kind, **detail)

    monkeypatch.setattr(lifecycle, "note", lose_the_connection)
    assert carried_out(row).status == Status.STARTED
    released = row.events.get(kind="release")
    assert released.detail["error"]["code"] == "control_database_lost"
    lifecycle.rows().update(run_at=None)
    tasks.carry_out(row.pk)
    assert lifecycle.get(row.pk).status == Status.FINISHED
    assert query("SELECT DISTINCT n FROM book") == [(11,)]


@pytest.mark.parametrize("what", ["INDEX CONCURRENTLY book_pkey", "TABLE CONCURRENTLY book"])
def test_a_reindex_leaves_nothing_behind_whether_it_fails_or_succeeds(migration, what) -> None:
    row = migration(f"REINDEX {what}", statement_timeout=0.3, max_attempts=1)
    lifecycle.run(row.pk, Origin("test"))
    worker = threading.Thread(target=in_thread, args=(row.pk,))
    with psycopg2.connect(**connection.get_connection_params()) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE book IN ROW EXCLUSIVE MODE")
        worker.start()
        eventually(lambda: query("SELECT relname FROM pg_class WHERE relname ~ '_ccnew'"))
        eventually(lambda: "removing leftovers" in lifecycle.get(row.pk).phase)
    other.close()
    worker.join(30)
    assert lifecycle.get(row.pk).status == Status.ERROR
    assert query("SELECT relname FROM pg_class WHERE relname ~ '_cc(new|old)'") == []
    lifecycle.rows().filter(pk=row.pk).update(options={})
    assert carried_out(row).status == Status.FINISHED
    assert query("SELECT relname FROM pg_class WHERE relname ~ '_cc(new|old)'") == []


def test_a_reindex_that_skips_an_invalid_index_has_not_done_its_work(migration) -> None:
    query("CREATE INDEX book_n ON book (n)")
    query("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'book_n'::regclass")
    error = carried_out(migration("REINDEX TABLE CONCURRENTLY book")).meta["error"]
    assert (error["code"], "book_n" in error["message"]) == ("left_invalid", True)


@pytest.mark.parametrize("statement", ["VACUUM book", "ANALYZE book"])
def test_what_postgresql_would_skip_with_a_warning_is_an_error(migration, statement) -> None:
    query("CREATE ROLE clerk")
    query("GRANT ALL ON async_migrations_asyncmigrationcheckpoint TO clerk")
    try:
        row = carried_out(migration(f"SET ROLE clerk; {statement}"))
        assert (row.status, row.meta["error"]["code"]) == (Status.ERROR, "not_allowed")
    finally:
        query("DROP OWNED BY clerk")
        query("DROP ROLE clerk")


def test_no_statement_begins_outside_of_its_window(migration) -> None:
    now = datetime.now(UTC)
    later, end = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (2, 3))
    row = carried_out(migration("UPDATE book SET n = 7", window=f"{later}-{end} UTC"))
    assert (row.status, row.attempt, row.phase) == (Status.STARTED, 0, "waits for its window to open")
    assert row.run_at is not None
    assert timedelta(minutes=118) < row.run_at - now <= timedelta(hours=2)
    assert query("SELECT count(*) FROM book WHERE n = 7") == [(0,)]
    lifecycle.cancel(row.pk, Origin("test"))
    tasks.carry_out(row.pk)
    assert lifecycle.get(row.pk).status == Status.CANCELLED


def test_within_its_window_it_is_carried_out(migration) -> None:
    now = datetime.now(UTC)
    window = "-".join(f"{now + timedelta(hours=hours):%H:%M}" for hours in (-1, 1))
    assert carried_out(migration("UPDATE book SET n = 7", window=window)).status == Status.FINISHED


def test_an_index_in_a_transaction_commits_with_its_mark_whatever_it_is_called(migration, monkeypatch) -> None:
    index = 'CREATE INDEX IF NOT EXISTS "a USING b" ON book (title) WHERE book.n >= 0'

    def fail(*_: object) -> None:
        raise ExecutionError(code="data_error", message="The mark cannot be written.", retryable=False)

    with monkeypatch.context() as broken:
        broken.setattr(steps, "_mark_done", fail)
        assert carried_out(migration(index)).meta["error"]["code"] == "data_error"
    assert index_is_valid('"a USING b"') is None
    for name in ("books.migrations.0003_y", "books.migrations.0004_z"):  # Built, then found.
        row = carried_out(migration(index.replace("INDEX", "INDEX CONCURRENTLY"), name=name))
        assert row.status == Status.FINISHED, row.meta
    assert "found_done" in kinds(row)


def test_a_partitioned_table_gets_its_index_partition_by_partition(migration) -> None:
    query("CREATE TABLE part (id int, n int) PARTITION BY RANGE (id)")
    for at in (1, 2):
        query(f"CREATE TABLE part_{at} PARTITION OF part FOR VALUES FROM ({at}) TO ({at + 1})")
    each = "CREATE INDEX CONCURRENTLY part_{0}_n ON part_{0} (n); ALTER INDEX part_n ATTACH PARTITION part_{0}_n;"
    try:
        whole = "CREATE INDEX IF NOT EXISTS part_n ON ONLY part (n);" + each.format(1) + each.format(2)
        row = carried_out(migration(whole))
        assert row.status == Status.FINISHED, row.meta
        assert index_is_valid("part_n") is True
        assert row.events.filter(kind="statement_done", detail__note__isnull=False).count() == 1
    finally:
        query("DROP TABLE part")


def test_an_invalid_index_of_another_table_is_left_alone(migration) -> None:
    query("CREATE TABLE shelf AS SELECT 1 AS n FROM generate_series(1, 2)")
    try:
        with pytest.raises(Exception, match="could not create unique index"):
            query("CREATE UNIQUE INDEX CONCURRENTLY book_title_idx ON shelf (n)")
        row = carried_out(migration(BUILD))
        assert (row.status, row.meta["error"]["code"]) == (Status.ERROR, "index_differs")
        assert index_is_valid("book_title_idx") is False
    finally:
        query("DROP TABLE shelf")


def test_a_build_by_somebody_whose_progress_is_hidden_is_no_leftover() -> None:
    query("CREATE ROLE clerk LOGIN")
    other = psycopg2.connect(**connection.get_connection_params())
    try:
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE book IN ROW EXCLUSIVE MODE")  # A build waits for it before it scans.
            builder = threading.Thread(target=_build_beside)
            builder.start()
            eventually(lambda: index_is_valid("book_title_idx") is False)
            with Session("default", "other role") as session:
                session.execute("SET ROLE clerk")
                found = verify.find(session, parse(BUILD)[0].indexes[0])
                assert found is not None
                assert len(verify.builders(session, found)) == 1
    finally:
        other.close()
        builder.join(30)
        query("DROP ROLE clerk")


def _build_beside() -> None:
    try:
        query(BUILD)
    finally:
        connections.close_all()
