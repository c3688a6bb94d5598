"""Migrations carried out by real workers, asked for over HTTP, with processes killed under them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings

from api.processes import readiness, web_command
from async_migrations import lifecycle
from async_migrations.tasks import execute_migration
from tests.conftest import eventually, free_port
from tests.db.conftest import book, index_is_valid, kinds, query  # noqa: F401 - a fixture
from tests.driving import OLD_SNAPSHOT, QUICK, ask, backends, ended, force, held, row, scheduled, stop_group

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("control", "book")]

BUILD = "CREATE UNIQUE INDEX CONCURRENTLY book_id_title_idx ON book (id, title)"
DROP = "DROP INDEX CONCURRENTLY IF EXISTS book_id_title_idx"


@pytest.fixture
def client(api: Callable[..., Any]) -> Any:
    return api("operator")


def test_the_main_job_over_http(client, start_worker) -> None:
    start_worker()
    pk = scheduled(BUILD, DROP)
    assert row(client, pk)["status"] == "SCHEDULED"
    ask(client, pk)
    assert ended(client, pk)["status"] == "FINISHED"
    assert index_is_valid("book_id_title_idx") is True
    ask(client, pk, "rollback")
    eventually(lambda: row(client, pk)["status"] == "ROLLED BACK")
    assert index_is_valid("book_id_title_idx") is None
    assert eventually(lambda: not backends(), what="no session left")


def test_phase_progress_and_who_blocks_it_are_seen_while_it_runs(client, start_worker) -> None:
    start_worker(**QUICK)
    pk = scheduled(BUILD, DROP)
    with held(*OLD_SNAPSHOT):
        ask(client, pk)
        now = eventually(lambda: (seen := row(client, pk))["phase"] == "waiting for old snapshots" and seen)
        assert now["status"] == "IN PROGRESS"
        assert 90 <= now["progress"]["percent"] < 100
        assert now["waiting_on"][0]["state"] == "idle in transaction"
        assert now["meta"]["job_id"]
        points = lifecycle.get(pk).samples.filter(phase=now["phase"], percent__gte=90, attempt=1)
        eventually(points.exists, what="a point for the chart")
    assert ended(client, pk)["progress"]["percent"] == 100


def test_a_worker_killed_during_a_build_is_followed_by_another_that_adopts_it(client, start_worker) -> None:
    # Given a build that cannot end yet
    pk = scheduled(BUILD, DROP)
    with held(*OLD_SNAPSHOT):
        first = start_worker(**QUICK)
        ask(client, pk)
        eventually(lambda: row(client, pk)["phase"] == "waiting for old snapshots")
        # When its worker is killed while another one lives
        start_worker(**QUICK)
        first.kill()
        # Then the other one waits for the backend that is still building, and builds nothing itself
        eventually(lambda: "waiting_for_session" in kinds(lifecycle.get(pk)))
        assert row(client, pk)["attempt"] == 2
        assert index_is_valid("book_id_title_idx") is False
    assert ended(client, pk)["status"] == "FINISHED"
    assert index_is_valid("book_id_title_idx") is True
    assert "found_done" in kinds(lifecycle.get(pk))
    assert "repair" not in kinds(lifecycle.get(pk))


def test_a_worker_killed_during_an_update_leaves_it_applied_exactly_once(client, start_worker) -> None:
    # Given an update that has changed all rows and cannot commit yet, behind one that is committed
    pk = scheduled("UPDATE book SET n = n + 1; UPDATE book SET n = n + 10; SELECT pg_advisory_lock(4711)")
    with held("SELECT pg_advisory_lock(4711)"):
        first = start_worker(**QUICK)
        ask(client, pk)
        eventually(lambda: kinds(lifecycle.get(pk)).count("statement_done") == 2)
        # When its worker is killed
        first.kill()
        start_worker(**QUICK)
        eventually(lambda: row(client, pk)["attempt"] == 2)
    # Then the next one goes on behind what is done
    assert ended(client, pk)["status"] == "FINISHED"
    assert query("SELECT DISTINCT n FROM book") == [(11,)]


def test_all_workers_killed_and_one_started_later_goes_on_by_itself(client, start_worker) -> None:
    pk = scheduled("UPDATE book SET n = n + 1; SELECT pg_advisory_lock(4711)")
    with held("SELECT pg_advisory_lock(4711)"):
        worker = start_worker(**QUICK)
        ask(client, pk)
        eventually(lambda: row(client, pk)["status"] == "IN PROGRESS")
        worker.kill()
    start_worker(**QUICK)
    assert ended(client, pk)["status"] == "FINISHED"
    assert query("SELECT DISTINCT n FROM book") == [(1,)]


def test_everything_in_the_broker_may_be_deleted(client, start_worker) -> None:
    pks = [scheduled("UPDATE book SET n = n + 1", name=f"books.migrations.{number}") for number in range(20)]
    for pk in pks:
        ask(client, pk)
    settings.DRAMATIQ_BROKER["OPTIONS"]["client"].flushall()
    start_worker(ASYNC_MIGRATIONS_RESEND_SECONDS="0.5", ASYNC_MIGRATIONS_RECONCILE_SECONDS="0.2")
    assert {ended(client, pk)["status"] for pk in pks} == {"FINISHED"}
    assert query("SELECT DISTINCT n FROM book") == [(20,)]


def test_a_broker_that_is_away_does_not_matter_to_who_asks(client, api, processes, start_worker) -> None:
    elsewhere = processes(web_command(port := free_port(), workers=1), BROKER_URL="redis://127.0.0.1:1/0")
    elsewhere.url = f"http://127.0.0.1:{port}"
    eventually(lambda: readiness(elsewhere.url).startswith("broker"), what="only the broker is missing")
    pk = scheduled("UPDATE book SET n = n + 1")
    ask(api("operator", at=elsewhere), pk)
    assert row(client, pk)["status"] == "STARTED"
    start_worker(ASYNC_MIGRATIONS_RESEND_SECONDS="0.5", ASYNC_MIGRATIONS_RECONCILE_SECONDS="0.2")
    assert ended(client, pk)["status"] == "FINISHED"


def test_a_web_server_that_is_killed_loses_nothing(api, start_api, start_worker) -> None:
    web = start_api()
    pk = scheduled("UPDATE book SET n = n + 1")
    ask(api("operator", at=web), pk)
    web.kill()
    start_worker()
    assert ended(api("viewer"), pk)["status"] == "FINISHED"


def test_the_same_message_many_times_is_one_attempt(client, start_worker) -> None:
    pk = scheduled("UPDATE book SET n = n + 1")
    ask(client, pk)
    for _ in range(10):
        execute_migration.send(pk)
    start_worker(threads=4)
    assert ended(client, pk)["status"] == "FINISHED"
    eventually(lambda: not settings.DRAMATIQ_BROKER["OPTIONS"]["client"].llen("dramatiq:async_migrations"))
    assert query("SELECT DISTINCT n FROM book") == [(1,)]
    assert kinds(lifecycle.get(pk)).count("claim") == 1


def test_cancel_of_a_running_build_leaves_nothing(client, start_worker) -> None:
    start_worker(**QUICK)
    pk = scheduled(BUILD, DROP)
    with held(*OLD_SNAPSHOT):
        ask(client, pk)
        eventually(lambda: row(client, pk)["phase"] == "waiting for old snapshots")
        ask(client, pk, "cancel")
        eventually(lambda: row(client, pk)["phase"] != "waiting for old snapshots")
    assert ended(client, pk)["status"] == "CANCELLED"
    assert index_is_valid("book_id_title_idx") is None
    ask(client, pk)
    assert eventually(lambda: row(client, pk)["status"] == "FINISHED")


def test_cancel_reaches_the_backend_that_a_killed_worker_left_behind(client, start_worker) -> None:
    pk = scheduled(BUILD, DROP)
    with held(*OLD_SNAPSHOT):
        first = start_worker(**QUICK)
        ask(client, pk)
        eventually(lambda: row(client, pk)["phase"] == "waiting for old snapshots")
        first.kill()
        ask(client, pk, "cancel")
        start_worker(**QUICK)
        eventually(lambda: query("SELECT count(*) FROM pg_stat_progress_create_index") == [(0,)])
    assert ended(client, pk)["status"] == "CANCELLED"
    assert index_is_valid("book_id_title_idx") is None


def test_cancel_removes_what_a_killed_worker_left_behind_even_if_it_came_to_its_end(client, start_worker) -> None:
    pk = scheduled(BUILD, DROP)
    with held(*OLD_SNAPSHOT):
        first = start_worker(**QUICK)
        ask(client, pk)
        eventually(lambda: row(client, pk)["phase"] == "waiting for old snapshots")
        first.kill()
    eventually(lambda: index_is_valid("book_id_title_idx") is True and not backends())
    ask(client, pk, "cancel")
    start_worker(**QUICK)
    assert ended(client, pk)["status"] == "CANCELLED"
    assert index_is_valid("book_id_title_idx") is None


def test_a_worker_that_is_told_to_end_gives_its_build_back(client, start_worker) -> None:
    pk = scheduled(BUILD, DROP)
    with held(*OLD_SNAPSHOT):
        worker = start_worker(**QUICK, ASYNC_MIGRATIONS_SHUTDOWN_GRACE_SECONDS="0.5")
        ask(client, pk)
        eventually(lambda: row(client, pk)["phase"] == "waiting for old snapshots")
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: query("SELECT count(*) FROM pg_stat_progress_create_index") == [(0,)])
    eventually(lambda: not worker.is_alive(), what="the worker ends")
    assert row(client, pk)["status"] == "STARTED"
    assert row(client, pk)["attempt"] == 0
    assert index_is_valid("book_id_title_idx") is None
    start_worker(**QUICK)
    assert ended(client, pk)["status"] == "FINISHED"


def test_a_worker_that_is_told_to_end_waits_for_no_pause(client, start_worker) -> None:
    pk = scheduled(BUILD, DROP)
    with held(*OLD_SNAPSHOT):
        worker = start_worker(**QUICK, ASYNC_MIGRATIONS_SHUTDOWN_GRACE_SECONDS="0.5")
        ask(client, pk)
        eventually(lambda: row(client, pk)["phase"] == "waiting for old snapshots")
        ask(client, pk, "pause")  # Which a build obeys when it is through.
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: query("SELECT count(*) FROM pg_stat_progress_create_index") == [(0,)])
    eventually(lambda: not worker.is_alive(), what="the worker ends")
    assert index_is_valid("book_id_title_idx") is None
    start_worker(**QUICK)
    eventually(lambda: row(client, pk)["status"] == "PAUSED", what="what was asked for is not forgotten")
    ask(client, pk, "resume")
    assert ended(client, pk)["status"] == "FINISHED"


def test_a_worker_stopped_beyond_its_lease_writes_nothing_when_it_goes_on(client, start_worker) -> None:
    pk = scheduled("UPDATE book SET n = n + 1 WHERE pg_advisory_xact_lock(4711) IS NOT NULL")
    with held("SELECT pg_advisory_lock(4711)"):
        first = start_worker(**QUICK)
        ask(client, pk)
        eventually(lambda: row(client, pk)["status"] == "IN PROGRESS" and row(client, pk)["waiting_on"])
        stop_group(first, signal.SIGSTOP)
        start_worker(**QUICK)
        eventually(lambda: row(client, pk)["attempt"] == 2)
    stop_group(first, signal.SIGCONT)
    assert ended(client, pk)["status"] == "FINISHED"
    assert query("SELECT DISTINCT n FROM book") == [(1,)]


def test_a_terminated_backend_is_tried_again(client, start_worker) -> None:
    start_worker(ASYNC_MIGRATIONS_BACKOFF_SECONDS="0.1", ASYNC_MIGRATIONS_RECONCILE_SECONDS="0.2")
    pk = scheduled("UPDATE book SET n = n + 1; SELECT pg_advisory_lock(4711)")
    with held("SELECT pg_advisory_lock(4711)"):
        ask(client, pk)
        eventually(lambda: query("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name ~ '^async-migrations/[0-9]+/[0-9]+$'"
        )
        eventually(lambda: "release" in kinds(lifecycle.get(pk)))
    assert ended(client, pk)["status"] == "FINISHED"
    assert query("SELECT DISTINCT n FROM book") == [(1,)]
    event = lifecycle.get(pk).events.get(kind="release")
    assert event.detail["error"]["code"] == "connection_lost"


def test_two_builds_on_one_table_are_carried_out_one_after_the_other(client, start_worker) -> None:
    start_worker(threads=4)
    pks = [scheduled(f"CREATE INDEX CONCURRENTLY book_{n}_idx ON book (title, n)", name=f"m{n}") for n in range(4)]
    for pk in pks:
        ask(client, pk)
    assert {ended(client, pk)["status"] for pk in pks} == {"FINISHED"}
    assert all(index_is_valid(f"book_{n}_idx") for n in range(4))
    assert all(kinds(lifecycle.get(pk)).count("claim") == 1 for pk in pks)


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("UPDATE book SET WHERE", "syntax_error"),
        ("UPDATE shelf SET n = 1", "undefined_table"),
        ("UPDATE book SET n = 1; CREATE UNIQUE INDEX CONCURRENTLY book_n_idx ON book (n)", "duplicate_key"),
    ],
)
def test_what_cannot_work_ends_in_error_that_says_why(client, start_worker, sql, code) -> None:
    start_worker()
    pk = scheduled(sql)
    force(pk)
    now = ended(client, pk)
    assert now["status"] == "ERROR"
    assert now["meta"]["error"]["code"] == code
    assert now["meta"]["error"]["hint"]
    assert index_is_valid("book_n_idx") is None
    following = scheduled("SELECT 1", name="next")
    ask(client, following)
    assert ended(client, following)["status"] == "FINISHED"
