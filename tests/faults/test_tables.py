"""What stands in the way on the table itself: locks, old snapshots, what an earlier attempt of somebody left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg2
import pytest
from django.db import connection

from async_migrations import lifecycle
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import index_is_valid, kinds, query
from tests.driving import OLD_SNAPSHOT, force, held
from tests.faults.conftest import Chance
from tests.faults.ledger import Ledger
from tests.faults.scene import PATIENCE, Crew, Scene, moment_now, story, until_end

pytestmark = pytest.mark.usefixtures("control", "book")

UNIQUE = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS book_n_idx ON book (n)"


def test_an_idle_transaction_older_than_the_build(scene: Scene, crew: Crew, chance: Chance, ledger: Ledger) -> None:
    crew.hire()
    for _ in chance.times(3):
        with ledger.injecting("an idle REPEATABLE READ transaction older than the build") as injection:
            with held("SET application_name = 'the sleeper'", *OLD_SNAPSHOT):
                pk = scene.run("CREATE INDEX CONCURRENTLY book_title_idx ON book (title)")
                row = scene.phase(pk, "waiting for old snapshots")
                assert row.waiting_on[0]["application_name"] == "the sleeper"
                time.sleep(chance.moment(4))
                assert scene.client.get(f"/api/async-migrations/{pk}").json()["status"] == Status.IN_PROGRESS
            at = moment_now()
            row = scene.finished(pk)
            assert kinds(row).count("claim") == 1
            assert index_is_valid("book_title_idx") is True
            injection.ended, injection.recovery = "waits and names it, then FINISHED", until_end(row, at)
            scene.check(pk)
        query("DROP INDEX book_title_idx")


def test_an_invalid_index_of_the_same_name_from_before(scene: Scene, crew: Crew, ledger: Ledger) -> None:
    crew.hire()
    with ledger.injecting("an INVALID index of the same name from before") as injection:
        query("UPDATE book SET n = id % 400")
        with pytest.raises(Exception, match="could not create unique index"):
            query("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)")
        query("UPDATE book SET n = id")
        assert index_is_valid("book_n_idx") is False
        row = scene.finished(pk := scene.run(UNIQUE))
        assert "repair" in story(row)
        assert index_is_valid("book_n_idx") is True
        injection.ended = "repaired, FINISHED"
        scene.check(pk)


def test_a_valid_index_of_the_same_name_with_another_definition(scene: Scene, crew: Crew, ledger: Ledger) -> None:
    crew.hire()
    with ledger.injecting("a valid index of the same name, with another definition") as injection:
        query("CREATE INDEX book_n_idx ON book (n, title)")
        force(pk := scene.schedule(UNIQUE))  # The preflight would refuse it.
        row = scene.ended(pk)
        assert row.status == Status.ERROR
        assert row.meta["error"]["code"] == "index_differs"
        assert "(n, title)" in row.meta["error"]["detail"]
        assert "UNIQUE USING btree (n)" in row.meta["error"]["detail"]
        assert index_is_valid("book_n_idx") is True
        injection.ended = "ERROR that shows both"
        scene.check(pk)


@pytest.mark.parametrize("places", ["1", "2"])
def test_two_builds_on_one_table_asked_for_at_once(
    scene: Scene, crew: Crew, chance: Chance, ledger: Ledger, places: str
) -> None:
    crew.hire(2, ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE=places)
    for _ in chance.times(5):
        with ledger.injecting(f"two builds on one table at once, {places} at a time allowed") as injection:
            sql = [f"CREATE INDEX CONCURRENTLY book_{number}_idx ON book (title, n)" for number in range(2)]
            with held(*OLD_SNAPSHOT):  # Neither can end before the other one has met it.
                pks = [scene.run(statement) for statement in sql]
                eventually(partial(_one_builds_and_one_waits, pks), what="one builds and one waits for its turn")
            rows = [scene.finished(pk) for pk in pks]
            assert [row.attempt for row in rows] == [1, 1], [story(row) for row in rows]
            assert not any("repair" in story(row) for row in rows)
            assert index_is_valid("book_0_idx") is index_is_valid("book_1_idx") is True
            injection.ended = "both FINISHED, one attempt each"
            scene.check(*pks)
        query("DROP INDEX book_0_idx, book_1_idx")


def _one_builds_and_one_waits(pks: list[int]) -> bool:
    """Whether the old snapshot stops one of two, and that one the other; where two may run, either may be first."""
    phases = sorted(AsyncMigrationStatus.objects.filter(pk__in=pks).values_list("phase", flat=True))
    return phases[0] == "waiting for old snapshots" and phases[1].startswith("waits for its turn")


class Reader:
    """A client of the application that reads by primary key all the time; `longest` is its longest wait in seconds."""

    def __init__(self) -> None:
        self.longest, self.reads = 0.0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        eventually(lambda: self.reads, what="the reader reads")
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        other = psycopg2.connect(**connection.get_connection_params())
        other.autocommit = True
        with other.cursor() as cursor:
            while not self._ended.wait(0.002):
                started = time.monotonic()
                cursor.execute("SELECT id FROM book WHERE id = 7")
                self.longest = max(self.longest, time.monotonic() - started)
                self.reads += 1
        other.close()


def test_a_statement_that_needs_the_table_for_itself(scene: Scene, crew: Crew, chance: Chance, ledger: Ledger) -> None:
    crew.hire()
    seconds = 30 if chance.full else 5
    with ledger.injecting(f"ACCESS EXCLUSIVE wanted while a transaction holds the table for {seconds} s") as injection:
        with Reader() as reader:
            with held("BEGIN", "SELECT 1 FROM book LIMIT 1"):
                pk = scene.run("ALTER TABLE book ADD COLUMN pages int", lock_timeout=0.5)
                time.sleep(seconds)
                assert "lock_retry" in story(scene.claimed(pk))
            at = moment_now()
            row = scene.finished(pk)
        assert reader.longest < 0.5 + 2, "the application has waited for longer than the lock_timeout"
        assert kinds(row).count("claim") == 1
        assert query("SELECT 1 FROM information_schema.columns WHERE table_name = 'book' AND column_name = 'pages'")
        injection.ended = f"FINISHED; longest read {reader.longest:.2f} s, lock_timeout 0.5 s"
        injection.recovery = until_end(row, at)
        scene.check(pk)


class Altering(threading.Thread):
    """A client of the application that wants ACCESS EXCLUSIVE on the table, without any `lock_timeout`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.cancelled = False

    def run(self) -> None:
        other = psycopg2.connect(**connection.get_connection_params() | {"application_name": "the deploy"})
        other.autocommit = True
        try:
            other.cursor().execute("ALTER TABLE book ADD COLUMN IF NOT EXISTS pages int")
        except psycopg2.errors.QueryCanceled:
            self.cancelled = True
        finally:
            other.close()


