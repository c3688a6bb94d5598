"""Backfills whose workers, server, broker and rows are taken away from under them: each row once all the same."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg2
import pytest
from django.db import connections

from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from tests.conftest import Process, eventually
from tests.db.conftest import query
from tests.driving import ask
from tests.faults.conftest import Chance
from tests.faults.ledger import Injection, Ledger
from tests.faults.scene import (
    COUNT,
    ONE_AT_A_TIME,
    PATIENCE,
    SLOW,
    TALLY_ROWS,
    Crew,
    Scene,
    drop_tally,
    make_tally,
    moment_now,
    story,
    taken_over,
    until_end,
)
from tests.faults.test_messages import redis
from tests.faults.test_servers import OWN, Server, own, own_scene, server  # noqa: F401 - fixtures

pytestmark = pytest.mark.usefixtures("control", "book")

# Each fault may cost an attempt.
LASTING: dict[str, Any] = {**SLOW, "throttle": False, "lanes": 2, "max_attempts": 200}


@pytest.fixture
def tally(control: None) -> Iterator[None]:
    make_tally()
    yield
    drop_tally()


def goes_on(scene: Scene, pk: int, chance: Chance) -> AsyncMigrationStatus:
    """Wait until some more rows are changed, now and then none: a fault may come before the last one is over."""
    scene.walked(pk, scene.done(pk) + max(0.0, chance.moment(300) - 50))
    row = scene.claimed(pk)
    assert not row.terminal, story(row)
    return row


def assert_each_once(scene: Scene, row: AsyncMigrationStatus) -> None:
    """Each row was changed once, and every counter says so."""
    assert query("SELECT n, count(*) FROM tally GROUP BY n", scene.using) == [(1, TALLY_ROWS)], story(row)
    assert (row.progress_done, row.progress_total, row.progress_unit) == (TALLY_ROWS, TALLY_ROWS, "rows")
    assert scene.done(row.pk) == TALLY_ROWS


def settle(injections: list[tuple[Injection, datetime]], row: AsyncMigrationStatus) -> None:
    """Say of faults that came over one migration how it ended, and how soon it was claimed again after each."""
    ends = [at for _, at in injections[1:]] + [moment_now()]
    for (injection, at), end in zip(injections, ends, strict=True):
        injection.ended = f"{row.status}, each row once"
        recovery = taken_over(row, at)
        injection.recovery = recovery if recovery is not None and recovery < (end - at).total_seconds() else None


def test_workers_killed_over_one_backfill(
    tally: None, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    crew.hire(2, **ONE_AT_A_TIME)
    pk = scene.backfill("tally", COUNT, **LASTING)
    injections: list[tuple[Injection, datetime]] = []
    for _ in chance.times(30, 2):
        with ledger.injecting("SIGKILL of one of two workers over one backfill of 2 lanes") as injection:
            goes_on(scene, pk, chance)
            injections.append((injection, moment_now()))
            crew.kill(crew.workers[chance.moment(1) < 0.5])
        crew.hire(**ONE_AT_A_TIME)
    scene.both_at_work(pk)
    scene.hurry(pk)
    row = scene.finished(pk)
    assert_each_once(scene, row)
    assert row.events.filter(kind="claim").count() <= len(injections) + 1
    settle(injections, row)
    scene.check(pk)


def test_workers_told_to_end_over_one_backfill(
    tally: None, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    if not chance.full:
        pytest.skip("a polite end takes seconds: `make faults` runs it")
    crew.hire(2, **ONE_AT_A_TIME)
    pk = scene.backfill("tally", COUNT, **LASTING)
    injections: list[tuple[Injection, datetime]] = []
    for _ in chance.times(8):
        with ledger.injecting("SIGTERM of one of two workers over one backfill of 2 lanes") as injection:
            goes_on(scene, pk, chance)
            injections.append((injection, moment_now()))
            crew.dismiss(crew.workers[chance.moment(1) < 0.5])
        crew.hire(**ONE_AT_A_TIME)
        scene.both_at_work(pk)
    scene.hurry(pk)
    row = scene.finished(pk)
    assert_each_once(scene, row)
    assert row.attempt == 1, "a worker that is told to end does not use up an attempt"
    assert "reap" not in story(row), "no lease had to run out"
    settle(injections, row)
    scene.check(pk)


@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_the_server_restarted_over_one_backfill(
    own: Server,  # noqa: F811
    own_scene: Scene,  # noqa: F811
    crew: Crew,
    chance: Chance,
    ledger: Ledger,
    mode: str,
) -> None:
    if mode == "fast" and not chance.full:
        pytest.skip("the short form restarts with -m immediate: `make faults` does both")
    make_tally(using=OWN)
    crew.hire(2, **ONE_AT_A_TIME, DATABASE_URL=own.url)
    pk = own_scene.backfill("tally", COUNT, **LASTING)
    injections: list[tuple[Injection, datetime]] = []
    for _ in chance.times(8):
        with ledger.injecting(f"restart -m {mode} over one backfill of 2 lanes") as injection:
            goes_on(own_scene, pk, chance)
            own.restart(mode)
            injections.append((injection, moment_now()))
    goes_on(own_scene, pk, chance)
    ask(own_scene.client, pk, "pause")
    own_scene.until(pk, lambda row: row.status == Status.PAUSED, "it is paused")
    before = paused(own_scene, pk)
    with ledger.injecting(f"restart -m {mode} while a backfill is PAUSED") as injection:
        own.restart(mode)
        assert eventually(lambda: paused(own_scene, pk), PATIENCE) == before
        injection.ended = "nothing lost, goes on behind it"
    ask(own_scene.client, pk, "resume")
    goes_on(own_scene, pk, chance)
    own_scene.hurry(pk)
    row = own_scene.finished(pk)
    assert_each_once(own_scene, row)
    settle(injections, row)
    own_scene.check(pk)


def paused(scene: Scene, pk: int) -> list[tuple[Any, ...]]:
    """Return how far each lane is, and the rows as they are."""
    lanes = [(lane.number, lane.cursor, lane.rows_done, lane.deferred) for lane in scene.lanes(pk)]
    return lanes + query("SELECT n, count(*) FROM tally GROUP BY n ORDER BY n", scene.using) if lanes else []


def test_a_worker_frozen_beyond_its_lease_is_fenced(
    tally: None, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    crew.hire(3, **ONE_AT_A_TIME)
    first = round(chance.moment(1))
    for number in chance.times(6):
        who = ("holder", "helper")[(first + number) % 2]
        with ledger.injecting(f"SIGSTOP of the {who} of a backfill beyond its lease, then SIGCONT") as injection:
            make_tally()
            pk = scene.backfill("tally", COUNT, **LASTING)
            scene.both_at_work(pk)
            row = goes_on(scene, pk, chance)
            holder, names = crew.holder(row), scene.at_work(pk)
            frozen = holder if who == "holder" else next(crew.named(name) for name in names - {row.worker})
            with crew.frozen(frozen):
                taken_over_lane(scene, crew, pk, frozen)
            row = scene.finished(pk)
            assert_each_once(scene, row)
            injection.ended = f"{row.status}, the other one took its lane over"
            scene.check(pk)


def taken_over_lane(scene: Scene, crew: Crew, pk: int, frozen: Process) -> None:
    """Wait until the lane of a frozen worker is somebody else's, and hardly any rows are left."""
    number, before = next(
        (lane.number, lane.rows_done) for lane in scene.lanes(pk) if crew.named(lane.worker) is frozen
    )

    def walked_by_another() -> bool:
        lane = scene.lanes(pk)[number]
        return crew.named(lane.worker) is not frozen and lane.rows_done > before

    # Not before: whoever is through with his own lane by then finds none that is free.
    name = scene.lanes(pk)[number].worker
    eventually(lambda: name not in scene.at_work(pk), PATIENCE, what="its lease is over")
    scene.hurry(pk)
    eventually(walked_by_another, PATIENCE, what="another one goes on in its lane")


