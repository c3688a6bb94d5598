"""What is left where an attempt is stopped in an awkward moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import pytest
from django.utils import timezone

from async_migrations import lifecycle, tasks
from async_migrations.errors import ExecutionError
from async_migrations.execution import heartbeat, steps, verify
from async_migrations.execution.attempt import advisory_key, reserve
from async_migrations.execution.session import Session
from async_migrations.execution.statements import Effect, parse
from async_migrations.lifecycle import Lease, Origin
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import at_work_on, index_is_valid, kinds, query
from tests.db.test_executor import in_thread
from tests.driving import OLD_SNAPSHOT, held

pytestmark = pytest.mark.usefixtures("control", "book")

BUILD = "CREATE INDEX CONCURRENTLY book_title_idx ON book (title)"
SEARCH = "tenant1, public"
LOCK = "LOCK TABLE {} IN ROW EXCLUSIVE MODE"  # A build waits for it before it scans.


@pytest.fixture(autouse=True)
def _quick(settings) -> None:
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.05


class Beside(threading.Thread):
    """Carries a migration out beside the test."""

    def __init__(self, pk: int) -> None:
        super().__init__(target=in_thread, args=(pk,), daemon=True)
        self.start()

    def end(self) -> None:
        self.join(30)
        assert not self.is_alive()


def begin(session: Session, lease: Lease, statement: str) -> None:
    """Take the lock and the checkpoint as an attempt does, and mark a statement as begun where an attempt does."""
    row, (begun,) = lease.migration, parse(statement)
    assert session.one("try_advisory_lock", key=advisory_key(row.name))["locked"]
    whose = {"name": row.name, "token": str(lease.token)}
    session.one("take_checkpoint", **whose, migration_id=row.pk, direction=row.direction)
    if begun.effect is Effect.CATALOGUE:
        session.change("mark_begun", **whose, begun=begun.digest)


def building() -> bool:
    return bool(query("SELECT 1 FROM pg_stat_progress_create_index"))


@contextmanager
def orphan(lease: Lease, sql: str, *beside: str) -> Iterator[None]:
    """What the backend of a worker does that was killed in a build, which is the last statement of `sql`.

    beside: what another session does that the build waits for.
    """
    *settings, build = parse(sql)
    session = Session("default", f"async-migrations/{lease.pk}/{lease.attempt}")
    begin(session, lease, build.text)
    for statement in settings:
        session.execute(statement.text)
    ended: list[ExecutionError] = []

    def build_on() -> None:
        with session:
            try:
                session.execute(build.text)
            except ExecutionError as error:
                ended.append(error)

    thread = threading.Thread(target=build_on, daemon=True)
    with held(*beside or (LOCK.format("book"),)):
        thread.start()
        eventually(building, what="it builds")
        yield
    thread.join(30)
    assert [error.code for error in ended] == ["statement_cancelled"], "it was left alone"


def lose(lease: Lease) -> None:
    """Let the lease of a worker that is gone run out."""
    lifecycle.rows().filter(pk=lease.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    lifecycle.reap()


def claimed(row: AsyncMigrationStatus) -> Lease:
    lifecycle.run(row.pk, Origin("test"))
    lease = lifecycle.claim(row.pk, "worker")
    assert lease is not None
    return lease


@pytest.fixture
def tenant(book: None) -> Iterator[None]:
    """A second table of the name in another schema; the index that is asked for is there on the first one."""
    query("CREATE SCHEMA tenant1; CREATE TABLE tenant1.book (LIKE book)")
    query("CREATE INDEX book_title_idx ON public.book (title)")
    yield
    query("DROP SCHEMA tenant1 CASCADE")


BY_SETTING = (BUILD, {"settings": {"search_path": SEARCH}})
BY_STATEMENT = (f"SET search_path = {SEARCH}; {BUILD}", {})


@pytest.mark.usefixtures("tenant")
@pytest.mark.parametrize(("sql", "options"), [BY_SETTING, BY_STATEMENT])
@pytest.mark.parametrize("left_by_another", [False, True])
def test_a_cancel_removes_the_index_of_the_schema_that_was_meant(migration, sql, options, left_by_another) -> None:
    row = migration(sql, **options)
    if left_by_another:
        lease = claimed(row)
        with orphan(lease, BY_STATEMENT[0], LOCK.format("tenant1.book")):
            lose(lease)
            lifecycle.cancel(row.pk, Origin("test"))
            worker = Beside(row.pk)
            eventually(lambda: not building())
    else:
        lifecycle.run(row.pk, Origin("test"))
        with held(LOCK.format("tenant1.book")):
            worker = Beside(row.pk)
            eventually(building)
            lifecycle.cancel(row.pk, Origin("test"))
            eventually(lambda: not building())
    worker.end()
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("tenant1.book_title_idx") is None
    assert index_is_valid("public.book_title_idx") is True


def test_a_cancel_after_the_last_worker_was_lost_ends_what_it_left_running(migration) -> None:
    row = migration(BUILD, max_attempts=1)
    lease = claimed(row)
    with orphan(lease, BUILD):
        lose(lease)
        assert lifecycle.get(row.pk).meta["error"]["code"] == "worker_lost"
        assert lifecycle.cancel(row.pk, Origin("test")).migration.status == Status.STARTED
        worker = Beside(row.pk)
        eventually(lambda: not building())
    worker.end()
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("book_title_idx") is None


def test_a_cancel_while_the_first_attempt_of_another_run_waits_for_an_orphan_ends_it(migration) -> None:
    row = migration(BUILD, max_attempts=1)
    lease = claimed(row)
    with orphan(lease, BUILD):
        lose(lease)
        lifecycle.run(row.pk, Origin("test"))
        worker = Beside(row.pk)
        eventually(lambda: "waiting_for_session" in kinds(row))
        lifecycle.cancel(row.pk, Origin("test"))
        eventually(lambda: not building())
    worker.end()
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("book_title_idx") is None


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_session_of_ours_that_has_fallen_silent_is_ended(migration, settings, cancelled) -> None:
    settings.ASYNC_MIGRATIONS_LEASE_SECONDS = 1
    row = migration(BUILD)
    lease = claimed(row)
    with Session("default", f"async-migrations/{row.pk}/1") as silent:
        begin(silent, lease, BUILD)
        silent.execute("BEGIN")
        lose(lease)
        if cancelled:
            lifecycle.cancel(row.pk, Origin("test"))
        Beside(row.pk).end()
        with pytest.raises(ExecutionError) as gone:
            silent.execute("SELECT 1")
        assert gone.value.code == "connection_lost"
    assert lifecycle.get(row.pk).status == (Status.CANCELLED if cancelled else Status.FINISHED)


def test_a_cancel_that_finds_somebody_elses_session_says_so(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_LEASE_SECONDS = 1
    row = migration(BUILD)
    lose(claimed(row))
    lifecycle.cancel(row.pk, Origin("test"))
    with Session("default", "psql") as other:
        assert other.one("try_advisory_lock", key=advisory_key(row.name))["locked"]
        Beside(row.pk).end()
        now = lifecycle.get(row.pk)
        assert (now.status, now.meta["error"]["code"]) == (Status.ERROR, "leftovers_stay")
        assert "'psql'" in now.meta["error"]["detail"]
        assert other.one("backend"), "it was left alone"
    assert lifecycle.cancel(row.pk, Origin("test")).migration.status == Status.CANCELLED


@pytest.fixture
def library(book: None) -> Iterator[None]:
    """A partitioned table with an index."""
    query("CREATE TABLE library (n int) PARTITION BY RANGE (n); CREATE INDEX library_n_idx ON library (n)")
    query("CREATE TABLE library_1 PARTITION OF library FOR VALUES FROM (0) TO (9)")
    yield
    query("DROP TABLE library")


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "what", ["TABLE CONCURRENTLY book", "INDEX CONCURRENTLY book_pkey", "TABLE CONCURRENTLY library"]
)
def test_a_cancel_removes_what_the_reindex_of_another_attempt_leaves(migration, what) -> None:
    row = migration(f"REINDEX {what}")
    lease = claimed(row)
    with orphan(lease, f"REINDEX {what}", *OLD_SNAPSHOT):
        eventually(remains, what="the new index")
        lose(lease)
        lifecycle.cancel(row.pk, Origin("test"))
        worker = Beside(row.pk)
        eventually(lambda: not building())
    worker.end()
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert remains() == []
    assert "leftover_removed" in kinds(row)


@pytest.mark.parametrize("now", [BUILD, f"SELECT 3; {BUILD}"])
def test_a_cancel_finds_what_was_begun_although_the_file_was_changed(migration, now) -> None:
    row = migration(f"SELECT 1; SELECT 2; {BUILD}")
    lease = claimed(row)
    with Session("default", "earlier") as session:
        begin(session, lease, BUILD)
        done = [statement.digest for statement in parse("SELECT 1; SELECT 2")]
        session.change("mark_done", name=row.name, token=str(lease.token), done=done)
    lifecycle.rows().filter(pk=row.pk).update(sql_forwards=now)
    with orphan(lease, BUILD):
        lose(lease)
        lifecycle.cancel(row.pk, Origin("test"))
        worker = Beside(row.pk)
        eventually(lambda: not building())
    worker.end()
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("book_title_idx") is None


def test_a_worker_that_is_to_end_does_not_say_paused_while_an_orphan_runs(migration, monkeypatch) -> None:
    row = migration(BUILD)
    lease = claimed(row)
    with Session("default", f"async-migrations/{row.pk}/1") as other:
        begin(other, lease, BUILD)
        lose(lease)
        lifecycle.pause(row.pk, Origin("test"))
        worker = Beside(row.pk)
        eventually(lambda: "waiting_for_session" in kinds(row))
        heartbeat.shutdown.set()
        try:
            worker.end()
        finally:
            heartbeat.shutdown.clear()
        now = lifecycle.get(row.pk)
        assert (now.status, now.stop_requested) == (Status.STARTED, "pause")
    tasks.carry_out(row.pk)
    assert lifecycle.get(row.pk).status == Status.PAUSED


def test_what_a_reindex_of_somebody_else_may_be_at_work_on_is_left_alone(migration) -> None:
    query("CREATE INDEX book_title_ccnew ON book (title)")
    query("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'book_title_ccnew'::regclass")
    row = migration("REINDEX TABLE CONCURRENTLY book")
    with Session("default", "psql") as other:
        tables = [row["oid"] for row in other.all("tables_of", names=["book"])]
        with held("LOCK TABLE book IN SHARE UPDATE EXCLUSIVE MODE"):
            assert verify.sweep(other, tables) == []
        assert remains() == [("book_title_ccnew",)]
        assert verify.sweep(other, tables) == ["public.book_title_ccnew"]
    assert lifecycle.get(row.pk).status == Status.SCHEDULED


def test_a_cancel_does_not_wait_for_ever_for_somebody_else(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_LEASE_SECONDS = 1
    row = migration("CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)", max_attempts=1)
    lease = claimed(row)
    with Session("default", f"async-migrations/{row.pk}/1") as session:
        begin(session, lease, row.sql_forwards)
        with pytest.raises(ExecutionError, match="could not create unique index"):
            session.execute(row.sql_forwards)
    lose(lease)
    lifecycle.cancel(row.pk, Origin("test"))
    with somebody_else():
        Beside(row.pk).end()
        now = lifecycle.get(row.pk)
        assert (now.status, now.meta["error"]["code"]) == (Status.ERROR, "leftovers_stay")
        assert "may be at work on the index book_n_idx" in now.meta["error"]["message"]
    assert index_is_valid("book_n_idx") is False


@pytest.mark.usefixtures("library")
def test_the_whole_of_a_table_and_its_partitions_keep_each_other_away_and_these_not_one_another() -> None:
    query("CREATE TABLE library_2 PARTITION OF library FOR VALUES FROM (10) TO (19)")

    def oids(*names: str) -> list[int]:
        return [query(f"SELECT '{name}'::regclass::oid::bigint")[0][0] for name in names]

    (whole,), (first, second) = oids("library"), oids("library_1", "library_2")
    with Session("default", "a") as a, Session("default", "b") as b:
        assert reserve(a, [first])
        assert reserve(b, [second])
        assert not reserve(b, [whole])
        assert not reserve(b, [first])
    with Session("default", "a") as a, Session("default", "b") as b:
        assert reserve(a, [whole])
        assert not reserve(b, [first])


def remains() -> list[tuple]:
    return query("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")


def another_migration() -> AbstractContextManager[None]:
    return at_work_on("book")


def somebody_else() -> AbstractContextManager[None]:
    """A session that may be building or dropping an index of the table, for all that can be seen."""
    return held("LOCK TABLE book IN SHARE UPDATE EXCLUSIVE MODE")


@pytest.mark.parametrize(
    ("others", "why"), [(another_migration, "another migration"), (somebody_else, "another session")]
)
def test_a_cancel_waits_for_others_at_work_on_the_table(migration, others, why) -> None:
    build = "CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)"
    row = migration(build)
    lease = claimed(row)
    with Session("default", f"async-migrations/{row.pk}/1") as session:
        begin(session, lease, build)
        with pytest.raises(ExecutionError, match="could not create unique index"):
            session.execute(build)
    lose(lease)
    lifecycle.cancel(row.pk, Origin("test"))
    with others():
        worker = Beside(row.pk)
        eventually(lambda: f"waits for its turn to remove leftovers: {why}" in lifecycle.get(row.pk).phase)
        if others is somebody_else:
            eventually(lambda: lifecycle.get(row.pk).waiting_on)
        assert index_is_valid("book_n_idx") is False
    worker.end()
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("book_n_idx") is None


@pytest.fixture(params=["_check_index", "_mark_done"])
def cancelled_behind_the_build(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a cancel be asked for when the build has returned, and hit what comes next on its connection."""

    def hit(*given) -> None:
        (session,) = (one for one in given if isinstance(one, Session))
        lifecycle.cancel(lifecycle.rows().get().pk, Origin("test"))
        session.execute("SELECT pg_sleep(30)")

    monkeypatch.setattr(steps, request.param, hit)


@pytest.mark.usefixtures("cancelled_behind_the_build")
def test_a_cancel_that_hits_right_behind_the_end_of_a_build_leaves_nothing(migration) -> None:
    row = migration(BUILD)
    lifecycle.run(row.pk, Origin("test"))
    tasks.carry_out(row.pk)
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("book_title_idx") is None
    assert "leftover_removed" in kinds(row)


@pytest.mark.usefixtures("cancelled_behind_the_build")
def test_a_cancel_leaves_an_index_that_was_there_before(migration) -> None:
    query("CREATE INDEX book_title_idx ON book (title)")
    row = migration(BUILD)
    lifecycle.run(row.pk, Origin("test"))
    tasks.carry_out(row.pk)
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("book_title_idx") is True