@pytest.mark.parametrize("mode", ["protect", "report"])
def test_an_alter_table_queued_behind_the_build(
    scene: Scene, crew: Crew, chance: Chance, ledger: Ledger, mode: str
) -> None:
    crew.hire()
    noted = {"protect": "guard_cancel", "report": "guard_report"}[mode]
    longest: list[float] = []
    for _ in chance.times(5):
        with ledger.injecting(f"ALTER TABLE queued behind the build, guard {mode}") as injection:
            # Not a lock on the table itself: nothing but the build is in the way of the ALTER TABLE.
            with Reader() as reader, held("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"):
                pk = scene.run("CREATE INDEX CONCURRENTLY book_title_idx ON book (title)", guard=mode)
                scene.phase(pk, "waiting for old snapshots")
                altering = Altering()
                altering.start()
                scene.happened(pk, noted)
                assert lifecycle.get(pk).events.get(kind=noted).detail["application_name"] == "the deploy"
                time.sleep(3)  # As long as the ALTER TABLE queues, readers wait behind it.
            row = scene.finished(pk)
            altering.join(PATIENCE)
            assert index_is_valid("book_title_idx") is True
            assert altering.cancelled is (mode == "protect")
            if mode == "protect":
                assert kinds(row).count("claim") == 1, "the build survives"
                assert reader.longest < 2, "the application has waited for longer than the guard allows"
            survived = "build survives" if kinds(row).count("claim") == 1 else "build killed by it, built again"
            injection.ended = f"{'cancelled' if altering.cancelled else 'reported'}, {survived}, FINISHED"
            longest.append(reader.longest)
            scene.check(pk)
        query("DROP INDEX book_title_idx; ALTER TABLE book DROP COLUMN IF EXISTS pages")
    ledger.remark(f"ALTER TABLE queued behind the build, guard {mode}", f"longest read {max(longest):.1f} s")


@contextmanager
def role_setting(name: str, value: str) -> Iterator[None]:
    """Give our role a setting in the test's database alone, for sessions that begin within the block."""
    (database,) = query("SELECT current_database()")[0]
    query(f"ALTER ROLE CURRENT_USER IN DATABASE {database} SET {name} = '{value}'")
    try:
        yield
    finally:
        query(f"ALTER ROLE CURRENT_USER IN DATABASE {database} RESET {name}")


def test_a_role_with_a_statement_timeout(scene: Scene, crew: Crew, ledger: Ledger) -> None:
    with role_setting("statement_timeout", "1s"), ledger.injecting("a role with statement_timeout = '1s'") as injection:
        crew.hire()
        with held("SET statement_timeout = 0", *OLD_SNAPSHOT):
            pk = scene.run("CREATE INDEX CONCURRENTLY book_title_idx ON book (title); SELECT pg_sleep(1.5)")
            scene.phase(pk, "waiting for old snapshots")
            time.sleep(2)
        row = scene.finished(pk)
        assert kinds(row).count("claim") == 1
        assert index_is_valid("book_title_idx") is True
        injection.ended = "FINISHED"
        scene.check(pk)
