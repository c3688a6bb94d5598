"""`make_sql_migration` as a host project sees it: real migration files, applied with `migrate`."""

from __future__ import annotations

import io
from dataclasses import asdict
from datetime import timedelta

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from async_migrations import lifecycle, tasks
from async_migrations.errors import InvalidDefinition, TablesMissing, TransitionRefused
from async_migrations.lifecycle import Origin, Request
from async_migrations.migration_helpers import make_sql_migration
from async_migrations.models import AsyncMigrationCheckpoint, AsyncMigrationStatus
from async_migrations.states import Status
from tests.db.conftest import index_is_valid, kinds, query, row_of

BUILD = "CREATE INDEX CONCURRENTLY book_title_idx ON book (title)"
DROP = "DROP INDEX CONCURRENTLY IF EXISTS book_title_idx"
ADD = "UPDATE book SET n = n + 1"


@pytest.fixture
def scheduling(settings) -> None:
    settings.ALLOW_SCHEDULED_MIGRATIONS = True


def messages() -> int:
    """Return how many messages lie in the broker."""
    return int(django_settings.DRAMATIQ_BROKER["OPTIONS"]["client"].llen("dramatiq:async_migrations"))


def total(using: str = "default") -> int:
    return int(query("SELECT sum(n) FROM book", using)[0][0])


# --- what is kept of the original, to the letter ---


def test_it_returns_the_pair_for_run_python() -> None:
    forwards, backwards = make_sql_migration(BUILD, DROP, migration_name="books.migrations.0002_x")
    assert callable(forwards)
    assert callable(backwards)


def test_without_a_name_it_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="explicit migration_name"):
        make_sql_migration(BUILD, DROP)


@pytest.mark.parametrize("empty", ["", "  ", "-- nothing", ";"])
def test_an_empty_sql_is_a_value_error(empty) -> None:
    with pytest.raises(ValueError, match="SQL"):
        make_sql_migration(empty, DROP, migration_name="x")
    with pytest.raises(ValueError, match="SQL"):
        make_sql_migration(BUILD, empty, migration_name="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lock_timeout": 0}, "lock_timeout"),
        ({"statement_timeout": -1}, "statement_timeout"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"migration_name": "x" * 256}, "255"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(InvalidDefinition, match=message):
        make_sql_migration(BUILD, DROP, **{"migration_name": "x", **options})


def test_the_constants_are_on_the_model() -> None:
    wanted = {
        "SCHEDULED": "SCHEDULED",
        "STARTED": "STARTED",
        "IN_PROGRESS": "IN PROGRESS",
        "FINISHED": "FINISHED",
        "ERROR": "ERROR",
    }
    assert {name: getattr(AsyncMigrationStatus, f"STATUS_{name}") for name in wanted} == wanted


