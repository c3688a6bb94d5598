"""Every status and every verb: what the table of transitions allows happens, everything else is refused."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import IntegrityError, connections
from django.utils import timezone

from async_migrations import lifecycle, states
from async_migrations.errors import ExecutionError, LeaseLost, TransitionRefused
from async_migrations.lifecycle import Origin, Request
from async_migrations.states import Status
from tests.db.conftest import kinds

pytestmark = pytest.mark.usefixtures("control")
ALICE = Origin("alice", "request-1")
BROKEN = ExecutionError(code="syntax_error", message="no")


def in_status(status: str, migration):
    """Bring a fresh migration into a status, by the moves that lead there."""
    row = migration("SELECT 1")
    if status == Status.SCHEDULED:
        return row
    if status == Status.PAUSED:  # No move of this version leads there; the table knows it for those that come.
        lifecycle.rows().filter(pk=row.pk).update(status=status)
        return lifecycle.get(row.pk)
    lifecycle.run(row.pk, ALICE)
    if status != Status.STARTED:
        lease = lifecycle.claim(row.pk, "worker")
        assert lease is not None
        if status == Status.FINISHED:
            lifecycle.succeed(lease)
        elif status == Status.ERROR:
            lifecycle.fail(lease, BROKEN)
        elif status == Status.CANCELLED:
            lifecycle.cancelled(lease)
        elif status == Status.ROLLED_BACK:
            lifecycle.succeed(lease)
            lifecycle.rollback(row.pk, ALICE)
            backwards = lifecycle.claim(row.pk, "worker")
            assert backwards is not None
            lifecycle.succeed(backwards)
    return lifecycle.get(row.pk)


VERBS = {"run": lifecycle.run, "rollback": lifecycle.rollback, "cancel": lifecycle.cancel}
RESULT = {"run": Status.STARTED, "rollback": Status.STARTED, "cancel": Status.CANCELLED}
# Asking for what is under way or has happened already changes nothing.
HARMLESS = {
    "run": {Status.STARTED, Status.IN_PROGRESS, Status.FINISHED},
    "rollback": {Status.ROLLED_BACK},
    "cancel": {Status.CANCELLED},
}


@pytest.mark.parametrize("status", Status.values)
@pytest.mark.parametrize("verb", VERBS)
def test_all_pairs(migration, verb, status) -> None:
    row = in_status(status, migration)
    assert row.status == status
    if status in HARMLESS[verb]:
        answer = VERBS[verb](row.pk, ALICE)
        assert (answer.changed, answer.migration.status) == (False, status)
    elif verb not in states.verbs_from(status):
        with pytest.raises(TransitionRefused) as refusal:
            VERBS[verb](row.pk, ALICE)
        assert refusal.value.allowed == states.verbs_from(status)
        assert lifecycle.get(row.pk).status == status
    else:
        answer = VERBS[verb](row.pk, ALICE)
        asked = status == Status.IN_PROGRESS
        never_ran = verb == "rollback" and not row.has_run
        expected = Status.ROLLED_BACK if never_ran else status if asked else RESULT[verb]
        assert (answer.changed, answer.migration.status) == (True, expected)
        assert row.events.last().by == "alice"
        assert row.events.last().request_id == "request-1"


def test_cancel_of_what_is_in_progress_leaves_a_request(migration) -> None:
    row = in_status(Status.IN_PROGRESS, migration)
    assert lifecycle.cancel(row.pk, ALICE).migration.stop_requested == "cancel"
    assert not lifecycle.cancel(row.pk, ALICE).changed


def test_cancel_of_what_waits_for_another_attempt_is_left_to_a_worker(migration) -> None:
    row = in_status(Status.STARTED, migration)
    lease = lifecycle.claim(row.pk, "worker")
    assert lease is not None
    lifecycle.release(lease, error=ExecutionError(code="deadlock", message="no"), delay=timedelta(hours=1))
    assert lifecycle.claim(row.pk, "worker") is None, "the back-off is not over"
    answer = lifecycle.cancel(row.pk, ALICE).migration
    assert (answer.status, answer.stop_requested, answer.run_at) == (Status.STARTED, "cancel", None)
    assert lifecycle.claim(row.pk, "worker") is not None


def test_one_of_many_wins_the_claim(migration) -> None:
    row = in_status(Status.STARTED, migration)
    leases = in_threads(12, lambda: lifecycle.claim(row.pk, "worker"))
    assert len([lease for lease in leases if lease]) == 1
    assert kinds(row).count("claim") == 1


def test_one_migration_at_a_time_on_a_database(migration) -> None:
    rows = [migration("SELECT 1", name=f"m{number}") for number in range(8)]
    for row in rows:
        lifecycle.run(row.pk, ALICE)
    leases = in_threads(8, lambda number: lifecycle.claim(rows[number].pk, "worker"), numbered=True)
    (held,) = [lease for lease in leases if lease]
    assert lifecycle.next_in_line("default") is None
    lifecycle.succeed(held)
    assert lifecycle.next_in_line("default") == min(row.pk for row in rows if row.pk != held.pk)


def test_more_at_once_where_the_setting_says_so(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = 3
    rows = [migration("SELECT 1", name=f"m{number}") for number in range(5)]
    for row in rows:
        lifecycle.run(row.pk, ALICE)
    assert [bool(lifecycle.claim(row.pk, "worker")) for row in rows] == [True, True, True, False, False]


def test_a_lease_that_ran_out_is_reaped_and_its_holder_writes_nothing_more(migration) -> None:
    row = in_status(Status.STARTED, migration)
    lease = lifecycle.claim(row.pk, "worker")
    assert lease is not None
    assert lifecycle.reap() == []
    lifecycle.rows().update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    assert lifecycle.reap() == [row.pk]
    for write in (
        lambda: lifecycle.renew(lease),
        lambda: lifecycle.succeed(lease),
        lambda: lifecycle.fail(lease, BROKEN),
        lambda: lifecycle.release(lease),
        lambda: lifecycle.cancelled(lease),
        lambda: lifecycle.note(lease, "x"),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert lifecycle.get(row.pk).status == Status.STARTED


def test_a_lease_that_runs_out_in_the_last_attempt_ends_in_error(migration) -> None:
    row = migration("SELECT 1", max_attempts=1)
    lifecycle.run(row.pk, ALICE)
    assert lifecycle.claim(row.pk, "worker-7") is not None
    lifecycle.rows().update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    lifecycle.reap()
    error = lifecycle.get(row.pk).meta["error"]
    assert error["code"] == "worker_lost"
    assert "worker-7" in error["message"]


def test_a_released_attempt_without_an_error_does_not_count(migration) -> None:
    row = in_status(Status.STARTED, migration)
    for _ in range(7):
        lease = lifecycle.claim(row.pk, "worker")
        assert lease is not None
        assert lease.attempt == 1
        lifecycle.release(lease)


def test_run_at_keeps_it_in_line_until_then(migration) -> None:
    row = migration("SELECT 1")
    lifecycle.run(row.pk, ALICE, run_at=timezone.now() + timedelta(hours=1))
    assert lifecycle.claim(row.pk, "worker") is None
    assert not lifecycle.unclaimed().exists()
    lifecycle.rows().update(run_at=timezone.now() - timedelta(seconds=1))
    assert lifecycle.unclaimed().get().pk == row.pk
    assert lifecycle.claim(row.pk, "worker") is not None


def test_two_who_ask_at_once_leave_one_trace(migration) -> None:
    row = migration("SELECT 1")
    answers = in_threads(8, lambda: lifecycle.run(row.pk, ALICE))
    assert sum(answer.changed for answer in answers) == 1
    assert kinds(row) == ["schedule", "run"]


def test_two_migrates_at_once_make_one_row(migration) -> None:
    requests = [Request("schedule", "m", "default", "SELECT 1", "SELECT 2") for _ in range(6)]
    in_threads(6, lambda number: lifecycle.take_over(requests[number]), numbered=True)
    assert lifecycle.rows().count() == 1


@pytest.mark.parametrize(
    "lie",
    [
        {"status": "IN PROGRESS"},
        {"status": "FINISHED"},
        {"status": "DONE"},
        {"attempt": 6},
        {"kind": "x"},
        {"direction": "sideways"},
        {"status": "FINISHED", "direction": "backwards", "finished_at": timezone.now()},
        {"status": "ROLLED BACK", "finished_at": timezone.now()},
        {"finished_at": timezone.now()},
    ],
)
def test_the_database_refuses_what_the_code_promises_never_to_write(migration, lie) -> None:
    row = migration("SELECT 1")
    with pytest.raises(IntegrityError):
        lifecycle.rows().filter(pk=row.pk).update(**lie)


def in_threads(count, work, *, numbered: bool = False) -> list:
    """Do the same in several threads that begin together; return what each returned."""
    results: list = [None] * count
    together = threading.Barrier(count)

    def body(number: int) -> None:
        try:
            together.wait(10)
            results[number] = work(number) if numbered else work()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.mark.parametrize("operation", ["schedule", "rollback"])
def test_the_sql_of_what_is_in_progress_does_not_change_under_it(migration, operation) -> None:
    row = in_status(Status.FINISHED if operation == "rollback" else Status.STARTED, migration)
    if operation == "rollback":
        lifecycle.rollback(row.pk, ALICE)
    assert lifecycle.claim(row.pk, "worker") is not None
    with pytest.raises(TransitionRefused, match="with other SQL"):
        lifecycle.take_over(Request(operation, row.name, "default", "SELECT 2", "SELECT 3"))
    assert lifecycle.get(row.pk).sql_digest == row.sql_digest
