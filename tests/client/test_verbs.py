"""The verbs of the client against a real server; each refusal has its exit code, and says what to do."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from api.processes import ROOT
from async_migrations import lifecycle
from async_migrations.client import many
from async_migrations.client.arguments import read
from async_migrations.client.watching import WANTED
from async_migrations.errors import ExecutionError
from async_migrations.lifecycle import Origin
from async_migrations.states import Status
from tests.client.conftest import finish, started
from tests.http.conftest import begin

pytestmark = pytest.mark.e2e

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from async_migrations.client import main
sys.exit(main())
"""
SERVER_SIDE = ["django", "rest_framework", "psycopg2", "sqlglot", "dramatiq"]


def without(packages, *arguments, **env):
    """Run the client where these packages are not installed."""
    command = [sys.executable, "-c", WITHOUT.format(packages=packages), *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_works_without_django(cli, migration, start_worker):
    start_worker()
    rows = [migration(), migration()]
    done = without(SERVER_SIDE, "run", *(row.name for row in rows), "--wait", "--timeout", "60", **cli.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{rows[0].name} on default: in line for a worker.\n" in done.stdout
    assert done.stdout.count("FINISHED, 100.0 %") == 2
    assert {lifecycle.get(row.pk).requested_by for row in rows} == {"operator-1"}


@pytest.mark.parametrize("package", ["httpx", "rich"])
def test_what_is_not_installed_is_one_line(package):
    done = without([package], "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'There is no {package} here. Install it: pip install "django-async-migrations[client]"\n'


def test_looking(cli_of, migration):
    viewer = cli_of("viewer")
    row, other = started(migration()), migration(database="second")
    finish(row)
    assert [line.split()[1] for line in viewer("list").stdout.splitlines()] == ["STATUS", "SCHEDULED", "FINISHED"]
    assert viewer("list", "--status", "finished", "--search", row.name).stdout.splitlines()[1].endswith(row.name)
    assert viewer("list", "--status", "in-progress").stdout == "No migrations.\n"
    listed = [json.loads(line) for line in viewer("list", "--json").stdout.splitlines()]
    assert [found["id"] for found in listed] == [other.pk, row.pk]

    text = viewer("show", "0002_async").stdout
    assert re.search(r"^status +FINISHED$", text, re.MULTILINE)
    assert "IN PROGRESS -> FINISHED" in text
    shown = json.loads(viewer("show", row.pk, "--json").stdout)
    assert (shown["sql_forwards"], shown["events"][-1]["kind"]) == ("SELECT 1", "succeed")
    kinds = [json.loads(line)["kind"] for line in viewer("events", row.pk, "--json").stdout.splitlines()]
    assert kinds == ["schedule", "run", "claim", "succeed"]


def test_preflight_is_1_when_it_would_fail(cli, migration):
    done = cli("preflight", migration("CREATE INDEX CONCURRENTLY x ON nowhere (id)").pk)
    assert (done.returncode, done.stderr) == (1, "")
    assert "error    undefined_table: " in done.stdout
    well = cli("preflight", migration().pk, "--json")
    assert (well.returncode, json.loads(well.stdout)["level"]) in [(0, "info"), (0, "warning"), (0, None)]


def test_asking(cli, migration):
    row = migration()
    assert cli("run", row.pk, "--run-at", "2999-01-01T00:00:00Z", "--priority", 0).stdout == (
        f"{row.name} on default: in line for a worker, not before 2999-01-01T00:00:00+00:00.\n"
    )
    assert cli("pause", row.pk).stdout == f"{row.name} on default: PAUSED.\n"
    assert cli("pause", row.pk).stdout == f"{row.name} on default: nothing to do, PAUSED.\n"
    assert json.loads(cli("resume", row.pk, "--json").stdout)["status"] == "STARTED"
    assert cli("cancel", row.pk, "--wait").stdout.endswith("CANCELLED\n")


def test_2_says_what_was_refused_and_keeps_nothing_else_from_happening(cli, migration):
    done, waiting = started(migration()), migration()
    finish(done)
    refused = cli("cancel", done.pk, waiting.pk, "--json")
    assert refused.returncode == 2
    assert re.fullmatch(r"Refused: cancel is not possible while .* \[invalid_transition\]\n", refused.stderr)
    problem, row = map(json.loads, refused.stdout.splitlines())
    assert (problem["code"], problem["allowed"], row["status"]) == ("invalid_transition", ["rollback"], "CANCELLED")

    doomed = cli("run", migration("CREATE INDEX CONCURRENTLY x ON nowhere (id)").pk)
    assert doomed.returncode == 2
    assert "[preflight_failed]\nerror    undefined_table" in doomed.stderr


def test_many_in_one_request(cli, migration):
    first, other = migration(), migration(database="second", name="store.migrations.0002_async")
    done = cli("run", "--app", "shop", "--dry-run")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["ID", "OUTCOME", "STATUS", "DATABASE", "CODE", "NAME"],
        [str(first.pk), "accepted", "SCHEDULED", "default", "-", first.name],
    ]
    assert (done.returncode, done.stderr, lifecycle.get(first.pk).status) == (0, "", "SCHEDULED")

    answer = json.loads(cli("run", "--status", "scheduled", "--database", "second", "--json").stdout)
    assert [(item["id"], item["outcome"]) for item in answer["items"]] == [(other.pk, "accepted")]
    assert (answer["dry_run"], answer["counts"]["accepted"]) == (False, 1)
    finish(other)
    refused = cli("cancel", "--ids", first.pk, other.pk, 10**9)
    assert refused.returncode == 2
    assert [line.split()[1] for line in refused.stdout.splitlines()[1:]] == ["accepted", "refused", "not"]
    told = refused.stderr.splitlines()
    assert re.fullmatch(rf"Refused: {other.pk} {other.name} on second: cancel .* \[invalid_transition\]", told[0])
    assert told[1:] == [f"Refused: there is no migration {10**9}."]
    assert lifecycle.get(first.pk).status == "CANCELLED"
    assert cli("cancel", "--search", "nothing").stdout == "No migrations.\n"


def test_all_there_are_and_wait_for_them(cli, migration, start_worker):
    start_worker()
    rows = [migration(), migration(), migration("SELECT 1/0")]
    done = cli("run", "--all", "--wait", "--timeout", "60")
    assert done.returncode == 1
    assert done.stdout.count("FINISHED, 100.0 %") == 2
    assert f"{rows[2].pk} {rows[2].name} on default ended as ERROR, not FINISHED. division by zero" in done.stderr
    assert set(many.STATUSES) == set(Status.values), "all there are"


def test_2_for_more_than_can_be_asked_for_at_once(cli):
    refused = cli("run", "--ids", *range(1, 502))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "501" in refused.stderr
    assert "[too_many_items]" in refused.stderr


def test_2_for_whoever_may_not(cli_of, migration):
    row = migration()
    viewer = cli_of("viewer")("run", row.pk)
    assert (viewer.returncode, lifecycle.get(row.pk).status) == (2, "SCHEDULED")
    assert "[permission_denied]" in viewer.stderr
    stranger = cli_of()("list", ASYNC_MIGRATIONS_TOKEN="wrong")
    assert stranger.returncode == 2
    assert re.fullmatch(r"Refused: .*create_api_token.* \[invalid_token\]\nThe token comes from .*\n", stranger.stderr)


def test_2_for_what_is_unknown_or_ambiguous_and_nothing_is_started(cli, migration):
    row, twin = migration(name="shop.migrations.0009_x"), migration(name="shop.migrations.0009_x", database="second")
    both = cli("run", "0009_x")
    assert both.returncode == 2
    assert f"{row.pk} is {row.name} on default, {twin.pk} is {row.name} on second" in both.stderr
    for word in ("0008_y", "99999999999999999999", twin.pk):
        unknown = cli("run", row.pk, word, "--database", "default")
        assert unknown.returncode == 2
        assert f"There is no migration '{word}' on database 'default'" in unknown.stderr
    assert {lifecycle.get(pk).status for pk in (row.pk, twin.pk)} == {Status.SCHEDULED}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "usage:"),
        (("wait",), "usage:"),
        (("gate",), "say which migrations"),
        (("run",), "say which migrations: ID, --ids"),
        (("cancel", "1", "--status", "started"), "in one way"),
        (("cancel", "--all", "--ids", "1"), "in one way"),
        (("cancel", "--all", "--app", "shop"), "in one way"),
        (("cancel", "--ids", "1", "--database", "second"), "leave --database out"),
        (("run", "1", "--dry-run"), "--dry-run is for many"),
        (("run", "--all", "--run-at", "2999-01-01T00:00:00Z"), "--run-at is for migrations that are named"),
        (("pause", "--all"), "usage:"),
        (("run", "1", "--timeout", "5"), "add --wait"),
        (("list", "--url", "migrations.example.com"), "is no URL"),
        (("list", "--url", "https://me:secret@example.com"), "is no URL"),
        (("list", "--token-file", "nowhere"), "cannot be read: No such file"),
        (("run", "1", "--run-at", "2026-11-22"), "no time with an offset"),
    ],
)
def test_2_for_wrong_usage(arguments, said, monkeypatch, capsys):
    monkeypatch.setenv("ASYNC_MIGRATIONS_URL", "http://127.0.0.1:1")
    with pytest.raises(SystemExit) as caught:
        read(arguments)
    assert caught.value.code == 2
    assert said in (errors := capsys.readouterr().err)
    assert "secret" not in errors