def test_allowed_to_schedule_it_records_a_row_and_runs_nothing(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    row = row_of(name)
    assert row.status == "SCHEDULED"
    assert (row.sql_forwards, row.sql_backwards, row.database) == (BUILD, DROP, "default")
    assert messages() == 0
    assert index_is_valid("book_title_idx") is None


def test_not_allowed_to_schedule_it_is_started_and_sent(project) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    assert row_of(name).status == "STARTED"
    assert messages() == 1


def test_execute_immediately_does_not_wait(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP, execute_immediately=True)
    project.migrate()
    assert row_of(name).status == "STARTED"
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "FINISHED"
    assert row_of(name).meta["job_id"]


def test_sqlmigrate_runs_nothing_and_shows_the_sql_as_a_comment(project) -> None:
    project.sql("0001_idx", f"{BUILD};\n{ADD}", DROP)
    shown = io.StringIO()
    call_command("sqlmigrate", "bookshop", "0001", stdout=shown, no_color=True)
    assert f"-- {BUILD};\n-- {ADD}" in shown.getvalue()
    assert "CANNOT BE WRITTEN AS SQL" not in shown.getvalue()
    shown = io.StringIO()
    call_command("sqlmigrate", "bookshop", "0001", backwards=True, stdout=shown, no_color=True)
    assert f"-- {DROP}" in shown.getvalue()
    assert not AsyncMigrationStatus.objects.exists()


# --- its measured defects, which do not happen here ---


def test_a_back_and_forward_again_really_runs_again(project) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    assert index_is_valid("book_title_idx") is True
    project.migrate("zero")
    assert (row_of(name).status, row_of(name).direction) == ("STARTED", "backwards")
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "ROLLED BACK"
    assert index_is_valid("book_title_idx") is None
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "FINISHED"
    assert index_is_valid("book_title_idx") is True


def test_f_a_migration_of_another_database_runs_there(project) -> None:
    name = project.sql("0001_idx", f"{BUILD}; {ADD}", DROP)
    project.migrate(database="second")
    assert row_of(name, "second").status == "STARTED"
    assert not lifecycle.rows().filter(database="default").exists()
    tasks.carry_out(row_of(name, "second").pk)
    assert row_of(name, "second").status == "FINISHED"
    assert index_is_valid("book_title_idx", "second") is True
    assert index_is_valid("book_title_idx") is None
    assert (total(), total("second")) == (0, 500)


def test_f_one_file_on_two_databases_is_two_migrations(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    project.migrate(database="second")
    assert list(lifecycle.rows().filter(name=name).values_list("database", flat=True).order_by("database")) == [
        "default",
        "second",
    ]


LOOK = """
def look(apps, schema_editor):
    from tests.db.test_make_sql_migration import messages, seen
    seen.append(messages())
"""
seen: list[int] = []


def test_g_the_message_goes_out_when_migrate_is_through(project) -> None:
    seen.clear()
    project.sql("0001_idx", BUILD, DROP)
    path = project.folder / "0002_look.py"
    project.file("0002_look", "migrations.RunPython(look)")
    path.write_text(LOOK + path.read_text())
    project.migrate()
    assert seen == [0]
    assert messages() == 1


@pytest.mark.parametrize("using", ["default", "second"])
def test_g_a_file_that_was_rolled_back_leaves_neither_row_nor_message(project, using) -> None:
    made = f"make_sql_migration({BUILD!r}, {DROP!r}, migration_name=__name__)"
    project.file("0001_idx", f"migrations.RunPython(*{made}), migrations.RunSQL('SELECT 1 / 0')")
    with pytest.raises(Exception, match="division by zero"):
        project.migrate(database=using)
    connections[using].close()  # As the end of the process would: the session's advisory lock goes with it.
    tasks.reconcile()
    assert not lifecycle.rows().exists()
    assert not AsyncMigrationCheckpoint.objects.using(using).exists()
    assert messages() == 0


@pytest.mark.parametrize("using", ["default", "second"])
def test_l_a_worker_that_hears_of_it_too_early_waits_until_migrate_is_through(project, using) -> None:
    forwards, _ = make_sql_migration(BUILD, DROP, migration_name="books.migrations.0002_x")
    with connections[using].schema_editor() as editor:
        forwards(None, editor)  # type: ignore[arg-type]
    tasks.reconcile()
    row = row_of("books.migrations.0002_x", using)
    assert row.status == "STARTED"
    held = query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted", using)
    assert held[0][0] == 1
    connections[using].close()  # `migrate` dies; the reconciler sends what it did not.
    tasks.carry_out(row.pk)
    assert row_of(row.name, using).status == "FINISHED"


def test_m_the_same_file_twice_changes_nothing(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    before = AsyncMigrationStatus.objects.filter(name=name).values().get()
    query("DELETE FROM django_migrations WHERE app = 'bookshop'")
    project.migrate()
    after = AsyncMigrationStatus.objects.filter(name=name).values().get()
    assert {**before, "outbox_id": None} == {**after, "outbox_id": None}
    assert kinds(row_of(name)) == ["schedule"]


def test_m_a_finished_migration_applied_again_stays_finished(project) -> None:
    name = project.sql("0001_idx", ADD)
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    query("DELETE FROM django_migrations WHERE app = 'bookshop'")
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "FINISHED"
    assert total() == 500


# --- going backwards ---


def test_backwards_over_what_never_ran_runs_nothing(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, "SELECT 1 / 0")
    project.migrate()
    project.migrate("zero")
    assert row_of(name).status == "ROLLED BACK"
    assert kinds(row_of(name)) == ["schedule", "withdraw"]
    project.migrate()
    assert row_of(name).status == "SCHEDULED"


def test_backwards_while_it_is_in_progress_is_refused(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    lifecycle.run(row_of(name).pk, Origin("test"))
    assert lifecycle.claim(row_of(name).pk, "worker") is not None
    with pytest.raises(TransitionRefused, match="cancel it first"):
        project.migrate("zero")
    assert row_of(name).status == "IN PROGRESS"


def test_backwards_over_a_row_that_is_not_there_runs_the_backward_sql(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, ADD)
    call_command("migrate", "bookshop", fake=True, verbosity=0)
    project.migrate("zero")
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "ROLLED BACK"
    assert total() == 500


def test_backwards_over_a_failed_one_undoes_what_it_did(project) -> None:
    name = project.sql("0001_idx", f"{ADD}; SELECT 1 / 0", "UPDATE book SET n = 0")
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "ERROR"
    assert total() == 500
    project.migrate("zero")
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "ROLLED BACK"
    assert total() == 0


def test_backwards_over_one_that_is_scheduled_again_after_a_part_of_it_ran(project, scheduling) -> None:
    name = project.sql("0001_idx", f"{ADD}; SELECT 1 / 0", "UPDATE book SET n = 0")
    project.migrate()
    lifecycle.run(row_of(name).pk, Origin("test"))
    tasks.carry_out(row_of(name).pk)
    lifecycle.cancel(row_of(name).pk, Origin("test"))
    query("DELETE FROM django_migrations WHERE app = 'bookshop'")
    project.migrate()
    assert row_of(name).status == "SCHEDULED"
    project.migrate("zero")
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "ROLLED BACK"
    assert total() == 0


def test_forwards_while_it_is_being_rolled_back_is_refused(project) -> None:
    name = project.sql("0001_idx", ADD)
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    project.migrate("zero")
    with pytest.raises(TransitionRefused, match="wait until it is ROLLED BACK"):
        project.migrate()


# --- changed SQL ---


def test_changed_sql_is_taken_over_while_it_is_not_finished(project, scheduling) -> None:
    name = project.sql("0001_idx", ADD)
    project.migrate()
    old = row_of(name).sql_digest
    query("DELETE FROM django_migrations WHERE app = 'bookshop'")
    project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    row = row_of(name)
    assert (row.status, row.sql_forwards) == ("SCHEDULED", BUILD)
    event = row.events.get(kind="sql_changed")
    assert event.detail == {"old_digest": old, "new_digest": row.sql_digest}


def test_changed_sql_of_a_finished_migration_changes_nothing(project) -> None:
    name = project.sql("0001_idx", ADD)
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    query("DELETE FROM django_migrations WHERE app = 'bookshop'")
    project.sql("0001_idx", "UPDATE book SET n = n + 100")
    project.migrate()
    assert (row_of(name).status, row_of(name).sql_forwards) == ("FINISHED", ADD)


def test_corrected_sql_goes_on_behind_the_statements_that_are_done(project) -> None:
    name = project.sql("0001_idx", f"{ADD}; UPDATE bok SET n = 1")
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).meta["error"]["code"] == "undefined_table"
    query("DELETE FROM django_migrations WHERE app = 'bookshop'")
    project.sql("0001_idx", f"{ADD}; UPDATE book SET title = 'x'")
    project.migrate()
    lifecycle.run(row_of(name).pk, Origin("test"))
    tasks.carry_out(row_of(name).pk)
    assert row_of(name).status == "FINISHED"
    assert total() == 500


# --- databases that are not ready, or not PostgreSQL ---


@pytest.mark.parametrize("using", ["default", "second"])
def test_missing_tables_are_named_with_the_line_to_add(project, using) -> None:
    project.sql("0001_idx", BUILD, DROP)
    table = AsyncMigrationCheckpoint._meta.db_table
    query(f"ALTER TABLE {table} RENAME TO elsewhere", using)
    try:
        with pytest.raises(TablesMissing, match=r'dependencies = \[..., \("async_migrations", "0001_initial"\)\]'):
            project.migrate(database=using)
    finally:
        query(f"ALTER TABLE elsewhere RENAME TO {table}", using)


def test_a_migrate_that_dies_before_its_end_loses_nothing(project) -> None:
    forwards, _ = make_sql_migration(ADD, DROP, migration_name="books.migrations.0002_x")
    with connections["second"].schema_editor() as editor:
        forwards(None, editor)  # type: ignore[arg-type]
    assert not lifecycle.rows().exists()
    tasks.reconcile()
    tasks.reconcile()
    assert row_of("books.migrations.0002_x", "second").status == "STARTED"
    assert kinds(row_of("books.migrations.0002_x", "second")) == ["run"]
    connections["second"].close()


def test_what_migrate_left_to_send_is_sent_by_the_reconciler(project) -> None:
    forwards, _ = make_sql_migration(ADD, DROP, migration_name="books.migrations.0002_x")
    with connections["default"].schema_editor() as editor:
        forwards(None, editor)  # type: ignore[arg-type]
    connections["default"].close()
    tasks.reconcile()
    assert messages() == 0, "a `migrate` that is still going on is left in peace"
    lifecycle.rows().update(requested_at=timezone.now() - timedelta(minutes=1))
    tasks.reconcile()
    assert messages() == 1
    tasks.reconcile()
    assert messages() == 1


def test_an_error_in_the_sql_ends_in_the_row_and_is_final(project) -> None:
    name = project.sql("0001_idx", "UPDATE book SET WHERE")
    project.migrate()
    tasks.carry_out(row_of(name).pk)
    row = row_of(name)
    assert row.status == Status.ERROR
    assert row.meta["error"]["code"] == "syntax_error"
    assert row.meta["error"]["sqlstate"] == "42601"
    assert row.meta["error"]["hint"]
    assert row.attempt == 1


def test_a_request_that_cannot_be_taken_over_yet_keeps_nothing_else_from_going_on(project, scheduling) -> None:
    def asked(operation: str, name: str) -> Request:
        return Request(operation, name, "second", ADD, DROP)

    busy = lifecycle.take_over(asked("run", "books.migrations.0001"))
    lease = lifecycle.claim(busy.pk, "test")
    assert lease is not None
    lifecycle.leave_request(asked("rollback", busy.name))
    later = asked("run", "books.migrations.0002")
    lifecycle.leave_request(later)
    checkpoints = AsyncMigrationCheckpoint.objects.using("second")
    checkpoints.filter(name=later.name).update(outbox={**asdict(later), "of_a_later_version": True})
    lifecycle.leave_request(asked("run", "books.migrations.0003"))
    tasks.reconcile()
    assert row_of("books.migrations.0003", "second").status == "STARTED"
    assert set(checkpoints.filter(outbox__isnull=False).values_list("name", flat=True)) == {busy.name, later.name}
    # And nothing is lost: what was in the way ends, and a worker that knows it comes.
    lifecycle.succeed(lease)
    checkpoints.filter(name=later.name).update(outbox=asdict(later))
    tasks.reconcile()
    assert lifecycle.get(busy.pk).direction == "backwards"
    assert row_of(later.name, "second").status == "STARTED"
    assert not checkpoints.filter(outbox__isnull=False).exists()
