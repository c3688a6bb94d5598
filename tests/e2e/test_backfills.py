"""Backfills carried out by real workers: paused, tuned, cancelled, throttled and shared out while they run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.apps import apps
from django.db import connections

from api.processes import worker_command
from async_migrations import lifecycle
from async_migrations.conf import conf
from async_migrations.execution.session import Session
from async_migrations.handing_over import after_migrate
from async_migrations.migration_helpers import make_backfill_migration
from async_migrations.models import AsyncMigrationCheckpoint, AsyncMigrationLane
from tests.conftest import Process, environment, eventually
from tests.db.conftest import kinds, query
from tests.driving import ask, backends, ended, held, row, scheduled
from tests.faults.scene import COUNT, ONE_AT_A_TIME, PATIENCE, SHORT, SLOW, Crew, Scene, drop_tally, make_tally
from tests.standby import standby

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("tally")]

ROWS = 20_000
SLOWLY = {"table": "tally", "update": COUNT, "throttle": False, **SLOW}

# Code that some workers have and others have not.
ORCHARD = """
import os
from pathlib import Path

from django.db import connection


def weather(alias):
    said = Path(os.environ["ORCHARD"], "weather")
    return said.read_text() if said.exists() else None


def ripen(rows):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tally SET n = n + 1 WHERE id = ANY(%s)", [[row["id"] for row in rows]])
        return cursor.rowcount
"""
_numbers = count(1)


@pytest.fixture(scope="module")
def orchard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project's code; a file `weather` in it is a reason to wait."""
    folder = tmp_path_factory.mktemp("orchard")
    (folder / "orchard.py").write_text(ORCHARD)
    return folder


@pytest.fixture(scope="module")
def crew(django_db_setup: None, orchard: Path) -> Iterator[Crew]:
    """Two workers for all tests of this module; one that is killed is replaced by the test."""
    number = count(1)
    with ExitStack() as stack:

        def start(*, threads: int, **env: str) -> Process:
            log = orchard / f"worker-{next(number)}.log"
            worker = Process(worker_command(threads=threads), environment(**env), log)
            stack.callback(worker.kill)
            eventually(lambda: "ready for action" in worker.output or not worker.is_alive(), what="the worker is ready")
            assert worker.is_alive(), worker.output
            return worker

        code = {"PYTHONPATH": str(orchard), "ORCHARD": str(orchard)}
        made = Crew(start, **code, ASYNC_MIGRATIONS_THROTTLE_CALLABLES="orchard.weather")
        made.hire(2, **ONE_AT_A_TIME)
        yield made


@pytest.fixture
def tally(control: None, settings: Any) -> Iterator[None]:
    settings.ALLOW_SCHEDULED_MIGRATIONS = True
    make_tally(ROWS)
    yield
    drop_tally()


@pytest.fixture
def client(api: Callable[..., httpx.Client]) -> httpx.Client:
    return api("operator")


@pytest.fixture
def scene(client: httpx.Client) -> Scene:
    return Scene(client)


def begun(client: httpx.Client, database: str = "default", /, **options: Any) -> int:
    """Hand a backfill over as a migration file does, and ask for it; return the id."""
    name = f"orchard.migrations.{next(_numbers):04}"
    forwards, _ = make_backfill_migration(migration_name=name, **options)
    with connections[database].schema_editor() as editor:
        forwards(apps, editor)  # type: ignore[arg-type]
    after_migrate(database)
    pk = lifecycle.rows().get(name=name).pk
    ask(client, pk)
    return pk


def as_it_is(scene: Scene, pk: int) -> list[Any]:
    """Return how far the lanes are, and the rows themselves."""
    lanes = [(lane.cursor, lane.rows_done, lane.batches, lane.finished) for lane in scene.lanes(pk)]
    return [lanes, query("SELECT n, count(*) FROM tally GROUP BY n ORDER BY n")]


def assert_each_once(scene: Scene, pk: int, rows: int = ROWS) -> None:
    now = ended(scene.client, pk, PATIENCE)
    assert (now["status"], now["meta"].get("error")) == ("FINISHED", None)
    assert query("SELECT n, count(*) FROM tally GROUP BY n") == [(1, rows)]
    assert (now["progress"]["done"], now["progress"]["total"], now["progress"]["percent"]) == (rows, rows, 100)
    assert scene.done(pk) == rows