def test_the_token_may_be_in_a_file(cli, tmp_path):
    (tmp_path / "token").write_text(f"{cli.token}\n")
    assert cli("--token-file", tmp_path / "token", "list", ASYNC_MIGRATIONS_TOKEN="wrong").returncode == 0


def test_a_gate(cli, migration):
    def gate(*arguments):
        done = cli("gate", *arguments)
        assert done.stderr == ""
        return done.returncode, done.stdout

    one, other = migration(), migration()
    code, said = gate("--name", one.name, "--json")
    assert (code, json.loads(said)["state"]) == (1, "blocked")
    started(one)
    code, said = gate("--name", one.name)
    assert (code, said.splitlines()[0]) == (75, "pending: 1 migrations looked at")
    finish(one)
    assert gate("--name", one.name) == (0, "pass: 1 migrations looked at\n")
    started(other)
    assert gate("--name", one.name, "--app", "shop", "--wait", "0.1")[0] == 75
    lease = begin(other.pk)
    lifecycle.fail(lease, ExecutionError(code="duplicate_key", message="could not create", hint="Remove them."))
    code, said = gate("--prefix", "shop.")
    assert (code, "ended in ERROR: could not create" in said) == (1, True)
    assert gate("--name", "shop.migrations.0099_nothing")[0] == 1


def test_a_rollback_asks_whoever_is_at_a_terminal(cli, migration):
    row = started(migration())
    finish(row)
    code, seen = cli.on_terminal("rollback", row.pk, answer=b"n\n")
    assert (code, "Carry out this backward SQL?" in seen, "Nothing was rolled back" in seen) == (2, True, True)
    assert lifecycle.get(row.pk).status == Status.FINISHED
    assert "to be rolled back" in cli.on_terminal("rollback", row.pk, answer=b"y\n")[1]


def test_what_the_client_waits_for_are_statuses():
    assert set(WANTED.values()) <= {str(status) for status in Status}


def test_a_row_of_another_name_is_not_taken_for_the_last_part_of_it(cli, migration):
    lifecycle.cancel(migration(name="shop.migrations.x0009_y").pk, Origin("somebody"))
    assert cli("show", "0009_y").returncode == 2
