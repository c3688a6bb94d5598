"""The hold, as whoever is in line and whoever is at work meets it."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connections
from django.db.models import F
from django.utils import timezone

from async_migrations import asking, lifecycle, tasks
from async_migrations.errors import ExecutionError
from async_migrations.execution import backfill
from async_migrations.lifecycle import Origin, line
from async_migrations.models import AsyncMigrationHold, AsyncMigrationLane, AsyncMigrationStatus
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import kinds, query, row_of
from tests.db.test_lifecycle import in_threads
from tests.driving import held

pytestmark = pytest.mark.usefixtures("control")

ALICE = Origin("alice", "r-1")
LOCKED = "SELECT pg_advisory_xact_lock(42)"


@pytest.fixture(autouse=True)
def _often(settings) -> None:
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.05


def hold(database: str = "", **options) -> AsyncMigrationHold:
    return lifecycle.set_hold(database, "incident 7", ALICE, **options)


def started(migration: Callable[..., AsyncMigrationStatus], forwards: str = "SELECT 1", **options) -> int:
    row = migration(forwards, **options)
    lifecycle.run(row.pk, ALICE)
    return row.pk


@contextmanager
def at_work(pk: int) -> Iterator[None]:
    """Carry a migration out in another thread; until the block ends LOCKED waits, and then the thread is through."""

    def work() -> None:
        try:
            tasks.carry_out(pk)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    with held("SELECT pg_advisory_lock(42)"):
        thread.start()
        yield
    thread.join(30)
    assert not thread.is_alive()


def two_beats(pk: int) -> None:
    """Wait until the heartbeat has seen what the row and the holds say now, and has acted on it."""
    seen = set()

    def twice() -> bool:
        seen.add(lifecycle.get(pk).heartbeat_at)
        return len(seen) > 2

    eventually(twice, what="two heartbeats")


# --- in line ---


def test_nothing_that_is_held_is_claimed(migration) -> None:
    here = started(migration, name="a")
    hold("default")
    assert lifecycle.claim(here, "worker") is None
    assert lifecycle.claim_first(here, "worker") is None
    assert lifecycle.next_in_line("default") is None
    assert not lifecycle.unclaimed().exists()
    lifecycle.lift_hold("default", ALICE)
    assert lifecycle.claim_first(here, "worker") is not None


def test_a_hold_that_comes_between_the_look_and_the_claim_counts(migration, monkeypatch) -> None:
    pk = started(migration)
    look = line.free_slot

    def looked(row):
        hold()
        return look(row)

    monkeypatch.setattr("async_migrations.lifecycle.leases.free_slot", looked)
    assert lifecycle.claim(pk, "worker") is None
    assert (lifecycle.get(pk).status, lifecycle.get(pk).attempt) == ("STARTED", 0)


def test_what_waits_says_by_whom_and_why_and_says_so_no_more_when_it_is_over(migration) -> None:
    pk, later = started(migration, name="a"), started(migration, name="b")
    lifecycle.rows().filter(pk=later).update(run_at=timezone.now() + timedelta(days=1))
    hold()
    tasks.reconcile()
    assert lifecycle.get(pk).phase == "held by alice: incident 7"
    assert lifecycle.get(later).phase == "", "it waits for its time"
    before = lifecycle.get(pk).updated_at
    tasks.reconcile()
    assert lifecycle.get(pk).updated_at == before, "once"
    lifecycle.lift_hold("", ALICE)
    lifecycle.note_held()
    assert lifecycle.get(pk).phase == ""


def test_a_hold_ends_by_itself_and_its_messages_are_sent_in_the_next_round(migration, monkeypatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(tasks.execute_migration, "send", sent.append)
    pk = started(migration)
    lifecycle.mark_dispatched(lifecycle.get(pk))
    hold(expires_at=timezone.now() + timedelta(hours=1))
    tasks.reconcile()
    assert sent == []
    AsyncMigrationHold.objects.update(expires_at=F("created_at"))
    tasks.reconcile()
    assert sent == [pk]


def test_of_holds_set_at_once_one_is_in_force_and_all_are_in_the_history() -> None:
    in_threads(6, lambda number: lifecycle.set_hold("", f"reason {number}", ALICE), numbered=True)
    assert lifecycle.holds_in_force().count() == 1
    assert lifecycle.holds().count() == 6
    assert lifecycle.holds().filter(lifted_at=None).get() == lifecycle.holds_in_force().get()


def test_claims_and_holds_at_once_leave_nothing_claimed_after_the_hold(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = 20
    pks = [started(migration, name=str(number)) for number in range(20)]
    random.shuffle(pks)

    def work(number: int):
        return hold() if number == 10 else lifecycle.claim(pks[number], "worker")

    set_at = next(found for found in in_threads(20, work, numbered=True) if isinstance(found, AsyncMigrationHold))
    assert all(lifecycle.claim(pk, "worker") is None for pk in pks)
    running = lifecycle.rows().filter(status=Status.IN_PROGRESS)
    assert running.count() + lifecycle.rows().filter(status=Status.STARTED).count() == 20
    assert set_at.lifted_at is None


def test_a_held_line_still_counts_as_waiting(migration) -> None:
    started(migration)
    hold()
    assert lifecycle.waiting().count() == 1
    assert lifecycle.in_line().count() == 0


# --- at work ---


def test_sql_stops_between_two_statements_and_the_attempt_does_not_count(migration, book) -> None:
    pk = started(migration, f"{LOCKED}; UPDATE book SET n = n + 1; UPDATE book SET n = n * 10")
    with at_work(pk):
        eventually(lambda: lifecycle.get(pk).phase.startswith("statement 1"), what="the first statement")
        hold()
        two_beats(pk)
        assert lifecycle.get(pk).status == "IN PROGRESS", "the statement is not interrupted"
    row = lifecycle.get(pk)
    assert (row.status, row.attempt, row.phase) == ("STARTED", 0, "held by alice: incident 7")
    assert (kinds(row)[-2:], query("SELECT sum(n) FROM book")) == (["statement_done", "release"], [(0,)])
    assert row.events.last().detail["reason"] == "held by alice: incident 7"
    lifecycle.lift_hold("", ALICE)
    tasks.carry_out(pk)
    row = lifecycle.get(pk)
    assert (row.status, row.attempt, query("SELECT DISTINCT n FROM book")) == ("FINISHED", 1, [(10,)])
    assert row.events.get(kind="resumed").detail == {"statements_done": 1}


def test_the_last_statement_is_finished(migration, book) -> None:
    pk = started(migration, LOCKED)
    with at_work(pk):
        eventually(lambda: lifecycle.get(pk).phase.startswith("statement 1"), what="the statement")
        hold()
        two_beats(pk)
    assert lifecycle.get(pk).status == "FINISHED"


def test_a_cancel_is_obeyed_although_it_is_held(migration, book) -> None:
    pk = started(migration, f"{LOCKED}; SELECT 1")
    with at_work(pk):
        eventually(lambda: lifecycle.get(pk).phase.startswith("statement 1"), what="the first statement")
        hold()
        two_beats(pk)
        lifecycle.cancel(pk, ALICE)
        eventually(lambda: lifecycle.get(pk).status == "CANCELLED", what="the end")


@pytest.mark.parametrize(("verb", "end"), [(lifecycle.cancel, "CANCELLED"), (lifecycle.pause, "PAUSED")])
def test_what_was_given_back_is_stopped_although_it_is_held(migration, book, verb, end) -> None:
    pk = started(migration, f"{LOCKED}; SELECT 1")
    with at_work(pk):
        eventually(lambda: lifecycle.get(pk).phase.startswith("statement 1"), what="the first statement")
        hold()
        two_beats(pk)
    assert lifecycle.get(pk).status == "STARTED"
    verb(pk, ALICE)
    tasks.carry_out(pk)
    assert lifecycle.get(pk).status == end


def test_what_is_to_be_stopped_does_not_say_that_it_is_held(migration) -> None:
    kept, stopped = (started(migration, name=name) for name in ("kept", "stopped"))
    lifecycle.rows().filter(pk=stopped).update(has_run=True)
    hold()
    lifecycle.cancel(stopped, ALICE)
    lifecycle.note_held()
    assert lifecycle.get(kept).phase == "held by alice: incident 7"
    assert lifecycle.get(stopped).phase == ""


def test_a_hold_on_another_database_stops_nothing(migration, book) -> None:
    pk = started(migration, f"{LOCKED}; SELECT 1")
    with at_work(pk):
        eventually(lambda: lifecycle.get(pk).phase.startswith("statement 1"), what="the first statement")
        hold("second")
        two_beats(pk)
    assert lifecycle.get(pk).status == "FINISHED"


def test_a_backfill_stops_behind_a_batch_and_goes_on_from_there(project, settings) -> None:
    settings.ALLOW_SCHEDULED_MIGRATIONS = True
    options = "table='book', update='n = n + 1', batch_size=10, batch_delay_seconds=0.05"
    name = project.file(
        "0001_fill", f"migrations.RunPython(*make_backfill_migration({options}, migration_name=__name__))"
    )
    project.migrate()
    pk = row_of(name).pk
    lifecycle.run(pk, ALICE)
    with at_work(pk):
        eventually(lambda: query("SELECT 1 FROM book WHERE n = 1"), what="a batch")
        hold()
    row = lifecycle.get(pk)
    assert (row.status, row.attempt, row.phase) == ("STARTED", 0, "held by alice: incident 7")
    ((done,),) = query("SELECT sum(n) FROM book")
    assert 0 < done < 500
    backfill.help_out(pk, "helper")
    assert query("SELECT sum(n) FROM book") == [(done,)], "nobody helps with what is held"
    lifecycle.lift_hold("", ALICE)
    tasks.carry_out(pk)
    assert (lifecycle.get(pk).status, query("SELECT DISTINCT n FROM book")) == ("FINISHED", [(1,)])


def test_who_helps_with_a_lane_stops_behind_a_batch_as_well(project, settings) -> None:
    settings.ALLOW_SCHEDULED_MIGRATIONS = True
    options = "table='book', update='n = n + 1', lanes=2, batch_size=5, batch_delay_seconds=0.05"
    name = project.file(
        "0001_fill", f"migrations.RunPython(*make_backfill_migration({options}, migration_name=__name__))"
    )
    project.migrate()
    pk = row_of(name).pk
    lifecycle.run(pk, ALICE)

    def work(number: int) -> None:
        if number == 0:
            tasks.carry_out(pk)
        elif number == 1:
            eventually(lambda: AsyncMigrationLane.objects.exclude(worker="").exists(), what="a lane at work")
            backfill.help_out(pk, "helper")
        else:
            eventually(
                lambda: AsyncMigrationLane.objects.filter(worker="helper", rows_done__gt=0).exists(), what="help"
            )
            hold()

    in_threads(3, work, numbered=True)
    assert lifecycle.get(pk).status == "STARTED"
    assert not AsyncMigrationLane.objects.filter(token__isnull=False).exists(), "nobody is at work"
    ((done,),) = query("SELECT sum(n) FROM book")
    assert 0 < done < 500
    lifecycle.lift_hold("", ALICE)
    tasks.carry_out(pk)
    assert (lifecycle.get(pk).status, query("SELECT DISTINCT n FROM book")) == ("FINISHED", [(1,)])


# --- without a broker ---


def test_without_a_broker_what_was_held_is_carried_out_when_the_hold_is_lifted(migration, monkeypatch) -> None:
    monkeypatch.setattr(tasks, "broker_is_configured", lambda: False)
    row = migration("SELECT 1")
    hold()
    assert asking.ask("run", row.pk, ALICE).migration.status == "STARTED"
    asking.lift("", ALICE)
    assert lifecycle.get(row.pk).status == "FINISHED"


def test_without_a_broker_a_back_off_that_is_held_ends_the_wait(migration, monkeypatch) -> None:
    monkeypatch.setattr(tasks, "broker_is_configured", lambda: False)
    pk = started(migration)
    lease = lifecycle.claim(pk, "worker")
    assert lease is not None
    lost = ExecutionError(code="connection_lost", message=str(uuid.uuid4()), retryable=True)
    lifecycle.release(lease, error=lost, delay=timedelta(days=1))
    hold()
    tasks._carry_out_here(pk)
    assert lifecycle.get(pk).status == "STARTED"


def test_who_looks_before_setting_one_is_not_overtaken() -> None:
    def set_where_nothing_is_held(number: int) -> AsyncMigrationHold | None:
        with lifecycle.changing_holds():
            if lifecycle.holds_in_force().exists():
                return None
            return lifecycle.set_hold("", f"incident {number}", ALICE)

    made = in_threads(8, set_where_nothing_is_held, numbered=True)
    assert len([hold for hold in made if hold]) == AsyncMigrationHold.objects.count() == 1