def test_by_default_it_says_how_far_it_is_and_pauses_at_the_next_batch(scene: Scene, crew: Crew) -> None:
    # Given rows of which a thousand take the half second of a batch, and that keep their batch and the heartbeat as it
    # was then, once a pause is asked for; a batch that is rolled back leaves a gap
    make_tally(3 * ROWS)
    query("ALTER TABLE tally ADD batch bigint, ADD beat timestamptz")
    query("CREATE SEQUENCE batches OWNED BY tally.batch")
    asked = "SELECT heartbeat_at FROM async_migrations_asyncmigrationstatus WHERE stop_requested = 'pause'"
    slow = "n = n + 1 + CASE WHEN id % 12 = 0 THEN dawdle() ELSE 0 END"
    with alone(crew, **dict.fromkeys(SHORT, "")):
        update = f"{slow}, batch = (SELECT nextval('batches')), beat = ({asked})"
        pk = begun(scene.client, table="tally", update=update, throttle=False)
        answers = watched(scene.client, pk, has_gone_on(3000))
        assert_rate(answers)
        # When it is paused
        ask(scene.client, pk, "pause")
        answers += watched(scene.client, pk, lambda now: now["status"] == "PAUSED")
        # Then no batch is cut short, and none begins after a beat that has read it, but for one in that very moment
        batches = query("SELECT DISTINCT batch, beat FROM tally WHERE batch IS NOT NULL ORDER BY batch")
        assert query("SELECT last_value FROM batches") == [(len(batches),)]
        beats = [beat for _, beat in batches if beat]
        assert sum(beat > beats[0] for beat in beats) <= 1
        assert conf.heartbeat_seconds + conf.target_batch_seconds <= 2, "what is promised of a pause"
        assert pace_of(answers[-1]) == (None, None)
        # And when it is resumed, it goes on from there to a true end
        scene.hurry(pk)
        ask(scene.client, pk, "resume")
        answers += watched(scene.client, pk, lambda now: now["terminal"])
    assert_each_once(scene, pk, 3 * ROWS)
    assert answers[-1]["progress"]["eta_seconds"] is None
    assert_never_too_much(answers)


@contextmanager
def alone(crew: Crew, **environment: str) -> Iterator[None]:
    """Hire a worker that has all the work to itself while the block runs: the others are frozen."""
    others = list(crew.workers)
    crew.hire(**{**ONE_AT_A_TIME, **environment})
    with ExitStack() as stack:
        stack.callback(crew.kill, crew.workers[-1])
        for other in others:
            stack.enter_context(crew.frozen(other))
        yield


