"""`require_finished` as a host project sees it: real migration files, applied with `migrate`."""

from __future__ import annotations

import io
import threading
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.writer import OperationWriter

from async_migrations import lifecycle, tasks
from async_migrations.errors import InvalidDefinition, NotFinished
from async_migrations.lifecycle import Origin, Request
from async_migrations.migration_helpers import require_finished
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import carried_out, index_is_valid, query, row_of

BUILD = "CREATE INDEX CONCURRENTLY book_title_idx ON book (title)"
DROP = "DROP INDEX CONCURRENTLY IF EXISTS book_title_idx"
ORIGIN = Origin("test")


@pytest.fixture
def scheduling(settings) -> None:
    settings.ALLOW_SCHEDULED_MIGRATIONS = True


@pytest.fixture
def no_broker(monkeypatch) -> None:
    monkeypatch.setattr(tasks, "broker_is_configured", lambda: False)


def later(project, *names: str, before: str = "", behind: str = "", file: str = "0002_later", **options) -> None:
    """Write a migration file that needs these."""
    needs = ", ".join([*map(repr, names), *(f"{key}={value!r}" for key, value in options.items())])
    change = "migrations.RunSQL('UPDATE book SET n = n + 1', '')"
    project.file(file, f"{before} require_finished({needs}), {change}, {behind}")


def applied() -> list[str]:
    return [name for (name,) in query("SELECT name FROM django_migrations WHERE app = 'bookshop' ORDER BY id")]


def in_a_thread(work) -> threading.Thread:
    def alone() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=alone)
    thread.start()
    return thread


# --- scheduling allowed: `migrate` only records ---


def test_it_stops_until_somebody_has_run_it(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    later(project, name)
    with pytest.raises(NotFinished) as refused:
        project.migrate()
    pk = row_of(name).pk
    assert f"{name} (id {pk}) is SCHEDULED" in str(refused.value)
    assert f"manage.py async_migrations run {pk} --wait" in str(refused.value)
    assert (applied(), query("SELECT sum(n) FROM book")) == (["0001_idx"], [(0,)])
    assert carried_out(row_of(name)).status == "FINISHED"
    project.migrate()
    assert (applied(), query("SELECT sum(n) FROM book")) == (["0001_idx", "0002_later"], [(500,)])


def paused_on_the_way_back(pk: int) -> None:
    lifecycle.run(pk, ORIGIN)
    tasks.carry_out(pk)
    lifecycle.rollback(pk, ORIGIN)
    lifecycle.pause(pk, ORIGIN)
    tasks.carry_out(pk)
    assert lifecycle.get(pk).status == "PAUSED"


def going_back(pk: int) -> None:
    paused_on_the_way_back(pk)
    lifecycle.resume(pk, ORIGIN)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda pk: lifecycle.run(pk, ORIGIN), "async_migrations wait"),
        (lambda pk: (lifecycle.run(pk, ORIGIN), lifecycle.pause(pk, ORIGIN)), "async_migrations resume"),
        (lambda pk: lifecycle.cancel(pk, ORIGIN), "async_migrations run"),
        (lambda pk: (lifecycle.run(pk, ORIGIN), lifecycle.set_hold("", "incident", ORIGIN)), "lift, or DELETE"),
        (
            lambda pk: (lifecycle.run(pk, ORIGIN), lifecycle.set_hold("default", "incident", ORIGIN)),
            r"lift --database default, or DELETE .*\?database=default",
        ),
        (paused_on_the_way_back, "async_migrations run"),
        (going_back, "`run` carries it out again"),
    ],
    ids=["in line", "paused", "cancelled", "held", "its database held", "paused backwards", "going backwards"],
)
def test_the_error_says_what_to_do(project, scheduling, ask, says) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    later(project, name)
    ask(row_of(name).pk)
    with pytest.raises(NotFinished, match=says):
        project.migrate()


