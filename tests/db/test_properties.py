"""Any order of requests, worker steps, crashes and clock jumps keeps what the lifecycle promises.

A machine plays two migrations on one database: people and `migrate` ask, workers claim and write, some of them die or
come back late, times pass. After every step the promises are looked up in the rows and events. Each example is one
transaction that is rolled back. HYPOTHESIS_EXAMPLES=5000 looks further than the usual run, each time elsewhere.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from async_migrations import lifecycle, limits, states
from async_migrations.errors import ExecutionError, LeaseLost, TransitionRefused
from async_migrations.lifecycle import Lease, Origin, Request
from async_migrations.limits import OutOfLimits
from async_migrations.models import AsyncMigrationEvent, AsyncMigrationStatus
from async_migrations.states import TERMINAL, Direction, Kind, Status, StopRequest

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "60"))
DEEP = "HYPOTHESIS_EXAMPLES" in os.environ
PROFILE = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    derandomize=not DEEP,
    # Making a failing example shorter takes minutes; HYPOTHESIS_EXAMPLES=100 does it where it is wanted.
    phases=[Phase.generate, Phase.shrink] if DEEP else [Phase.generate],
    report_multiple_bugs=False,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

KINDS = {"books.migrations.0001": Kind.BACKFILL, "books.migrations.0002": Kind.SQL}
NAMES = tuple(KINDS)
MOVES = {edge.name: edge for edge in states.TRANSITIONS}
# What `migrate` does when it makes the row is recorded under the name of its operation.
OPERATIONS = ("schedule", "run", "rollback")
RETRYABLE = ExecutionError(code="deadlock", message="no", retryable=True)
FINAL = ExecutionError(code="syntax_error", message="no")
LATER = timedelta(hours=1)
PROGRESS: dict[str, Any] = {
    "phase": "x",
    "progress_done": 1,
    "progress_total": 2,
    "progress_rate": 0.5,
    "eta_seconds": 2,
    "throttled": {"reason": "lock_waiters", "value": 4, "limit": 3, "since": "2026-11-22T10:00:00Z"},
}

names = st.sampled_from(NAMES)
values = st.sampled_from([None, 1, 2, 0.5, True, {"lock_waiters": 3}])


class Lifecycle(RuleBasedStateMachine):
    """Two migrations on one database, and everything that can happen to them."""

    leases = Bundle("leases")
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.example = transaction.atomic()
        self.example.__enter__()
        self.known: dict[str, AsyncMigrationStatus] = {}
        self.last_event = getattr(AsyncMigrationEvent.objects.last(), "pk", 0)

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.example.__exit__(None, None, None)

    @initialize(room=st.integers(1, 2), most=st.integers(1, 3))
    def begin(self, room: int, most: int) -> None:
        self.room = django_settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = room
        lifecycle.take_over(_request("schedule", NAMES[0], "SELECT 1", most))

    def _any(self, **wanted: Any) -> bool:
        """Whether a row was so after the last step; a step that would do nothing is not worth its time."""
        return any(all(getattr(row, key) == value for key, value in wanted.items()) for row in self.known.values())

    # --- what `migrate` asks for ---

    @rule(
        target=requests,
        name=names,
        operation=st.sampled_from(OPERATIONS),
        sql=st.sampled_from(["SELECT 1", "SELECT 2"]),
        most=st.integers(1, 3),
    )
    def migrate(self, name: str, operation: str, sql: str, most: int) -> Request:
        request = _request(operation, name, sql, most)
        self._asked(lambda: lifecycle.take_over(request))
        return request

    @rule(request=requests)
    def migrate_again_after_a_crash(self, request: Request) -> None:
        """What is left in the outbox is taken over once more; a request that was the last one changes nothing."""
        row = lifecycle.rows().filter(name=request.name).first()
        last = row is not None and str(row.outbox_id) == request.id
        before = self._seen()
        self._asked(lambda: lifecycle.take_over(request))
        assert not last or self._seen() == before

    # --- what people ask for ---

    @rule(name=names, later=st.booleans())
    def run(self, name: str, later: bool) -> None:
        run_at = timezone.now() + LATER if later else None
        self._ask(name, lambda pk: lifecycle.run(pk, Origin("alice"), run_at=run_at))

    @rule(name=names)
    def pause(self, name: str) -> None:
        self._ask(name, lambda pk: lifecycle.pause(pk, Origin("alice")))

    @rule(name=names)
    def resume(self, name: str) -> None:
        before = lifecycle.rows().filter(name=name).first()
        if self._ask(name, lambda pk: lifecycle.resume(pk, Origin("alice"))) and before is not None:
            now = lifecycle.get(before.pk)
            kept = ("direction", "has_run", "progress_done", "started_at", "tuning", "quarantined")
            assert all(getattr(now, field) == getattr(before, field) for field in kept)

    @rule(name=names, changes=st.dictionaries(st.sampled_from(limits.NAMES), values, max_size=2))
    def tune(self, name: str, changes: dict[str, Any]) -> None:
        """All of it is granted, or none; nothing but the values changes."""
        before = self._row(name)
        if self._ask(name, lambda pk: lifecycle.tune(pk, Origin("alice"), changes)):
            now = self._row(name)
            assert {key for key in now if now[key] != before[key]} <= {"tuning", "priority", "updated_at"}
            priority = changes.pop("priority", now["priority"]) or 0
            wanted = {key: value for key, value in (before["tuning"] | changes).items() if value is not None}
            assert (now["tuning"], now["priority"]) == (wanted, priority)

    @rule(name=names)
    def cancel(self, name: str) -> None:
        self._ask(name, lambda pk: lifecycle.cancel(pk, Origin("alice")))

    @rule(name=names)
    def roll_back(self, name: str) -> None:
        self._ask(name, lambda pk: lifecycle.rollback(pk, Origin("alice")))

    def _ask(self, name: str, verb: Callable[[int], lifecycle.Answer]) -> bool:
        """Ask, and ask again: the second time nothing changes. Return whether it was granted."""
        row = lifecycle.rows().filter(name=name).first()
        if row is None or not self._asked(lambda: verb(row.pk)):
            return False
        before = self._seen()
        assert not verb(row.pk).changed
        assert self._seen() == before
        return True

    def _asked(self, ask: Callable[[], object]) -> bool:
        """Return whether it was granted; what is refused changes nothing."""
        before = self._seen()
        try:
            ask()
        except (TransitionRefused, OutOfLimits):
            assert self._seen() == before
            return False
        return True

    # --- what workers do ---

    @rule(target=leases, name=names)
    def claim(self, name: str) -> Any:
        row = lifecycle.rows().filter(name=name).first()
        lease = row and lifecycle.claim(row.pk, "worker")
        return lease if lease else multiple()

    @rule(target=leases, name=names)
    def begin_at_once(self, name: str) -> Any:
        """Two steps in one, so that examples get far: it is asked for and claimed."""
        self.run(name, later=False)
        return self.claim(name)

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        self._write(lease, lambda: lifecycle.renew(lease, **PROGRESS))

    @rule(lease=leases)
    def note(self, lease: Lease) -> None:
        self._write(lease, lambda: lifecycle.note(lease, "statement_done", statement=1))

    @rule(lease=leases)
    def succeed(self, lease: Lease) -> None:
        self._write(lease, lambda: lifecycle.succeed(lease))

    @rule(lease=leases)
    def fail(self, lease: Lease) -> None:
        self._write(lease, lambda: lifecycle.fail(lease, FINAL))

    @rule(lease=leases)
    def shut_down(self, lease: Lease) -> None:
        self._write(lease, lambda: lifecycle.release(lease))

    @rule(lease=leases, back_off=st.booleans())
    def meet_an_error_that_may_pass(self, lease: Lease, back_off: bool) -> None:
        """Release while there are attempts left, as the executor does."""
        if lease.attempt < lease.migration.max_attempts:
            delay = LATER if back_off else timedelta(0)
            self._write(lease, lambda: lifecycle.release(lease, error=RETRYABLE, delay=delay))
        else:
            self._write(lease, lambda: lifecycle.fail(lease, RETRYABLE))

    @rule(lease=leases)
    def obey_a_cancel(self, lease: Lease) -> None:
        """Write CANCELLED if the lease's own renewal says so: nobody takes a cancel back."""
        with suppress(LeaseLost):
            if lifecycle.renew(lease).stop == StopRequest.CANCEL:
                self._write(lease, lambda: lifecycle.cancelled(lease))

    @rule(lease=leases)
    def obey_a_pause(self, lease: Lease) -> None:
        """Reach a checkpoint and stop there; the pause may have been taken back or overtaken by a cancel meanwhile."""
        row = lifecycle.get(lease.pk)
        self._write(lease, lambda: lifecycle.paused(lease))
        if row.lease_token == lease.token:
            now = lifecycle.get(lease.pk)
            asked = row.stop_requested == StopRequest.PAUSE
            assert now.status == (Status.PAUSED if asked else Status.STARTED)
            assert now.stop_requested == (None if asked else row.stop_requested)

    @rule(lease=leases)
    def set_a_row_aside(self, lease: Lease) -> None:
        self._write(lease, lambda: lifecycle.renew(lease, quarantined=1))

    @rule(lease=consumes(leases))
    def crash(self, lease: Lease) -> None:
        """The worker is gone, and its lease with it: nobody ever writes with it again."""

    def _write(self, lease: Lease, write: Callable[[], object]) -> None:
        """Write with a lease: the one that the row holds may, every other one changes nothing at all."""
        holds = lifecycle.rows().filter(pk=lease.pk, lease_token=lease.token).exists()
        before = self._seen()
        if holds:
            write()
        else:
            with pytest.raises(LeaseLost):
                write()
            assert self._seen() == before

    # --- what time does ---

    @precondition(lambda self: self._any(status=Status.IN_PROGRESS))
    @rule(name=names)
    def the_worker_falls_silent(self, name: str) -> None:
        self.the_lease_runs_out(name)
        self.reap()

    @precondition(lambda self: self._any(status=Status.IN_PROGRESS))
    @rule(name=names)
    def the_worker_falls_silent_before_it_obeys(self, name: str) -> None:
        self.pause(name)
        self.the_worker_falls_silent(name)

    @precondition(lambda self: self._any(status=Status.IN_PROGRESS))
    @rule(name=names)
    def the_lease_runs_out(self, name: str) -> None:
        past = timezone.now() - timedelta(seconds=1)
        lifecycle.rows().filter(name=name, status=Status.IN_PROGRESS).update(lease_expires_at=past)

    @precondition(lambda self: any(row.run_at for row in self.known.values()))
    @rule(name=names)
    def the_time_to_begin_comes(self, name: str) -> None:
        past = timezone.now() - timedelta(seconds=1)
        lifecycle.rows().filter(name=name, run_at__isnull=False).update(run_at=past)

    @precondition(lambda self: self._any(status=Status.IN_PROGRESS))
    @rule()
    def reap(self) -> None:
        silent = lifecycle.rows().filter(status=Status.IN_PROGRESS, lease_expires_at__lt=timezone.now())
        expected = set(silent.values_list("pk", flat=True))
        assert set(lifecycle.reap()) == expected
        assert not silent.exists()

    # --- what holds at every moment ---

    @invariant()
    def all_promises_hold(self) -> None:
        now = {row.name: row for row in lifecycle.rows().filter(name__in=NAMES)}
        for row in now.values():
            _check(row)
            _check_that_the_work_stays_the_same(self.known.get(row.name), row)
        running = [row for row in now.values() if row.status == Status.IN_PROGRESS]
        assert len(running) <= self.room
        assert len({row.slot for row in running}) == len(running)
        self._check_events(now)
        self._check_that_nothing_is_stuck(now)
        self.known = now

    def _check_events(self, now: dict[str, AsyncMigrationStatus]) -> None:
        """Every change of a status has its event, whose ends are what was there before and what is there after."""
        events = list(AsyncMigrationEvent.objects.filter(pk__gt=self.last_event).order_by("pk"))
        for name, row in now.items():
            before = self.known.get(name)
            status = before.status if before else ""
            for event in (event for event in events if event.migration_id == row.pk and event.to_status):
                status = _follow(event, status)
            assert status == row.status, f"{name} is {row.status}, its events lead to {status}"
        if events:
            self.last_event = events[-1].pk

    def _check_that_nothing_is_stuck(self, now: dict[str, AsyncMigrationStatus]) -> None:
        """What is in line and due can be claimed where there is room; the try is undone."""
        if not any(row.status == Status.STARTED for row in now.values()):
            return
        due = [row for row in lifecycle.in_line("default") if row.name in now]
        if len([row for row in now.values() if row.status == Status.IN_PROGRESS]) >= self.room:
            assert lifecycle.next_in_line("default") is None
            return
        for row in due:
            with transaction.atomic():
                lease = lifecycle.claim(row.pk, "worker")
                assert lease, f"{row.name} is STARTED, attempt {row.attempt} of {row.max_attempts}, but not claimable"
                assert lease.attempt == row.attempt + 1
                transaction.set_rollback(True)

    def _row(self, name: str) -> dict[str, Any]:
        return dict(next(iter(lifecycle.rows().filter(name=name).values()), {}))

    def _seen(self) -> tuple[list[Any], int]:
        rows: list[Any] = list(lifecycle.rows().filter(name__in=NAMES).order_by("pk").values())
        return rows, AsyncMigrationEvent.objects.count()


