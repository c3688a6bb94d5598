"""Workers that are killed, frozen or told to end, at any moment of a build or of an update."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from async_migrations import lifecycle
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from tests.conftest import Process, eventually
from tests.db.conftest import index_is_valid, kinds, query
from tests.driving import OLD_SNAPSHOT, held
from tests.faults.conftest import Chance
from tests.faults.ledger import Ledger
from tests.faults.scene import (
    BUILD,
    DROP,
    INDEX,
    PATIENCE,
    SHORT,
    SLOWLY,
    Crew,
    Scene,
    moment_now,
    story,
    taken_over,
    until_end,
    way,
)

pytestmark = pytest.mark.usefixtures("control", "book")

# Three statements of half a second or so with short ones between: a moment falls into one of them, or between two.
UPDATES = (
    f"UPDATE book SET n = n + 1 {SLOWLY}; UPDATE book SET n = n + 10; UPDATE book SET n = n + 100 {SLOWLY}; "
    f"UPDATE book SET n = n + 1000; UPDATE book SET n = n + 10000 {SLOWLY}"
)
SUM = 11111
UPDATE_SECONDS = 2.5


def test_a_worker_killed_during_a_build(tome: float, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger) -> None:
    crew.hire(2)
    for moment in chance.moments(20, over=tome * 1.1):
        with ledger.injecting("SIGKILL of the worker during a build, a second one running", moment) as injection:
            pk = scene.run(BUILD, DROP)
            row = scene.claimed(pk)
            time.sleep(moment)
            at = moment_now()
            crew.kill(crew.holder(row))
            row = scene.finished(pk)
            assert index_is_valid(INDEX) is True
            injection.ended, injection.recovery = way(row), taken_over(row, at)
            scene.check(pk)
        query(f"DROP INDEX {INDEX}")
        crew.hire()


def test_a_worker_killed_during_updates_that_must_not_run_twice(
    scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    crew.hire(2)
    for moment in chance.moments(20, over=UPDATE_SECONDS):
        with ledger.injecting("SIGKILL of the worker during n = n + 1", moment) as injection:
            query("UPDATE book SET n = 0")
            pk = scene.run(UPDATES)
            row = scene.claimed(pk)
            time.sleep(moment)
            at = moment_now()
            crew.kill(crew.holder(row))
            row = scene.finished(pk)
            assert query("SELECT DISTINCT n FROM book") == [(SUM,)]
            injection.ended, injection.recovery = way(row), taken_over(row, at)
            scene.check(pk)
        crew.hire()


def test_a_worker_killed_between_a_commit_and_the_next_statement(
    scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    crew.hire(2)
    for _ in chance.times(20):
        committed = 1 if chance.moment(1) < 0.5 else 111
        with ledger.injecting("SIGKILL right behind a commit of n = n + 1") as injection:
            query("UPDATE book SET n = 0")
            pk = scene.run(UPDATES)
            row = scene.claimed(pk)
            _until_committed(committed)
            at = moment_now()
            crew.kill(crew.holder(row))
            row = scene.finished(pk)
            assert query("SELECT DISTINCT n FROM book") == [(SUM,)]
            assert "resumed" in story(row)
            injection.ended, injection.recovery = way(row), taken_over(row, at)
            scene.check(pk)
        crew.hire()


def _until_committed(least: int) -> None:
    eventually(lambda: query("SELECT n FROM book LIMIT 1")[0][0] >= least, PATIENCE, what="a commit")


def test_all_workers_killed_and_started_again_later(
    tome: float, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    for moment in chance.moments(4, over=tome):
        with ledger.injecting("SIGKILL of all workers, started again later", moment) as injection:
            query("UPDATE book SET n = 0")
            crew.hire(2)
            pks = [scene.run(f"UPDATE book SET n = n + 1; {BUILD}", DROP), scene.run(UPDATES)]
            scene.claimed(pks[0])
            time.sleep(moment)
            for worker in list(crew.workers):
                crew.kill(worker)
            time.sleep(60 if chance.full and injection is ledger.entries[_LATER][0] else 3)
            at = moment_now()
            crew.hire()
            rows = [scene.finished(pk) for pk in pks]
            assert index_is_valid(INDEX) is True
            assert query("SELECT DISTINCT n FROM book") == [(SUM + 1,)]
            injection.ended, injection.recovery = "FINISHED", taken_over(rows[0], at)
            scene.check(*pks)
        crew.kill(crew.workers[0])
        query(f"DROP INDEX {INDEX}")


_LATER = "SIGKILL of all workers, started again later"


def test_a_worker_stopped_beyond_its_lease_is_fenced(
    tome: float, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    crew.hire(2)
    for moment in chance.moments(8, over=UPDATE_SECONDS):
        with ledger.injecting("SIGSTOP beyond the lease, then SIGCONT", moment) as injection:
            query("UPDATE book SET n = 0")
            pk = scene.run(f"{UPDATES}; {BUILD}", DROP)
            row = scene.claimed(pk)
            time.sleep(moment)
            at = moment_now()
            with crew.frozen(crew.holder(row)):
                scene.until(pk, lambda now: now.attempt == 2 or now.terminal, "somebody else has it")
            row = scene.finished(pk)
            assert query("SELECT DISTINCT n FROM book") == [(SUM,)]
            assert index_is_valid(INDEX) is True
            told = [(event.kind, event.attempt) for event in row.events.order_by("id")]
            second = told.index(("claim", 2)) if ("claim", 2) in told else len(told)
            assert all(attempt == 2 for _, attempt in told[second:]), told
            injection.ended, injection.recovery = way(row), taken_over(row, at)
            scene.check(pk)
        query(f"DROP INDEX {INDEX}")


def test_a_worker_told_to_end_during_a_build(
    tome: float, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    crew.hire(2, ASYNC_MIGRATIONS_SHUTDOWN_GRACE_SECONDS="0.1")
    for moment in chance.moments(8, over=tome * 0.8):
        with ledger.injecting("SIGTERM during a build, short grace period", moment) as injection:
            pk = scene.run(BUILD, DROP)
            row = scene.claimed(pk)
            time.sleep(moment)
            at = moment_now()
            crew.dismiss(crew.holder(row))
            row = scene.finished(pk)
            assert index_is_valid(INDEX) is True
            assert row.attempt == 1, "a worker that is told to end does not use up an attempt"
            assert "reap" not in story(row), "no lease had to run out"
            released = "release" in story(row)
            injection.ended = "released, FINISHED by the next" if released else "FINISHED within the grace period"
            injection.recovery = taken_over(row, at)
            scene.check(pk)
        query(f"DROP INDEX {INDEX}")
        crew.hire(ASYNC_MIGRATIONS_SHUTDOWN_GRACE_SECONDS="0.1")


@pytest.mark.parametrize("sql", ["build", "updates"])
def test_a_backend_that_is_terminated(
    tome: float, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger, sql: str
) -> None:
    crew.hire()
    for moment in chance.moments(6, over=tome if sql == "build" else UPDATE_SECONDS):
        with ledger.injecting(f"pg_terminate_backend on our statement ({sql})", moment) as injection:
            query("UPDATE book SET n = 0")
            pk = scene.run(BUILD, DROP) if sql == "build" else scene.run(UPDATES)
            scene.claimed(pk)
            time.sleep(moment)
            at = moment_now()
            query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE application_name LIKE 'async-migrations/{pk}/%'"
            )
            row = scene.finished(pk)
            _assert_effect(sql)
            injection.ended, injection.recovery = way(row), taken_over(row, at)
            scene.check(pk)
        query(f"DROP INDEX IF EXISTS {INDEX}")


def _assert_effect(sql: str) -> None:
    if sql == "build":
        assert index_is_valid(INDEX) is True
    else:
        assert query("SELECT DISTINCT n FROM book") == [(SUM,)]


def test_cancel_at_any_moment_of_a_build(tome: float, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger) -> None:
    crew.hire()
    for moment in chance.moments(10, 2, over=tome * 1.1):
        with ledger.injecting("cancel during a build", moment) as injection:
            pk = scene.run(BUILD, DROP)
            scene.claimed(pk)
            time.sleep(moment)
            row = _cancelled(scene, pk, injection_at := moment_now())
            injection.ended, injection.recovery = row.status, until_end(row, injection_at)
            scene.check(pk)
        query(f"DROP INDEX IF EXISTS {INDEX}")


def test_cancel_at_the_very_end_of_a_build(scene: Scene, crew: Crew, chance: Chance, ledger: Ledger) -> None:
    """The build ends of itself in the moment in which the cancel is on its way."""
    crew.hire(ASYNC_MIGRATIONS_HEARTBEAT_SECONDS="0.05")
    for moment in chance.moments(10, 2, over=0.15):
        with ledger.injecting("cancel as a build ends", moment) as injection:
            with held(*OLD_SNAPSHOT):
                pk = scene.run(f"CREATE INDEX CONCURRENTLY {INDEX} ON book (title)", DROP)
                scene.phase(pk, "waiting for old snapshots")
                at = moment_now()
                assert scene.client.post(f"/api/async-migrations/{pk}/cancel").status_code in {200, 202}
                time.sleep(moment)
            row = scene.ended(pk)
            _assert_cancelled(row)
            injection.ended, injection.recovery = row.status, until_end(row, at)
            scene.check(pk)
        query(f"DROP INDEX IF EXISTS {INDEX}")


def _cancelled(scene: Scene, pk: int, at: object) -> AsyncMigrationStatus:
    answer = scene.client.post(f"/api/async-migrations/{pk}/cancel")
    row = scene.ended(pk)
    assert answer.status_code in {200, 202} or (answer.status_code == 409 and row.status == Status.FINISHED)
    _assert_cancelled(row)
    return row


def _assert_cancelled(row: AsyncMigrationStatus) -> None:
    assert row.status in {Status.CANCELLED, Status.FINISHED}, story(row)
    assert index_is_valid(INDEX) is (True if row.status == Status.FINISHED else None), (row.status, story(row))


@pytest.fixture
def only_in_full(chance: Chance) -> None:
    if not chance.full:
        pytest.skip("takes a minute: `make faults` runs it")


@pytest.mark.usefixtures("only_in_full")
def test_with_the_default_lease_somebody_else_has_the_work_in_time(
    tome: float, scene: Scene, start_worker: Callable[..., Process], chance: Chance, ledger: Ledger
) -> None:
    crew = Crew(start_worker, **dict.fromkeys(SHORT, ""))  # An empty variable is as good as none.
    crew.hire(2)
    with ledger.injecting("SIGKILL of the worker, default lease of 30 s") as injection:
        pk = scene.run(BUILD, DROP)
        row = scene.claimed(pk)
        time.sleep(chance.moment(tome))
        at = moment_now()
        crew.kill(crew.holder(row))
        row = scene.finished(pk)
        injection.ended, injection.recovery = way(row), taken_over(row, at)
        assert injection.recovery is None or injection.recovery < 35
        assert lifecycle.get(pk).attempt == kinds(row).count("claim")
        scene.check(pk)
        eventually(lambda: index_is_valid(INDEX), PATIENCE)
