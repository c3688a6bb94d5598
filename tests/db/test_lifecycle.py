"""Every status and every verb: what the table of transitions allows happens, everything else is refused."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connections
from django.utils import timezone

from async_migrations import lifecycle, states
from async_migrations.errors import ExecutionError, LeaseLost, TransitionRefused
from async_migrations.lifecycle import Origin, Request
from async_migrations.limits import OutOfLimits
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
        elif status == Status.PAUSED:
            lifecycle.pause(row.pk, ALICE)
            lifecycle.paused(lease)
        elif status == Status.ROLLED_BACK:
            lifecycle.succeed(lease)
            lifecycle.rollback(row.pk, ALICE)
            backwards = lifecycle.claim(row.pk, "worker")
            assert backwards is not None
            lifecycle.succeed(backwards)
    return lifecycle.get(row.pk)


VERBS = {
    "run": lifecycle.run,
    "pause": lifecycle.pause,
    "resume": lifecycle.resume,
    "cancel": lifecycle.cancel,
    "rollback": lifecycle.rollback,
}
RESULT = {
    "run": Status.STARTED,
    "pause": Status.PAUSED,
    "resume": Status.STARTED,
    "cancel": Status.CANCELLED,
    "rollback": Status.STARTED,
}
# Asking for what is under way or has happened already changes nothing.
HARMLESS = {
    "run": {Status.STARTED, Status.IN_PROGRESS, Status.FINISHED},
    "rollback": {Status.ROLLED_BACK},
    "cancel": {Status.CANCELLED},
    "pause": {Status.PAUSED},
    "resume": {Status.STARTED, Status.IN_PROGRESS, Status.FINISHED, Status.ROLLED_BACK},
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


def test_cancel_of_what_a_worker_gave_back_is_left_to_a_worker(migration) -> None:
    row, lease = begun(migration)
    lifecycle.release(lease)
    answer = lifecycle.cancel(row.pk, ALICE).migration
    assert (answer.status, answer.attempt, answer.stop_requested) == (Status.STARTED, 0, "cancel")


@pytest.mark.parametrize("code", ["worker_lost", "connection_lost"])
def test_cancel_of_what_may_run_on_behind_an_error_is_left_to_a_worker(migration, code) -> None:
    row, lease = begun(migration, max_attempts=1)
    lifecycle.fail(lease, ExecutionError(code=code, message="no"))
    answer = lifecycle.cancel(row.pk, ALICE)
    assert (answer.changed, answer.migration.status, answer.migration.stop_requested) == (True, "STARTED", "cancel")
    assert not lifecycle.cancel(row.pk, ALICE).changed
    again = lifecycle.claim(row.pk, "worker")
    assert again is not None
    lifecycle.cancelled(again)
    assert kinds(row)[-3:] == ["cancel", "claim", "cancel"]


def begun(migration, **options):
    """A fresh migration, and the lease of the worker that has begun it."""
    row = migration("SELECT 1", **options)
    lifecycle.run(row.pk, ALICE)
    lease = lifecycle.claim(row.pk, "worker")
    assert lease is not None
    return row, lease


class TestPausing:
    def test_what_is_in_progress_stops_at_the_next_checkpoint_and_goes_on_from_there(self, migration) -> None:
        row, lease = begun(migration)
        assert lifecycle.renew(lease, progress_done=5, progress_total=9, eta_seconds=4, progress_rate=1.0).stop is None
        asked = lifecycle.pause(row.pk, ALICE)
        assert (asked.changed, asked.migration.status, asked.migration.stop_requested) == (True, "IN PROGRESS", "pause")
        assert not lifecycle.pause(row.pk, ALICE).changed
        assert lifecycle.renew(lease).stop == "pause"
        lifecycle.paused(lease)
        paused = lifecycle.get(row.pk)
        assert (paused.status, paused.stop_requested, paused.attempt) == (Status.PAUSED, None, 0)
        assert (paused.progress_done, paused.progress_total) == (5, 9)
        assert (paused.eta_seconds, paused.progress_rate) == (None, None), "what rests has no pace"
        assert not lifecycle.pause(row.pk, ALICE).changed
        resumed = lifecycle.resume(row.pk, Origin("bob")).migration
        assert (resumed.status, resumed.requested_by, resumed.progress_done) == (Status.STARTED, "bob", 5)
        assert resumed.started_at == paused.started_at
        assert not lifecycle.resume(row.pk, ALICE).changed
        assert kinds(row) == ["schedule", "run", "claim", "pause_requested", "pause", "resume"]

    def test_the_attempts_count_from_zero_again(self, migration) -> None:
        row, lease = begun(migration, max_attempts=2)
        lifecycle.release(lease, error=ExecutionError(code="deadlock", message="no"))
        second = lifecycle.claim(row.pk, "worker")
        assert second is not None
        lifecycle.pause(row.pk, ALICE)
        lifecycle.paused(second)
        assert lifecycle.get(row.pk).attempt == 1, "an attempt that obeyed does not count"
        assert lifecycle.resume(row.pk, ALICE).migration.attempt == 0

    @pytest.fixture
    def paused_rollback(self, migration):
        row = in_status(Status.FINISHED, migration)
        lifecycle.rollback(row.pk, ALICE)
        lease = lifecycle.claim(row.pk, "worker")
        assert lease is not None
        lifecycle.pause(row.pk, ALICE)
        lifecycle.paused(lease)
        return lifecycle.get(row.pk)

    def test_a_rollback_goes_on_backwards(self, paused_rollback) -> None:
        resumed = lifecycle.resume(paused_rollback.pk, ALICE).migration
        assert (resumed.status, resumed.direction) == (Status.STARTED, "backwards")
        lease = lifecycle.claim(resumed.pk, "worker")
        assert lease is not None
        lifecycle.succeed(lease)
        assert not lifecycle.resume(resumed.pk, ALICE).changed, "a lost answer may be asked for again"

    def test_run_turns_a_paused_rollback_round(self, paused_rollback) -> None:
        assert lifecycle.run(paused_rollback.pk, ALICE).migration.direction == "forwards"

    def test_what_no_worker_has_begun_is_paused_at_once_and_keeps_its_time(self, migration) -> None:
        row = migration("SELECT 1")
        tonight = timezone.now() + timedelta(hours=1)
        lifecycle.run(row.pk, ALICE, run_at=tonight)
        assert lifecycle.pause(row.pk, ALICE).migration.status == Status.PAUSED
        assert lifecycle.claim(row.pk, "worker") is None
        assert lifecycle.resume(row.pk, ALICE).migration.run_at == tonight
        assert lifecycle.claim(row.pk, "worker") is None

    @pytest.mark.parametrize("verb", [lifecycle.run, lifecycle.rollback])
    def test_what_was_asked_for_anew_is_left_to_a_worker_that_knows_what_still_runs(self, migration, verb) -> None:
        row, _ = begun(migration, max_attempts=1)
        lifecycle.rows().update(lease_expires_at=timezone.now() - timedelta(seconds=1))
        lifecycle.reap()
        assert verb(row.pk, ALICE).migration.attempt == 0
        asked = lifecycle.pause(row.pk, ALICE).migration
        assert (asked.status, asked.stop_requested) == (Status.STARTED, "pause")

    def test_a_time_that_was_asked_for_outlives_a_pause(self, migration) -> None:
        row, lease = begun(migration)
        lifecycle.fail(lease, ExecutionError(code="syntax_error", message="no"))
        tonight = timezone.now() + timedelta(hours=1)
        lifecycle.run(row.pk, ALICE, run_at=tonight)
        asked = lifecycle.pause(row.pk, ALICE).migration
        assert (asked.stop_requested, asked.run_at) == ("pause", tonight)
        lease = lifecycle.claim(row.pk, "worker")
        assert lease is not None, "it is stopped at once"
        lifecycle.paused(lease)
        assert lifecycle.get(row.pk).status == Status.PAUSED
        assert lifecycle.resume(row.pk, ALICE).migration.run_at == tonight
        assert lifecycle.claim(row.pk, "worker") is None

    def test_it_rests_without_a_pace(self, migration) -> None:
        row, lease = begun(migration)
        lifecycle.renew(lease, progress_done=5, eta_seconds=4, progress_rate=1.0)
        lifecycle.pause(row.pk, ALICE)
        lifecycle.paused(lease)
        paused = lifecycle.get(row.pk)
        assert paused.status == Status.PAUSED
        assert (paused.progress_done, paused.eta_seconds, paused.progress_rate) == (5, None, None)

    def test_a_back_off_is_left_to_a_worker_that_knows_what_still_runs(self, migration) -> None:
        row, lease = begun(migration)
        lifecycle.release(lease, error=ExecutionError(code="deadlock", message="no"), delay=timedelta(hours=1))
        asked = lifecycle.pause(row.pk, ALICE).migration
        assert (asked.status, asked.stop_requested, asked.run_at) == (Status.STARTED, "pause", None)
        next_one = lifecycle.claim(row.pk, "worker")
        assert next_one is not None
        assert next_one.migration.stop_requested == "pause"
        lifecycle.paused(next_one)
        assert lifecycle.get(row.pk).status == Status.PAUSED

    def test_a_worker_that_dies_leaves_the_request_to_the_next(self, migration) -> None:
        row, _ = begun(migration, max_attempts=1)
        lifecycle.pause(row.pk, ALICE)
        lifecycle.rows().update(lease_expires_at=timezone.now() - timedelta(seconds=1))
        lifecycle.reap()
        left = lifecycle.get(row.pk)
        assert (left.status, left.stop_requested) == (Status.STARTED, "pause"), "its statement may still be running"
        assert lifecycle.cancel(row.pk, ALICE).migration.status == Status.STARTED, "and leave something behind"
        lease = lifecycle.claim(row.pk, "worker")
        assert lease is not None
        lifecycle.cancelled(lease)

    def test_resume_takes_back_what_was_not_obeyed_yet(self, migration) -> None:
        row, lease = begun(migration)
        lifecycle.pause(row.pk, ALICE)
        answer = lifecycle.resume(row.pk, Origin("bob"))
        assert (answer.changed, answer.migration.status, answer.migration.stop_requested) == (True, "IN PROGRESS", None)
        assert (row.events.last().kind, row.events.last().by) == ("pause_withdrawn", "bob")
        assert not lifecycle.resume(row.pk, ALICE).changed
        lifecycle.succeed(lease)
        assert not lifecycle.resume(row.pk, ALICE).changed

    @pytest.mark.parametrize(("verb", "request_left"), [(lifecycle.resume, None), (lifecycle.cancel, "cancel")])
    def test_who_obeys_too_late_gives_it_back(self, migration, verb, request_left) -> None:
        row, lease = begun(migration)
        lifecycle.pause(row.pk, ALICE)
        assert lifecycle.renew(lease).stop == "pause"
        verb(row.pk, ALICE)
        lifecycle.paused(lease)
        now = lifecycle.get(row.pk)
        assert (now.status, now.stop_requested) == (Status.STARTED, request_left)
        assert lifecycle.claim(row.pk, "worker") is not None

    def test_a_cancel_wins_over_a_pause(self, migration) -> None:
        row, _ = begun(migration)
        lifecycle.pause(row.pk, ALICE)
        assert lifecycle.cancel(row.pk, ALICE).migration.stop_requested == "cancel"
        for verb in (lifecycle.pause, lifecycle.resume):
            with pytest.raises(TransitionRefused, match="is being cancelled") as refusal:
                verb(row.pk, ALICE)
            assert refusal.value.allowed == ("cancel",)

    def test_pause_and_cancel_at_once_end_in_the_cancel(self, migration) -> None:
        row, _ = begun(migration)

        def ask(number: int) -> None:
            with suppress(TransitionRefused):
                (lifecycle.cancel if number == 3 else lifecycle.pause)(row.pk, ALICE)

        in_threads(8, ask, numbered=True)
        assert lifecycle.get(row.pk).stop_requested == "cancel"
        assert kinds(row).count("pause_requested") <= 1
        assert kinds(row)[-1] == "cancel_requested"

    def test_only_the_holder_writes_that_it_obeyed(self, migration) -> None:
        row, lease = begun(migration)
        lifecycle.pause(row.pk, ALICE)
        lifecycle.rows().update(lease_expires_at=timezone.now() - timedelta(seconds=1))
        lifecycle.reap()
        with pytest.raises(LeaseLost):
            lifecycle.paused(lease)
        assert lifecycle.get(row.pk).status == Status.STARTED

    def test_migrate_backwards_over_a_pause_undoes_what_was_done(self, migration) -> None:
        row = in_status(Status.PAUSED, migration)
        back = lifecycle.take_over(Request("rollback", row.name, "default", "SELECT 1", "SELECT 1"))
        assert (back.status, back.direction) == (Status.STARTED, "backwards")

    def test_migrate_backwards_over_a_pause_before_anything_ran_undoes_nothing(self, migration) -> None:
        row = in_status(Status.STARTED, migration)
        lifecycle.pause(row.pk, ALICE)
        back = lifecycle.take_over(Request("rollback", row.name, "default", "SELECT 1", "SELECT 1"))
        assert back.status == Status.ROLLED_BACK


def test_what_was_set_aside_is_tried_again(migration) -> None:
    row = in_status(Status.FINISHED, migration)
    lifecycle.rows().filter(pk=row.pk).update(quarantined=3)
    answer = lifecycle.run(row.pk, ALICE)
    assert (answer.changed, answer.migration.status, answer.migration.quarantined) == (True, Status.STARTED, 3)
    assert row.events.last().kind == "retry"
    assert not lifecycle.run(row.pk, ALICE).changed


class TestTuning:
    @pytest.fixture
    def backfill(self, migration):
        def make(status: str = Status.SCHEDULED):
            row = in_status(status, migration)
            lifecycle.rows().filter(pk=row.pk).update(kind="backfill", options={"priority": 7}, priority=7)
            return lifecycle.get(row.pk)

        return make

    def test_what_is_set_stays_until_it_is_taken_back(self, backfill) -> None:
        row = backfill(Status.IN_PROGRESS)
        lifecycle.tune(row.pk, ALICE, {"batch_size": 500, "throttle": {"lock_waiters": 3}, "duty_cycle": 0.1})
        now = lifecycle.tune(row.pk, ALICE, {"batch_size": None, "priority": -3, "batch_delay_seconds": 0}).migration
        assert now.tuning == {"throttle": {"lock_waiters": 3}, "duty_cycle": 0.1, "batch_delay_seconds": 0}
        assert (now.priority, now.status, now.lease_token) == (-3, row.status, row.lease_token)
        assert lifecycle.tune(row.pk, ALICE, {"priority": None}).migration.priority == 7, "as the file says"

    def test_the_event_has_the_values_before_and_after(self, backfill) -> None:
        row = backfill()
        lifecycle.tune(row.pk, ALICE, {"batch_size": 500})
        lifecycle.tune(row.pk, ALICE, {"batch_size": 900, "priority": 1, "throttle": None})
        event = row.events.last()
        assert (event.kind, event.by, event.to_status) == ("tuned", "alice", "")
        assert event.detail == {
            "before": {"batch_size": 500, "priority": 7},
            "after": {"batch_size": 900, "priority": 1},
        }

    @pytest.mark.parametrize("changes", [{}, {"batch_size": 500}, {"duty_cycle": None}, {"priority": 7}])
    def test_what_is_so_already_changes_nothing(self, backfill, changes) -> None:
        row = backfill()
        before = lifecycle.tune(row.pk, ALICE, {"batch_size": 500}).migration
        assert not lifecycle.tune(row.pk, ALICE, changes).changed
        assert lifecycle.get(row.pk).updated_at == before.updated_at
        assert kinds(row) == ["schedule", "tuned"]

    @pytest.mark.parametrize("status", Status.values)
    def test_what_has_ended_is_refused_unless_it_will_be_run_again(self, backfill, status) -> None:
        row = backfill(status)
        if status in {Status.FINISHED, Status.CANCELLED, Status.ROLLED_BACK}:
            with pytest.raises(TransitionRefused) as refusal:
                lifecycle.tune(row.pk, ALICE, {"batch_size": 500})
            assert refusal.value.allowed == states.verbs_from(status)
        else:
            assert lifecycle.tune(row.pk, ALICE, {"batch_size": 500}).changed

    def test_an_sql_migration_has_a_priority_only(self, migration) -> None:
        row = migration("SELECT 1")
        assert lifecycle.tune(row.pk, ALICE, {"priority": 4}).migration.priority == 4
        with pytest.raises(OutOfLimits) as refusal:
            lifecycle.tune(row.pk, ALICE, {"priority": 5, "batch_size": 1, "throttle": False})
        assert set(refusal.value.errors) == {"batch_size", "throttle"}
        assert lifecycle.get(row.pk).priority == 4

    def test_many_at_once_lose_nothing(self, backfill) -> None:
        row = backfill(Status.IN_PROGRESS)
        wishes: list[dict[str, Any]] = [
            {"batch_size": 5},
            {"duty_cycle": 0.5},
            {"batch_delay_seconds": 0.3},
            {"max_rows_per_second": 0.7},
        ]
        in_threads(4, lambda number: lifecycle.tune(row.pk, ALICE, wishes[number]), numbered=True)
        assert lifecycle.get(row.pk).tuning == {name: value for wish in wishes for name, value in wish.items()}
        assert kinds(row).count("tuned") == 4


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
        lambda: lifecycle.paused(lease),
        lambda: lifecycle.note(lease, "x"),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert lifecycle.get(row.pk).status == Status.STARTED


def test_a_worker_that_is_frozen_at_any_moment_keeps_no_row_locked(migration, django_assert_num_queries) -> None:
    """One statement a write, in autocommit: between two of them nothing is held that a reaper would wait for."""
    row = migration("SELECT 1")
    lifecycle.run(row.pk, ALICE)
    lease = lifecycle.claim(row.pk, "worker")
    assert lease is not None
    for write in (
        lambda: lifecycle.note(lease, "x", n=1),
        lambda: lifecycle.succeed(lease, ("statement_done", {})),
    ):
        with django_assert_num_queries(1):
            write()
    assert kinds(lease.migration)[-3:] == ["x", "statement_done", "succeed"]


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