def _request(operation: str, name: str, sql: str, most: int) -> Request:
    return Request(operation, name, "default", sql, "SELECT 0", {"max_attempts": most}, KINDS[name])


def _check(row: AsyncMigrationStatus) -> None:
    """What holds for a row by itself."""
    leased = row.status == Status.IN_PROGRESS
    assert (row.lease_token is not None) == leased
    assert (row.lease_expires_at is not None) == leased
    assert (row.slot is not None) == leased
    assert 0 <= row.attempt <= row.max_attempts
    assert (row.finished_at is not None) == (row.status in TERMINAL)
    assert row.stop_requested is None or row.status in {Status.STARTED, Status.IN_PROGRESS}
    if "error" in row.meta:  # What was given up after an error still says which.
        assert row.status in {Status.ERROR, Status.CANCELLED}
    if row.status == Status.FINISHED:
        assert row.direction == Direction.FORWARDS
    if row.status == Status.ROLLED_BACK:
        assert row.direction == Direction.BACKWARDS
        assert not row.has_run
    if leased or row.status == Status.FINISHED:
        assert row.has_run
    if row.status == Status.PAUSED:
        assert (row.phase, row.eta_seconds, row.progress_rate) == ("", None, None)
    assert row.kind == KINDS[row.name]
    assert not row.tuning or row.kind == Kind.BACKFILL
    if not leased:
        assert (row.waiting_on, row.throttled) == ([], None)
    if row.terminal:
        assert row.phase == ""


