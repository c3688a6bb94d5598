"""The hold with real processes: an API, and a worker that finds out by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import eventually
from tests.db.conftest import book, project  # noqa: F401 - fixtures
from tests.driving import QUICK, ask, ended, row, scheduled

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("control", "book")]

HOLD = "/api/async-migrations/hold"


def test_what_is_held_waits_and_goes_on_when_it_is_lifted(api, start_worker) -> None:
    client = api("operator")
    start_worker(ASYNC_MIGRATIONS_RECONCILE_SECONDS="0.2", **QUICK)
    assert client.put(HOLD, json={"reason": "incident 7"}).status_code == 200
    first, second = scheduled("SELECT 1", name="a"), scheduled("SELECT 1", name="b", database="second")
    answer = client.post("/api/async-migrations/run", json={"ids": [first, second]}).json()
    assert answer["counts"]["accepted"] == 2
    eventually(lambda: row(client, first)["phase"] == "held by operator-1: incident 7", what="it says so")
    gate = client.get("/api/async-migrations/gate", params={"prefix": ["a", "b"]}).json()
    assert (gate["state"], gate["checked"]) == ("blocked", 2)
    client.delete(HOLD)
    assert [ended(client, pk)["status"] for pk in (first, second)] == ["FINISHED", "FINISHED"]
    assert client.get("/api/async-migrations/gate", params={"prefix": ["a", "b"]}).json()["state"] == "pass"


def test_a_hold_whose_time_is_up_is_no_hold(api, start_worker) -> None:
    client = api("operator")
    start_worker(ASYNC_MIGRATIONS_RECONCILE_SECONDS="0.2", **QUICK)
    until = datetime.now(UTC) + timedelta(seconds=2)
    assert client.put(HOLD, json={"reason": "a moment", "expires_at": until.isoformat()}).status_code == 200
    pk = scheduled("SELECT 1")
    ask(client, pk)
    done = ended(client, pk)
    assert done["status"] == "FINISHED"
    assert datetime.fromisoformat(done["started_at"]) >= until


def test_what_is_in_progress_is_given_back_and_goes_on(project, api, start_worker, settings) -> None:  # noqa: F811
    settings.ALLOW_SCHEDULED_MIGRATIONS = True
    options = "table='book', update='n = n + 1', batch_size=10, batch_delay_seconds=0.05"
    project.file("0001_fill", f"migrations.RunPython(*make_backfill_migration({options}, migration_name=__name__))")
    project.migrate()
    client = api("operator")
    start_worker(ASYNC_MIGRATIONS_RECONCILE_SECONDS="0.2", **QUICK)
    (pk,) = (found["id"] for found in client.get("/api/async-migrations").json()["results"])
    ask(client, pk)
    eventually(lambda: (row(client, pk)["progress"]["done"] or 0) > 0, what="a batch")
    client.put(HOLD, json={"reason": "incident 7"})
    held = eventually(lambda: (now := row(client, pk))["status"] == "STARTED" and now, what="it is given back")
    assert (held["attempt"], held["phase"]) == (0, "held by operator-1: incident 7")
    client.delete(HOLD)
    done = ended(client, pk)
    assert (done["status"], done["attempt"], done["progress"]["done"]) == ("FINISHED", 1, 500)
