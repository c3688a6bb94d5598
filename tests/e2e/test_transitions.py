"""Every transition that a person can cause, over HTTP, with a real worker: from each status by each verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from async_migrations import states
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import book, query  # noqa: F401 - a fixture
from tests.driving import QUICK, ask, ended, held, row, scheduled

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("control", "book")]

ADD = "UPDATE book SET n = n + 1"
SUBTRACT = "UPDATE book SET n = n - 1"
LOCK = "SELECT pg_advisory_lock(4711)"


@pytest.fixture
def operator(api: Callable[..., Any]) -> httpx.Client:
    client: httpx.Client = api("operator")
    return client


def changes() -> int:
    return int(query("SELECT max(n) FROM book")[0][0])


def refused(client: httpx.Client, pk: int, verb: str) -> dict[str, Any]:
    answer = client.post(f"/api/async-migrations/{pk}/{verb}")
    assert answer.status_code == 409, answer.text
    problem = dict(answer.json())
    assert problem["code"] == "invalid_transition"
    assert problem["allowed"] == list(states.verbs_from(problem["status_now"]))
    return problem


def test_what_has_not_begun(operator) -> None:
    pk = scheduled(ADD, SUBTRACT)
    assert refused(operator, pk, "rollback")["status_now"] == Status.SCHEDULED
    ask(operator, pk, "cancel")
    assert row(operator, pk)["status"] == Status.CANCELLED
    ask(operator, pk, "cancel")
    ask(operator, pk, "run")
    assert row(operator, pk)["status"] == Status.STARTED
    ask(operator, pk, "run")
    assert refused(operator, pk, "rollback")["status_now"] == Status.STARTED
    ask(operator, pk, "cancel")
    ask(operator, pk, "rollback")
    assert row(operator, pk)["status"] == Status.ROLLED_BACK, "nothing ran, so there was nothing to undo"
    assert refused(operator, pk, "cancel")["status_now"] == Status.ROLLED_BACK
    assert changes() == 0


def test_what_ended_well(operator, start_worker) -> None:
    start_worker()
    pk = scheduled(ADD, SUBTRACT)
    ask(operator, pk, "run")
    assert (ended(operator, pk)["status"], changes()) == (Status.FINISHED, 1)
    ask(operator, pk, "run")
    assert refused(operator, pk, "cancel")["status_now"] == Status.FINISHED
    ask(operator, pk, "rollback")
    eventually(lambda: row(operator, pk)["status"] == Status.ROLLED_BACK)
    ask(operator, pk, "rollback")
    assert changes() == 0
    ask(operator, pk, "run")
    eventually(lambda: row(operator, pk)["status"] == Status.FINISHED)
    assert changes() == 1


def test_what_is_in_progress(operator, start_worker) -> None:
    start_worker(**QUICK)
    pk = scheduled(f"{ADD}; {LOCK}", SUBTRACT)
    with held(LOCK):
        ask(operator, pk, "run")
        eventually(lambda: row(operator, pk)["waiting_on"])
        ask(operator, pk, "run")
        assert refused(operator, pk, "rollback")["status_now"] == Status.IN_PROGRESS
        ask(operator, pk, "cancel")
        ask(operator, pk, "cancel")
        assert ended(operator, pk)["status"] == Status.CANCELLED
    assert changes() == 1, "the first statement was done, and stays"
    ask(operator, pk, "rollback")
    eventually(lambda: row(operator, pk)["status"] == Status.ROLLED_BACK)
    assert changes() == 0


def test_what_failed(operator, start_worker) -> None:
    start_worker()
    pk = scheduled(f"{ADD}; SELECT 1 / 0", SUBTRACT)
    ask(operator, pk, "run")
    assert ended(operator, pk)["status"] == Status.ERROR
    ask(operator, pk, "run")
    eventually(lambda: (now := row(operator, pk))["status"] == Status.ERROR and now["attempt"] == 1)
    assert changes() == 1, "what was done is not done again"
    ask(operator, pk, "cancel")
    assert row(operator, pk)["status"] == Status.CANCELLED
    ask(operator, pk, "run")
    assert ended(operator, pk)["status"] == Status.ERROR
    ask(operator, pk, "rollback")
    eventually(lambda: row(operator, pk)["status"] == Status.ROLLED_BACK)
    assert changes() == 0


def test_a_rollback_that_fails_and_is_tried_again(operator, start_worker) -> None:
    start_worker()
    pk = scheduled(ADD, f"{SUBTRACT}; SELECT 1 / (SELECT count(*) FROM book WHERE n < 0)")
    ask(operator, pk, "run")
    assert ended(operator, pk)["status"] == Status.FINISHED
    ask(operator, pk, "rollback")
    eventually(lambda: row(operator, pk)["status"] == Status.ERROR)
    assert row(operator, pk)["meta"]["error"]["statement"] == 2
    query("UPDATE book SET n = -1 WHERE id = 1")
    ask(operator, pk, "rollback")
    eventually(lambda: row(operator, pk)["status"] == Status.ROLLED_BACK)
    assert changes() == 0


def test_a_start_at_a_later_time(operator, start_worker) -> None:
    start_worker(ASYNC_MIGRATIONS_RECONCILE_SECONDS="0.2")
    now = query("SELECT to_char(now() + interval '2 seconds', 'YYYY-MM-DD\"T\"HH24:MI:SS.USOF\":00\"')")[0][0]
    pk = scheduled(ADD, SUBTRACT)
    answer = operator.post(f"/api/async-migrations/{pk}/run", json={"run_at": now})
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] == Status.STARTED
    assert answer.json()["run_at"] is not None
    end = ended(operator, pk)
    assert end["status"] == Status.FINISHED
    began = f"SELECT created_at >= '{now}' FROM async_migrations_asyncmigrationevent WHERE kind = 'claim'"
    assert query(began) == [(True,)]