def _check_that_the_work_stays_the_same(before: AsyncMigrationStatus | None, row: AsyncMigrationStatus) -> None:
    """While one lease is held, nobody changes what its holder is carrying out."""
    if before is not None and before.lease_token and before.lease_token == row.lease_token:
        assert (before.sql_digest, before.direction, before.attempt) == (row.sql_digest, row.direction, row.attempt)


def _follow(event: AsyncMigrationEvent, status: str) -> str:
    """Return where an event leads from a status; fail where it does not lead from there."""
    if not status:  # The row is new.
        assert event.kind in OPERATIONS
        assert not event.from_status
        return event.to_status
    move = MOVES[event.kind]
    assert event.from_status == status, f"{event.kind} from {event.from_status}, but it was {status}"
    assert status in move.sources
    assert event.to_status in move.targets
    return event.to_status


@pytest.mark.django_db
def test_fewer_attempts_in_the_file_leave_what_is_in_line_one_more() -> None:
    """Found by the machine below: it was STARTED, attempt 1 of 1, and no worker could ever claim it."""
    row = lifecycle.take_over(Request("run", NAMES[0], "default", "SELECT 1", "SELECT 0", {"max_attempts": 5}))
    lease = lifecycle.claim(row.pk, "worker")
    assert lease is not None
    lifecycle.release(lease, error=RETRYABLE)
    lifecycle.take_over(Request("run", NAMES[0], "default", "SELECT 1", "SELECT 0", {"max_attempts": 1}))
    last = lifecycle.claim(row.pk, "worker")
    assert last is not None
    assert (last.attempt, last.migration.max_attempts) == (2, 2)


@pytest.mark.django_db
def test_what_is_cancelled_in_line_does_not_wait_any_more() -> None:
    """Found by the machine below: it was CANCELLED, and still said that it waited for its turn."""
    first, second = (lifecycle.take_over(Request("run", name, "default", "SELECT 1", "SELECT 0")).pk for name in NAMES)
    assert lifecycle.claim(first, "worker") is not None
    before = lifecycle.get(second).updated_at
    assert lifecycle.claim(second, "worker") is None
    lifecycle.note_waiting()
    waiting = lifecycle.get(second)
    assert waiting.phase.startswith("waits for its turn")
    assert waiting.updated_at > before, "a poller with the ETag from before would not learn it"
    assert lifecycle.cancel(second, Origin("alice")).migration.phase == ""


@pytest.mark.django_db
def test_any_order_of_steps_keeps_every_promise(settings, caplog) -> None:
    caplog.set_level(logging.WARNING, "async_migrations")  # A line per event of every example would bury the failure.
    settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = 1  # Put back after the test, whatever the examples set.
    run_state_machine_as_test(Lifecycle, settings=PROFILE)
