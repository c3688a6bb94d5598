"""What builds have left behind: listed while nobody is at work on it, dropped after another look."""

from __future__ import annotations

import io
import json
import threading
from contextlib import closing, contextmanager, suppress

import psycopg2
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections

from async_migrations import lifecycle, tasks
from async_migrations.errors import NotALeftover
from async_migrations.execution import janitor
from async_migrations.lifecycle import Origin
from tests.conftest import eventually
from tests.db.conftest import index_is_valid, kinds, query

pytestmark = pytest.mark.usefixtures("control", "book")

ALICE = Origin("alice", "request-1")
OLD_SNAPSHOT = ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM book")


def fail_to_build(name: str = "book_n_idx", using: str = "default") -> None:
    """Leave an INVALID index behind."""
    with pytest.raises(Exception, match="could not create unique index"):
        query(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON book (n)", using)
    assert index_is_valid(name, using) is False


def names(using: str = "default") -> list[str]:
    return [found.name for found in janitor.leftovers(using)]


@contextmanager
def held(*statements: str):
    """Keep a session of another client open for the length of the block."""
    with closing(psycopg2.connect(**connection.get_connection_params())) as other:
        for statement in statements:
            other.cursor().execute(statement)
        yield other


@contextmanager
def going_on(*statements: str):
    """Have another client carry statements out during the block, which keeps them from ending before."""

    def work() -> None:
        with closing(psycopg2.connect(**connection.get_connection_params())) as other:
            other.autocommit = True
            for statement in statements:
                with suppress(psycopg2.errors.QueryCanceled):
                    other.cursor().execute(statement)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


def test_it_works(migration) -> None:
    row = migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    fail_to_build()
    (found,) = janitor.leftovers("default")
    assert (found.database, found.schema, found.name, found.table) == ("default", "public", "book_n_idx", "public.book")
    assert (found.kind, found.migration, found.running) == ("invalid", row.pk, False)
    assert found.definition == "CREATE UNIQUE INDEX book_n_idx ON public.book USING btree (n)"
    assert janitor.drop("default", "public", "book_n_idx", ALICE) == found
    assert index_is_valid("book_n_idx") is None
    event = row.events.last()
    assert (event.kind, event.by, event.request_id) == ("leftover_dropped", "alice", "request-1")
    assert event.detail["index"] == "public.book_n_idx"
    assert janitor.drop("default", "public", "book_n_idx", ALICE) is None
    assert kinds(row).count("leftover_dropped") == 1


def test_what_somebody_else_made_is_named_as_such(migration) -> None:
    migration("CREATE INDEX CONCURRENTLY book_m_idx ON book (n); SELECT 'book_n_idx'")
    fail_to_build()
    (found,) = janitor.leftovers("default")
    assert found.migration is None
    janitor.drop("default", "public", "book_n_idx", ALICE)
    assert names() == []


def test_each_target_has_its_own(migration) -> None:
    query("UPDATE book SET n = 0", "second")
    fail_to_build(using="second")
    assert (names("default"), names("second")) == ([], ["book_n_idx"])
    assert janitor.databases() == ["default", "second"]


def test_a_reindex_that_failed_leaves_ccnew(migration) -> None:
    row = migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    fail_to_build()
    with pytest.raises(Exception, match="could not create unique index"):
        query("REINDEX INDEX CONCURRENTLY book_n_idx")
    found = {each.name: (each.kind, each.migration) for each in janitor.leftovers("default")}
    assert found == {"book_n_idx": ("invalid", row.pk), "book_n_idx_ccnew": ("_ccnew", row.pk)}
    for name in found:
        janitor.drop("default", "public", name, ALICE)
    assert names() == []


def test_a_valid_index_with_such_a_name_is_no_leftover() -> None:
    query("CREATE INDEX book_n_idx_ccnew ON book (n)")
    assert names() == []
    with pytest.raises(NotALeftover):
        janitor.drop("default", "public", "book_n_idx_ccnew", ALICE)
    assert index_is_valid("book_n_idx_ccnew") is True


def test_what_is_being_built_is_no_leftover() -> None:
    with held(*OLD_SNAPSHOT) as old, going_on("CREATE INDEX CONCURRENTLY book_n_idx ON book (n)"):
        eventually(lambda: index_is_valid("book_n_idx") is False)
        assert names() == []
        with pytest.raises(NotALeftover, match="building"):
            janitor.drop("default", "public", "book_n_idx", ALICE)
        old.rollback()
    assert index_is_valid("book_n_idx") is True


def test_what_is_being_dropped_is_no_leftover() -> None:
    query("CREATE INDEX book_n_idx ON book (n)")
    with held("SELECT n FROM book LIMIT 1") as reader, going_on("DROP INDEX CONCURRENTLY book_n_idx"):
        eventually(lambda: index_is_valid("book_n_idx") is False)
        assert names() == []
        reader.rollback()
    assert index_is_valid("book_n_idx") is None


def test_a_vacuum_or_a_reader_of_the_table_hides_nothing() -> None:
    fail_to_build()
    with held("SELECT 1 FROM book"):
        assert names() == ["book_n_idx"]
    query("DELETE FROM book")
    with going_on("SET vacuum_cost_delay = 100", "SET vacuum_cost_limit = 1", "VACUUM book"):
        eventually(lambda: query("SELECT pid FROM pg_stat_progress_vacuum"))
        assert names() == ["book_n_idx"]
        query("SELECT pg_cancel_backend(pid) FROM pg_stat_progress_vacuum")


def test_the_size_is_that_on_disk() -> None:
    with held(*OLD_SNAPSHOT), going_on("CREATE INDEX CONCURRENTLY book_n_idx ON book (n)"):
        eventually(
            lambda: query(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index "
                "WHERE phase = 'waiting for old snapshots'"
            )
        )
    (found,) = janitor.leftovers("default")
    assert found.size_bytes == query("SELECT pg_relation_size('book_n_idx')")[0][0] > 0


def test_what_a_migration_in_progress_made_is_left_to_it(migration) -> None:
    row = migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    fail_to_build()
    lifecycle.run(row.pk, ALICE)
    assert lifecycle.claim(row.pk, "worker") is not None
    (found,) = janitor.leftovers("default")
    assert (found.migration, found.running) == (row.pk, True)
    with pytest.raises(NotALeftover, match="in progress"):
        janitor.drop("default", "public", "book_n_idx", ALICE)
    assert index_is_valid("book_n_idx") is False


@pytest.mark.parametrize("key", ["'async_migrations:books.migrations.0002_x'", "'async_migrations:table:' || %d"])
def test_a_session_that_still_carries_a_migration_out_is_respected(migration, key) -> None:
    migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    fail_to_build()
    oid = query("SELECT 'book'::regclass::oid")[0][0]
    lock = f"SELECT pg_advisory_lock(hashtextextended({key.replace('%d', str(oid))}, 0))"
    with held(lock), pytest.raises(NotALeftover, match="at work"):
        janitor.drop("default", "public", "book_n_idx", ALICE)
    janitor.drop("default", "public", "book_n_idx", ALICE)
    assert names() == []


def test_an_attempt_that_begins_while_its_leftover_is_dropped_waits_and_builds_anew(migration) -> None:
    # Given a drop that cannot end yet, for somebody uses the table
    row = migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    fail_to_build()
    query("UPDATE book SET n = id")
    with held("SELECT n FROM book LIMIT 1") as reader:
        dropping = in_thread(lambda: janitor.drop("default", "public", "book_n_idx", ALICE))
        eventually(lambda: query("SELECT pid FROM pg_stat_activity WHERE query ~ '^DROP INDEX' AND state = 'active'"))
        # When the migration is carried out
        lifecycle.run(row.pk, ALICE)
        building = in_thread(lambda: tasks.carry_out(row.pk))
        eventually(lambda: "waiting_for_session" in kinds(row))
        reader.rollback()
    dropping.join(30)
    building.join(30)
    # Then what it has built is not what is dropped
    assert lifecycle.get(row.pk).status == "FINISHED"
    assert index_is_valid("book_n_idx") is True
    assert "leftover_dropped" in kinds(row)


def in_thread(work) -> threading.Thread:
    def body() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=body)
    thread.start()
    return thread


