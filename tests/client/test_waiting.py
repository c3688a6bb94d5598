"""Waiting: what is shown on a terminal, in a log and to a script, how it ends, and that who goes away stops nothing."""

from __future__ import annotations

import json
import re
import signal

import pytest

from async_migrations import lifecycle
from async_migrations.errors import ExecutionError
from async_migrations.lifecycle import Origin
from tests.client.conftest import finish, started
from tests.conftest import eventually
from tests.faults.proxy import Proxy
from tests.http.conftest import begin
from tests.test_docs import CI, block

pytestmark = pytest.mark.e2e


def read_until(process, text):
    """Read lines of a process until one has the text; return that."""
    while line := process.stdout.readline():
        if text in line:
            return line
    pytest.fail(f"it ended without {text!r}: {process.stderr.read()}")


def test_1_when_one_failed_and_one_was_cancelled(cli, migration):
    rows = [started(migration()) for _ in range(3)]
    waiting = cli.start("wait", *(row.pk for row in rows), "--timeout", 30)
    for row in rows:
        read_until(waiting, f"{row.pk} {row.name} on default: STARTED")
    finish(rows[0])
    lease = begin(rows[1].pk)
    lifecycle.fail(lease, ExecutionError(code="duplicate_key", message="could not create", hint="Remove them."))
    lifecycle.cancel(rows[2].pk, Origin("somebody"))
    out, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 1
    assert f"{rows[0].pk} {rows[0].name} on default: FINISHED, 100.0 %" in out
    assert errors.splitlines() == [
        f"{rows[1].pk} {rows[1].name} on default ended as ERROR, not FINISHED. could not create Remove them.",
        f"{rows[2].pk} {rows[2].name} on default ended as CANCELLED, not FINISHED.",
    ]


def test_75_when_the_time_was_up_and_why(cli, migration):
    done = cli("wait", migration().pk, "--timeout", 0.2)
    assert done.returncode == 75
    assert "nobody has started it yet; `run` does" in done.stderr
    assert "After 0.2 s still going on" in done.stderr


def test_a_line_for_each_change_and_json_a_line(cli, migration):
    row = started(migration(name="shop.migrations.0002_order_customer_idx_async"))
    text, as_json = (cli.start("wait", row.pk, *more) for more in ((), ("--json",)))
    read_until(text, "STARTED")
    assert json.loads(as_json.stdout.readline())["status"] == "STARTED"
    lease = begin(row.pk)
    lifecycle.renew(lease, phase="building index: scanning table", progress_percent=26.8, eta_seconds=35)
    assert read_until(text, "scanning") == block("progress", CI).replace("12", str(row.pk), 1)
    blocked = [{"pid": 7, "application_name": "psql", "state": "idle in transaction", "seconds": 65}]
    counted = {"progress_done": 1, "progress_total": 4, "progress_percent": 25.0, "eta_seconds": 90}
    lifecycle.renew(lease, phase="building index", waiting_on=blocked, **counted)
    assert read_until(text, "building") == (
        f"{row.pk} {row.name} on default: IN PROGRESS, 25.0 %, building index, about 1 min 30 s left, "
        "waits for pid 7 (psql) idle in transaction for 1 min 5 s\n"
    )
    lifecycle.succeed(lease)
    assert text.wait(30) == as_json.wait(30) == 0
    documents = [json.loads(line) for line in as_json.stdout]
    assert documents[-1]["status"] == "FINISHED"
    assert documents[-1] == {**documents[-1], "id": row.pk, "terminal": True}


def test_bars_on_a_terminal(cli, migration):
    rows = [started(migration()), started(migration())]
    lease = begin(rows[0].pk)
    lifecycle.renew(lease, phase="building index", progress_percent=25.0, eta_seconds=90)

    def work(seen):
        if "25%" in seen and lifecycle.get(rows[0].pk).status == "IN PROGRESS":
            lifecycle.succeed(lease)
            finish(rows[1])

    code, seen = cli.on_terminal("wait", *(row.pk for row in rows), "--timeout", 30, watched=work)
    assert code == 0
    assert "IN PROGRESS, building index, about 1 min 30 s left" in seen
    assert "\x1b[1A" in seen, "the bars are drawn again in place"
    last = seen[seen.rindex("0002_async on default") :]
    assert last.count("100%") == 2
    assert last.count("FINISHED") == 2


def test_the_service_holds_the_answer_instead_of_being_asked_again_and_again(cli_of, shared_api, migration):
    proxy = Proxy({"HOST": "127.0.0.1", "PORT": shared_api.url.rpartition(":")[2]})
    row = started(migration())
    waiting = cli_of(at=f"http://127.0.0.1:{proxy.port}").start("wait", row.pk)
    read_until(waiting, "STARTED")
    eventually(lambda: b"if-none-match" in proxy.heard.lower(), what="it waits for news")
    asked = proxy.heard.count(b"GET ")
    finish(row)
    assert waiting.wait(30) == 0
    proxy.close()
    assert re.search(rb"prefer: wait=20\r\n", proxy.heard.lower())
    assert proxy.heard.count(b"GET ") - asked <= 3


def test_events_are_followed_to_the_end(cli, migration):
    row = started(migration())
    following = cli.start("events", row.pk, "--follow")
    read_until(following, "run  SCHEDULED -> STARTED")
    finish(row)
    out, errors = following.communicate(timeout=30)
    assert (following.returncode, errors) == (0, "")
    assert [line.split("  ")[1] for line in out.splitlines()] == ["claim", "succeed"]


def test_a_gate_is_waited_for(cli, migration):
    row = started(migration())
    gate = cli.start("gate", "--name", row.name, "--wait", 30)
    read_until(gate, "pending: 1 migrations looked at")
    finish(row)
    out, errors = gate.communicate(timeout=30)
    assert (gate.returncode, errors, out.splitlines()[-1]) == (0, "", "pass: 1 migrations looked at")


@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_who_goes_away_stops_nothing_and_says_so(cli, migration, number, code, how):
    row = migration()
    waiting = cli.start("run", row.pk, "--wait")
    read_until(waiting, ": STARTED")
    waiting.send_signal(number)
    _, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == code
    assert errors == (f"{how}; nothing was stopped, the migrations go on. Look again: async-migrations wait {row.pk}\n")
    assert lifecycle.get(row.pk).status == "STARTED"