class Application(threading.Thread):
    """Deletes rows and inserts others all over the table, until it is told to end."""

    def __init__(self, seed: float) -> None:
        super().__init__(daemon=True)
        self._random, self._ended = random.Random(seed), threading.Event()
        self.inserted = 0

    def run(self) -> None:
        with psycopg2.connect(**connections["default"].get_connection_params()) as other, other.cursor() as cursor:
            while not self._ended.is_set():
                # Every other one where the backfill has been.
                place = self._random.randrange(1, self._random.choice((20, TALLY_ROWS)))
                cursor.execute("DELETE FROM tally WHERE id = %s", [3 * place])
                # Keys that nobody had: between two others, and behind the last one of the start.
                cursor.execute("INSERT INTO tally VALUES (%s) ON CONFLICT DO NOTHING", [3 * place - 1])
                self.inserted += cursor.rowcount
                cursor.execute("INSERT INTO tally SELECT max(id) + 1 FROM tally")
                other.commit()
        other.close()

    def go_on_for(self, rows: int) -> None:
        """Begin, and end when so many rows are inserted that the backfill has to see to."""
        self.start()
        try:
            eventually(lambda: self.inserted >= rows, PATIENCE, what=f"{rows} rows are inserted")
        finally:
            self._ended.set()
            self.join(PATIENCE)


def test_rows_deleted_and_inserted_by_the_application_meanwhile(
    tally: None, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    crew.hire(2, **ONE_AT_A_TIME)
    for _ in chance.times(5):
        with ledger.injecting("rows deleted and inserted all over the table during a backfill") as injection:
            make_tally()
            pk = scene.backfill("tally", COUNT, where="n = 0", **LASTING)
            scene.walked(pk, 200)
            application = Application(chance.moment(1))
            application.go_on_for(300)
            scene.hurry(pk)
            row = scene.finished(pk)
            assert query(f"SELECT DISTINCT n FROM tally WHERE id <= {3 * TALLY_ROWS}") == [(1,)]
            assert query(f"SELECT DISTINCT n FROM tally WHERE id > {3 * TALLY_ROWS}") == [(0,)], (
                "those are the application's"
            )
            taken = row.events.get(kind="rows_taken_along")
            assert 0 < taken.detail["rows"] < application.inserted
            injection.ended = f"{row.status}, none left out"
            scene.check(pk)


def test_the_broker_flushed_over_a_backfill(
    tally: None, scene: Scene, crew: Crew, chance: Chance, ledger: Ledger
) -> None:
    crew.hire(2, **ONE_AT_A_TIME)
    for _ in chance.times(5):
        with ledger.injecting("broker flushed over a backfill of 2 lanes") as injection:
            make_tally()
            # One of them cannot take its message before it is lost.
            with crew.frozen(crew.workers[1]):
                pk = scene.backfill("tally", COUNT, **LASTING)
                goes_on(scene, pk, chance)
                at = moment_now()
                redis().flushall()
            scene.both_at_work(pk)
            scene.hurry(pk)
            row = scene.finished(pk)
            assert_each_once(scene, row)
            injection.ended, injection.recovery = f"{row.status}, each row once", until_end(row, at)
            scene.check(pk)