def test_names_that_need_quotes(migration) -> None:
    build = 'CREATE UNIQUE INDEX CONCURRENTLY "x "" y" ON "Odd ""one"."A b" (n)'
    row = migration(build)
    query('CREATE SCHEMA "Odd ""one"')
    try:
        query('CREATE TABLE "Odd ""one"."A b" AS SELECT 1 AS n FROM generate_series(1, 2)')
        with pytest.raises(Exception, match="could not create unique index"):
            query(build)
        (found,) = janitor.leftovers("default")
        assert (found.schema, found.name, found.table) == ('Odd "one', 'x " y', '"Odd ""one"."A b"')
        assert found.migration == row.pk
        janitor.drop("default", found.schema, found.name, ALICE)
        assert names() == []
    finally:
        query('DROP SCHEMA "Odd ""one" CASCADE')


def test_the_index_of_a_toast_table_is_shown_with_its_table() -> None:
    toast = query("SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'book'")[0][0]
    index = f"{toast.partition('.')[2]}_index"
    query("SET lock_timeout = '300ms'")
    with held("SELECT 1 FROM book"), pytest.raises(Exception, match="lock timeout"):
        query("REINDEX TABLE CONCURRENTLY book")
    query("SET lock_timeout = 0")
    found = {each.name: each for each in janitor.leftovers("default")}
    assert (found[f"{index}_ccold"].table, found[f"{index}_ccold"].kind) == ("public.book", "_ccold")
    for each in found.values():
        janitor.drop("default", each.schema, each.name, ALICE)
    assert names() == []