def test_a_name_that_is_not_there_is_refused(project, scheduling) -> None:
    later(project, "books.migrations.0099_typo", file="0001_later")
    with pytest.raises(
        NotFinished, match=r"books.migrations.0099_typo: There is no migration of this name.* renamed or squashed"
    ):
        project.migrate()


def test_it_waits_for_so_long(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    later(project, name, wait=timedelta(seconds=60).total_seconds())
    worker = in_a_thread(lambda: carried_out(row_of(name)))
    project.migrate()
    worker.join()
    assert applied() == ["0001_idx", "0002_later"]
    assert index_is_valid("book_title_idx")


def test_it_waits_no_longer_for_what_has_failed(project, scheduling) -> None:
    name = project.sql("0001_idx", "SELECT 1/0", DROP)
    project.migrate()
    assert carried_out(row_of(name)).status == "ERROR"
    later(project, name, wait=3600)
    with pytest.raises(NotFinished, match="division by zero"):
        project.migrate()


def test_what_begins_immediately_is_not_kept_back_by_this_migrate(project, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP, execute_immediately=True)
    later(project, name, wait=60)
    sent = lifecycle.rows().filter(name=name, dispatched_at__isnull=False)

    def work() -> None:
        eventually(sent.exists, what="the message")
        tasks.carry_out(row_of(name).pk)

    worker = in_a_thread(work)
    project.migrate()
    worker.join()
    assert applied() == ["0001_idx", "0002_later"]


# --- scheduling off: all of it goes through by itself ---


def test_with_scheduling_off_it_is_carried_out(project) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    later(project, name)
    project.migrate()
    assert (row_of(name).status, index_is_valid("book_title_idx")) == ("FINISHED", True)
    assert applied() == ["0001_idx", "0002_later"]


def test_without_a_broker_it_is_carried_out(project, no_broker) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    later(project, name)
    project.migrate()
    assert applied() == ["0001_idx", "0002_later"]


def test_without_a_broker_what_is_recorded_waits_for_somebody(project, no_broker, scheduling) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    later(project, name)
    with pytest.raises(NotFinished, match="SCHEDULED"):
        project.migrate()
    assert row_of(name).status == "SCHEDULED"


def test_what_was_recorded_before_is_carried_out_too(project, settings) -> None:
    settings.ALLOW_SCHEDULED_MIGRATIONS = True
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    settings.ALLOW_SCHEDULED_MIGRATIONS = False
    later(project, name)
    project.migrate()
    assert row_of(name).status == "FINISHED"


def test_what_comes_before_it_in_line_is_carried_out_and_what_comes_behind_is_left(project) -> None:
    first = project.sql("0001_a", "UPDATE book SET n = 1")
    second = project.sql("0002_b", "UPDATE book SET n = n * 10")
    third = project.sql("0003_c", "UPDATE book SET n = 1000")
    later(project, second, file="0004_later")
    project.migrate()
    assert [row_of(name).status for name in (first, second, third)] == ["FINISHED", "FINISHED", "STARTED"]
    assert query("SELECT DISTINCT n FROM book") == [(11,)]


def test_a_failure_stops_migrate_and_says_why(project) -> None:
    name = project.sql("0001_idx", "SELECT 1/0", DROP)
    later(project, name)
    with pytest.raises(NotFinished, match="division by zero"):
        project.migrate()
    assert applied() == ["0001_idx"]


def test_a_back_off_is_waited_for(project, settings) -> None:
    settings.ASYNC_MIGRATIONS_BACKOFF_SECONDS = 0.2
    unless = "IF NOT EXISTS (SELECT FROM book WHERE n = 7) THEN RAISE 'x' USING errcode = '40001'; END IF;"
    name = project.sql("0001_idx", f"DO $$ BEGIN {unless} END $$")
    later(project, name)
    helper = in_a_thread(
        lambda: (
            eventually(lambda: lifecycle.rows().filter(name=name, attempt__gte=1, status="STARTED").exists())
            and query("UPDATE book SET n = 7 WHERE id = 1")
        )
    )
    project.migrate()
    helper.join()
    assert row_of(name).attempt > 1


def test_what_another_worker_has_is_waited_for(project) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    later(project, name)
    lease = lifecycle.claim(row_of(name).pk, "elsewhere")
    assert lease is not None

    def work() -> None:
        eventually(lambda: query("SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction'"))
        lifecycle.succeed(lease)

    worker = in_a_thread(work)
    project.migrate()
    worker.join()
    assert applied() == ["0001_idx", "0002_later"]


# --- what else there is ---


def test_it_must_not_wait_behind_a_change_of_its_own_file(project) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    later(project, name, before="migrations.RunSQL('UPDATE book SET n = 5', ''),")
    with pytest.raises(NotFinished, match="Put it first"):
        project.migrate()
    assert query("SELECT sum(n) FROM book") == [(0,)]


def test_backwards_it_asks_for_nothing(project) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    later(project, name)
    project.migrate()
    carried_out(row_of(name), backwards=True)
    project.migrate("0001_idx")
    assert applied() == ["0001_idx"]


def test_the_row_of_the_database_that_is_migrated_counts(project, settings) -> None:
    settings.ALLOW_SCHEDULED_MIGRATIONS = True
    name = project.sql("0001_idx", BUILD, DROP)
    project.migrate()
    carried_out(row_of(name))
    later(project, name)
    project.migrate()
    with pytest.raises(NotFinished, match="'second'"):
        project.migrate(database="second")
    settings.ALLOW_SCHEDULED_MIGRATIONS = False
    project.migrate(database="second")
    assert row_of(name, "second").status == "FINISHED"
    assert index_is_valid("book_title_idx", "second")


def test_from_nothing_on_another_database_than_that_of_the_rows(project) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    later(project, name)
    project.migrate(database="second")
    assert row_of(name, "second").status == "FINISHED"
    assert not AsyncMigrationStatus.objects.filter(database="default").exists()


def test_where_a_router_keeps_the_app_out_it_asks_for_nothing(project, settings, scheduling) -> None:
    settings.DATABASE_ROUTERS = ["tests.db.test_require_finished.KeepOut"]
    later(project, project.sql("0001_idx", BUILD, DROP))
    project.migrate(database="second")


class KeepOut:
    def allow_migrate(self, db, app_label, **hints):
        return False if (db, app_label) == ("second", "bookshop") else None


def test_sqlmigrate_shows_it_and_the_plan_names_it(project) -> None:
    name = project.sql("0001_idx", BUILD, DROP)
    later(project, name)
    shown = io.StringIO()
    call_command("sqlmigrate", "bookshop", "0002", stdout=shown, no_color=True)
    assert f"-- Require that async migrations are FINISHED: {name}" in shown.getvalue()
    assert not AsyncMigrationStatus.objects.exists()


def test_it_can_be_written_into_a_squashed_file() -> None:
    text, imports = OperationWriter(require_finished("a", "b", wait=5), indentation=0).serialize()
    assert "RequireFinished" in text
    assert imports == {"import async_migrations.requiring"}


@pytest.mark.parametrize(
    ("names", "options"),
    [((), {}), (("",), {}), *((("a",), {"wait": wait}) for wait in (-1, float("inf"), None, "x"))],
)
def test_nonsense_is_refused(names, options) -> None:
    with pytest.raises(InvalidDefinition):
        require_finished(*names, **options)


def test_an_unknown_row_of_the_same_name_elsewhere_does_not_count(project, scheduling) -> None:
    lifecycle.take_over(Request("schedule", "books.x", "second", "SELECT 1", "SELECT 1"))
    pk = row_of("books.x", "second").pk
    lifecycle.run(pk, ORIGIN)
    tasks.carry_out(pk)
    assert lifecycle.get(pk).status == Status.FINISHED
    later(project, "books.x", file="0001_later")
    with pytest.raises(NotFinished, match="on database default"):
        project.migrate()