def watched(client: httpx.Client, pk: int, reached: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Poll until an answer is as wanted; return all that differ from the one before."""
    answers: list[dict[str, Any]] = []

    def look() -> bool:
        now = row(client, pk)
        if now not in answers[-1:]:
            answers.append(now)
        return reached(now)

    eventually(look, PATIENCE)
    return answers


def has_gone_on(rows: int) -> Callable[[dict[str, Any]], bool]:
    """Return whether a backfill has changed so many rows since the first answer with a number, and has a rate."""
    first: list[int] = []

    def look(now: dict[str, Any]) -> bool:
        done = now["progress"]["done"]
        if done and not first:
            first.append(done)
        return bool(first) and done - first[0] >= rows and now["progress"]["rate_per_second"] is not None

    return look


def pace_of(answer: dict[str, Any]) -> tuple[float | None, int | None]:
    return answer["progress"]["rate_per_second"], answer["progress"]["eta_seconds"]


def assert_rate(answers: list[dict[str, Any]]) -> None:
    """The rate is that of the rows by the server's clock.

    A factor of 10 is beyond what a busy machine does to either, and far within that of another unit.
    """
    first, last = next(now for now in answers if now["progress"]["done"]), answers[-1]
    began, ended_at = (datetime.fromisoformat(now["heartbeat_at"]) for now in (first, last))
    rows = last["progress"]["done"] - first["progress"]["done"]
    seen = rows / (ended_at - began).total_seconds()
    assert seen / 10 < last["progress"]["rate_per_second"] < seen * 10


def assert_never_too_much(answers: list[dict[str, Any]]) -> None:
    """What each answer says is possible, fits together, and never falls behind the one before."""
    for before, now in pairwise(answers):
        assert (now["progress"]["done"] or 0) >= (before["progress"]["done"] or 0)
    for now in answers[:-1]:
        progress, (rate, eta) = now["progress"], pace_of(now)
        assert progress["percent"] is None or progress["percent"] < 100
        assert (rate is None) == (eta is None)
        if rate is not None:
            assert rate > 0
            assert eta == pytest.approx((progress["total"] - progress["done"]) / rate, rel=0.01, abs=1)


def test_pause_holds_every_lane_and_new_workers_go_on_from_the_cursors(scene: Scene, crew: Crew) -> None:
    # Given three lanes on two workers, in another time zone than the server's
    pk = begun(scene.client, **SLOWLY, lanes=3, settings={"TimeZone": "Asia/Tokyo"})
    scene.both_at_work(pk)
    scene.walked(pk, 100)
    # When it is paused
    ask(scene.client, pk, "pause")
    eventually(lambda: row(scene.client, pk)["status"] == "PAUSED")
    # Then nothing moves from then on, nobody is at work, and both may be replaced
    before = as_it_is(scene, pk)
    for worker in list(crew.workers):
        crew.kill(worker)
    crew.hire(2, **ONE_AT_A_TIME)
    eventually(lambda: not backends(), what="no session of ours")
    now = row(scene.client, pk)
    assert as_it_is(scene, pk) == before
    assert (now["status"], now["terminal"], now["stop_requested"]) == ("PAUSED", False, None)
    # And when it is resumed, each row is changed once all the same
    ask(scene.client, pk, "resume")
    scene.walked(pk, sum(lane[1] for lane in before[0]) + 1)
    scene.hurry(pk)
    assert_each_once(scene, pk)
    told = kinds(lifecycle.get(pk))
    assert [told.count(kind) for kind in ("pause_requested", "pause", "resume", "resumed", "claim")] == [1, 1, 1, 1, 2]


def test_another_database_keeps_what_is_done_in_it_whoever_dies(client: httpx.Client, crew: Crew) -> None:
    # Given a backfill of another database than the one with the rows of migrations, whose table has the same name
    there = Scene(client, "second")
    make_tally(ROWS, there.using)
    try:
        pk = begun(client, there.using, **SLOWLY)
        lane = there.walked(pk, 100)[0]
        # When the worker is killed over it
        crew.kill(crew.holder(lifecycle.get(pk)))
        crew.hire(**ONE_AT_A_TIME)
        # Then checkpoint and cursor are beside the rows, and another worker goes on from them
        assert lane.cursor is not None
        for written in (AsyncMigrationLane, AsyncMigrationCheckpoint):
            of_it = {"migration_id": pk}
            assert written.objects.using(there.using).filter(**of_it).exists()
            assert not written.objects.using("default").filter(**of_it).exists()
        there.walked(pk, there.done(pk) + 1)
        there.hurry(pk)
        now = ended(client, pk, PATIENCE)
        assert (now["status"], now["database"], now["meta"].get("error")) == ("FINISHED", "second", None)
        assert query("SELECT n, count(*) FROM tally GROUP BY n", there.using) == [(1, ROWS)]
        assert now["progress"]["done"] == there.done(pk) == ROWS
        assert query("SELECT DISTINCT n FROM tally") == [(0,)], "the table of the same name"
        told = kinds(lifecycle.get(pk))
        assert [told.count(kind) for kind in ("claim", "reap", "resumed", "succeed")] == [2, 1, 1, 1]
    finally:
        drop_tally(there.using)


def test_an_estimate_that_proves_wrong_is_not_kept(scene: Scene, crew: Crew) -> None:
    query("ALTER TABLE tally ADD fresh int")  # Of a column without statistics the planner guesses that few are NULL.
    pk = begun(scene.client, **SLOWLY | {"update": f"fresh = 1, {COUNT}"}, where="fresh IS NULL")
    scene.tune(pk, batch_size=200, batch_delay_seconds=0)
    known = eventually(lambda: (now := row(scene.client, pk))["progress"]["rate_per_second"] and now)
    eventually(lambda: row(scene.client, pk)["progress"]["total"] is None, PATIENCE, what="more than the estimate")
    now = row(scene.client, pk)["progress"]
    assert now["done"] > (known["progress"]["total"] or 0)
    assert (now["percent"], now["eta_seconds"]) == (None, None)
    assert now["rate_per_second"] > 0
    scene.hurry(pk)
    assert_each_once(scene, pk)


def test_tuning_takes_effect_while_it_runs(scene: Scene, crew: Crew) -> None:
    pk = begun(scene.client, **SLOWLY)
    scene.walked(pk, 20)
    assert scene.lanes(pk)[0].batch_size == 5
    scene.tune(pk, batch_size=40, batch_delay_seconds=0)
    eventually(lambda: scene.lanes(pk)[0].batch_size == 40, what="larger batches")
    scene.tune(pk, batch_size=3)
    eventually(lambda: scene.lanes(pk)[0].batch_size == 3, what="smaller batches")
    scene.tune(pk, batch_delay_seconds=3600)
    eventually(lambda: as_it_is(scene, pk) == as_it_is(scene, pk), what="it rests")
    scene.hurry(pk)
    assert_each_once(scene, pk)
    told = [event["detail"]["after"] for event in events(scene.client, pk) if event["kind"] == "tuned"]
    assert told[:2] == [{"batch_size": 40, "batch_delay_seconds": 0}, {"batch_size": 3}]
    assert kinds(lifecycle.get(pk)).count("claim") == 1


def events(client: httpx.Client, pk: int) -> list[dict[str, Any]]:
    return list(client.get(f"/api/async-migrations/{pk}/events", params={"page_size": 500}).json()["results"])


def test_cancel_holds_every_lane_and_run_goes_on_from_the_cursors(scene: Scene, crew: Crew) -> None:
    pk = begun(scene.client, **SLOWLY, lanes=3)
    scene.both_at_work(pk)
    scene.walked(pk, 100)
    ask(scene.client, pk, "cancel")
    assert ended(scene.client, pk)["status"] == "CANCELLED"
    before = as_it_is(scene, pk)
    eventually(lambda: not backends(), what="no session of ours")
    assert as_it_is(scene, pk) == before
    ask(scene.client, pk)
    scene.walked(pk, sum(lane[1] for lane in before[0]) + 1)
    scene.hurry(pk)
    assert_each_once(scene, pk)


def test_lanes_are_carried_out_by_several_workers_in_the_same_way(scene: Scene, crew: Crew) -> None:
    # A row that is changed without the file's settings becomes NULL, which is an error.
    own = {**SLOWLY, "update": "n = n + length(current_setting('tally.one', true)) + dawdle()"}
    pk = begun(scene.client, **own, lanes=4, settings={"tally.one": "1"})
    scene.both_at_work(pk)
    scene.walked(pk, 100)
    scene.hurry(pk)
    assert_each_once(scene, pk)
    assert len({lane.worker for lane in scene.lanes(pk)}) == 2
    assert len(scene.lanes(pk)) == 4
    assert kinds(lifecycle.get(pk)).count("claim") == 1


def test_it_waits_while_there_is_a_reason_to_and_says_so(scene: Scene, crew: Crew, orchard: Path) -> None:
    pk = begun(scene.client, **{**SLOWLY, "throttle": True})
    scene.walked(pk, 20)
    weather = orchard / "weather"
    weather.write_text("it rains")
    try:
        now = eventually(lambda: (seen := row(scene.client, pk))["throttled"] and seen)
        assert now["status"] == "IN PROGRESS"
        since = datetime.fromisoformat(now["throttled"].pop("since"))
        assert now["throttled"] == {"reason": "it rains", "value": "orchard.weather", "limit": None}
        before = as_it_is(scene, pk)
        # Another reason, and then nobody looks any more.
        weather.write_text("it snows")
        eventually(lambda: (row(scene.client, pk)["throttled"] or {}).get("reason") == "it snows")
        assert as_it_is(scene, pk) == before
        scene.tune(pk, throttle=False)
        eventually(lambda: row(scene.client, pk)["throttled"] is None)
        scene.walked(pk, before[0][0][1] + 1)
        scene.tune(pk, throttle=None)
        eventually(lambda: row(scene.client, pk)["throttled"])
        points = lifecycle.get(pk).samples.filter(throttled="it snows", unit="rows", done__gt=0, batch_size=5)
        eventually(points.exists, what="a point for the chart")
    finally:
        weather.unlink()
    eventually(lambda: row(scene.client, pk)["throttled"] is None, what="it goes on by itself")
    scene.hurry(pk)
    assert_each_once(scene, pk)
    told = [event["detail"] for event in events(scene.client, pk) if event["kind"] == "throttled"]
    assert [detail["reason"] for detail in told] == ["it rains", "it snows", "it snows"]
    assert datetime.fromisoformat(told[0]["since"]) == since
    assert all(detail["seconds"] > 0 for detail in told)


def test_a_standby_that_stops_to_replay_holds_it_up(scene: Scene, crew: Crew) -> None:
    if urlsplit(os.environ["DATABASE_URL"]).hostname:
        pytest.skip("only the embedded server can be copied: unset DATABASE_URL")
    with standby(os.environ["DATABASE_URL"]) as replica:
        eventually(lambda: query("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"), what="it streams")
        pk = begun(scene.client, **{**SLOWLY, "throttle": {"replica_lag_seconds": 0.5}})
        scene.walked(pk, 20)
        replica.pause_replay()
        now = eventually(lambda: (seen := row(scene.client, pk)["throttled"]) and seen)
        assert (now["reason"], now["limit"]) == ("replica_lag_seconds", 0.5)
        before = as_it_is(scene, pk)
        lag = now["value"]
        eventually(lambda: (row(scene.client, pk)["throttled"] or now)["value"] > lag, what="it lags ever more")
        assert as_it_is(scene, pk) == before
        replica.resume_replay()
        eventually(lambda: row(scene.client, pk)["throttled"] is None, what="it goes on by itself")
        scene.walked(pk, before[0][0][1] + 1)
    scene.hurry(pk)
    assert_each_once(scene, pk)
    assert "throttled" in kinds(lifecycle.get(pk))


def test_it_goes_gently_while_others_write(scene: Scene, crew: Crew) -> None:
    gone = threading.Event()

    def shop() -> None:
        with Session("default", "shop") as session:
            while not gone.wait(0.004):
                session.execute("UPDATE till SET n = n + 1")

    query("CREATE TABLE till AS SELECT 0 AS n")
    writer = threading.Thread(target=shop)
    try:
        writer.start()
        # Two lanes: none takes the batches of the other for those of the shop.
        pk = begun(scene.client, **{**SLOWLY, "throttle": {"lock_waiters": None}}, lanes=2)
        eventually(lambda: "gently: others write" in row(scene.client, pk)["phase"], what="it goes gently")
        gone.set()
        writer.join()
        eventually(lambda: row(scene.client, pk)["phase"] == "changing rows", what="it goes as before")
        eventually(lambda: kinds(lifecycle.get(pk)).count("went_gently") == 2, what="both lanes say for how long")
    finally:
        gone.set()
        writer.join()
        query("DROP TABLE till")
    scene.hurry(pk)
    assert_each_once(scene, pk)


def test_bad_rows_are_listed_and_tried_again_alone(scene: Scene, crew: Crew) -> None:
    query("ALTER TABLE tally ADD said text NOT NULL DEFAULT '1'")
    query("UPDATE tally SET said = 'plum' WHERE id IN (3, 300, 3000)")
    wanted = {"table": "tally", "update": "n = n + said::int", "throttle": False, "duty_cycle": 1}
    pk = begun(scene.client, **wanted, on_bad_row="quarantine", max_bad_rows=3)
    now = ended(scene.client, pk)
    assert (now["status"], now["quarantined"], now["progress"]["done"]) == ("FINISHED", 3, ROWS - 3)
    page = scene.client.get(f"/api/async-migrations/{pk}/quarantine").json()
    assert sorted(bad["key"] for bad in page["results"]) == [["3"], ["300"], ["3000"]]
    assert {bad["error"]["sqlstate"] for bad in page["results"]} == {"22P02"}
    assert "plum" in page["results"][0]["error"]["message"]
    # When two of them are corrected, and it is run again
    query("UPDATE tally SET said = '1' WHERE id IN (3, 3000)")
    batches = [lane.batches for lane in scene.lanes(pk)]
    ask(scene.client, pk)
    now = eventually(lambda: (seen := row(scene.client, pk))["quarantined"] == 1 and seen["terminal"] and seen)
    # Then just those were tried
    assert (now["status"], now["progress"]["done"]) == ("FINISHED", ROWS - 1)
    assert [lane.batches for lane in scene.lanes(pk)] == batches
    assert query("SELECT n, count(*) FROM tally GROUP BY n ORDER BY n") == [(0, 1), (1, ROWS - 1)]
    tried = next(event for event in events(scene.client, pk) if event["kind"] == "bad_rows_tried_again")
    assert tried["detail"] == {"tried": 3, "done": 2}
    assert scene.client.get(f"/api/async-migrations/{pk}/quarantine").json()["results"][0]["key"] == ["300"]


def test_a_shut_window_leaves_the_place_to_others(scene: Scene, crew: Crew) -> None:
    opens = (datetime.now(UTC) + timedelta(hours=2)).replace(second=0, microsecond=0)
    window = f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M} UTC"
    pk = begun(scene.client, **SLOWLY, window=window)
    now = eventually(lambda: (seen := row(scene.client, pk))["run_at"] and seen)
    assert (now["status"], now["phase"], now["attempt"]) == ("STARTED", "waits for its window to open", 0)
    assert abs(datetime.fromisoformat(now["run_at"]) - opens) < timedelta(seconds=5)
    other = scheduled("SELECT 1")
    ask(scene.client, other)
    assert ended(scene.client, other)["status"] == "FINISHED"
    assert scene.done(pk) == 0
    ask(scene.client, pk, "cancel")
    assert ended(scene.client, pk)["status"] == "CANCELLED"


def test_a_function_runs_on_a_worker_that_has_it(scene: Scene, crew: Crew) -> None:
    first, second = crew.workers
    crew.hire(**ONE_AT_A_TIME, PYTHONPATH="", ASYNC_MIGRATIONS_THROTTLE_CALLABLES="")
    stranger = crew.workers[-1]
    try:
        with crew.frozen(first), crew.frozen(second):
            pk = begun(scene.client, table="tally", process="orchard.ripen", throttle=False, duty_cycle=1)
            now = eventually(lambda: (seen := row(scene.client, pk))["status"] == "STARTED" and seen["phase"] and seen)
            assert now["phase"].startswith("this worker has no orchard.ripen")
        assert_each_once(scene, pk)
        assert crew.holder(lifecycle.get(pk)) is not stranger
    finally:
        crew.kill(stranger)


def test_a_worker_frozen_within_a_batch_keeps_no_row_locked(scene: Scene, crew: Crew) -> None:
    pk = begun(scene.client, **SLOWLY)
    scene.walked(pk, 20)
    with frozen_within_a_batch(crew, pk) as pid:
        eventually(lambda: not query(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"), what="its session is ended")
        scene.hurry(pk)
        assert_each_once(scene, pk)  # By the other worker.
    eventually(lambda: not backends(), what="no session of ours")
    assert_each_once(scene, pk)


@contextmanager
def frozen_within_a_batch(crew: Crew, pk: int) -> Iterator[int]:
    """Freeze the worker in the moment between a batch's change and its commit; yield its session's pid."""
    worker, session = crew.holder(lifecycle.get(pk)), f"async-migrations/{pk}/1"
    at_rest = f"SELECT pid, state FROM pg_stat_activity WHERE application_name = '{session}' AND state <> 'active'"
    while True:
        with crew.frozen(worker):
            pid, state = eventually(lambda: query(at_rest), what="its statement is through")[0]
            if state == "idle in transaction":
                yield pid
                return


def test_a_table_that_is_locked_is_waited_for_in_the_same_attempt(scene: Scene, crew: Crew) -> None:
    pk = begun(scene.client, **SLOWLY)
    scene.walked(pk, 20)
    with held("LOCK TABLE tally IN ACCESS EXCLUSIVE MODE"):
        blocked_again_and_again(pk)
        before = scene.done(pk)
    scene.walked(pk, before + 1)
    scene.hurry(pk)
    assert_each_once(scene, pk)
    assert kinds(lifecycle.get(pk)).count("claim") == 1
    assert not scene.lanes(pk)[0].deferred


def blocked_again_and_again(pk: int) -> None:
    """Wait until the session of an attempt has waited for a lock three times."""
    waits: set[Any] = set()
    ours = f"application_name ~ '^async-migrations/{pk}/[0-9]+$' AND wait_event_type = 'Lock'"

    def look() -> bool:
        waits.update(query(f"SELECT query_start FROM pg_stat_activity WHERE {ours}"))
        return len(waits) >= 3

    eventually(look, what="three waits")


def test_analyze_waits_for_a_vacuum_in_the_same_attempt(scene: Scene, crew: Crew) -> None:
    with held("LOCK TABLE tally IN SHARE UPDATE EXCLUSIVE MODE"):
        pk = begun(scene.client, table="tally", update="n = n + 1", throttle=False, duty_cycle=1, analyze=True)
        now = eventually(lambda: (seen := row(scene.client, pk))["waiting_on"] and seen)
        assert now["phase"] == "analyzing the table"
        assert (now["progress"]["done"], now["progress"]["percent"]) == (ROWS, 99.9), "it has not ended yet"
        beat = now["heartbeat_at"]
        eventually(lambda: row(scene.client, pk)["heartbeat_at"] > beat)
    assert_each_once(scene, pk)
    assert kinds(lifecycle.get(pk)).count("claim") == 1