# --- the command ---


def call(*arguments: str) -> str:
    out = io.StringIO()
    call_command("async_migrations", "janitor", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_lists_and_drops(migration) -> None:
    assert call() == "No leftovers.\n"
    row = migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    fail_to_build()
    fail_to_build("other_idx", "second")
    header, *lines = call().splitlines()
    assert header.split() == ["DATABASE", "SIZE", "KIND", "MIGRATION", "TABLE", "INDEX"]
    assert lines[0].split()[3:] == ["invalid", str(row.pk), "public.book", "public.book_n_idx"]
    assert lines[1].split()[3:] == ["invalid", "-", "public.book", "public.other_idx"]
    assert [each["name"] for each in json.loads(call("--json", "--database", "second"))] == ["other_idx"]
    assert "Dropped: public.book_n_idx on default." in call("--drop", "--database", "default")
    assert index_is_valid("other_idx", "second") is False
    assert [each["name"] for each in json.loads(call("--drop", "--json"))] == ["other_idx"]
    assert (names("default"), names("second")) == ([], [])
    assert row.events.last().by.count("@") == 1


def test_the_command_refuses_what_a_migration_looks_after(migration, capsys) -> None:
    row = migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
    fail_to_build()
    fail_to_build("a_idx")
    lifecycle.run(row.pk, ALICE)
    assert lifecycle.claim(row.pk, "worker") is not None
    with pytest.raises(SystemExit) as exit_code:
        call("--drop")
    assert exit_code.value.code == 2
    assert "in progress" in capsys.readouterr().err
    assert names() == ["book_n_idx"]


def test_the_command_knows_its_targets(settings, monkeypatch) -> None:
    with pytest.raises(CommandError) as refusal:
        call("--database", "nowhere")
    assert refusal.value.returncode == 2
    monkeypatch.setitem(connections["second"].settings_dict, "PORT", "1")
    monkeypatch.setitem(connections["second"].settings_dict, "HOST", "127.0.0.1")
    with pytest.raises(CommandError) as refusal:
        call("--database", "second")
    assert refusal.value.returncode == 3


# --- the worker ---


def test_the_actor_drops_and_keeps_what_is_no_leftover(caplog) -> None:
    fail_to_build()
    tasks.drop_leftover("default", "public", "book_n_idx", "alice", "request-1")
    assert names() == []
    query("CREATE INDEX book_n_idx ON book (n)")
    tasks.drop_leftover("default", "public", "book_n_idx", "alice", "request-1")
    assert index_is_valid("book_n_idx") is True
    assert "leftover stays" in caplog.messages
