"""`manage.py async_migrations`, as a person and as a script use it; exit codes are those of real processes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
from contextlib import suppress
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from rest_framework.renderers import JSONRenderer

from api.processes import ROOT, manage_command, run_to_end
from async_migrations import lifecycle
from async_migrations.client.watching import Exit, Watch, verdict
from async_migrations.contract import as_dict
from async_migrations.errors import ExecutionError
from async_migrations.lifecycle import Origin, Request
from async_migrations.rest.serializers import EventSerializer, MigrationDetailSerializer, MigrationSerializer
from async_migrations.states import Kind, Status
from tests.conftest import environment, eventually


@pytest.fixture
def migration():
    def make(
        name="0001_index_async",
        *,
        database="default",
        app="tasks",
        forwards="SELECT 1",
        backwards="SELECT 2",
        kind=Kind.SQL,
    ):
        request = Request(
            operation="schedule",
            name=f"{app}.migrations.{name}",
            database=database,
            sql_forwards=forwards,
            sql_backwards=backwards,
            kind=kind,
        )
        return lifecycle.take_over(request)

    return make


@pytest.fixture
def ended(migration):
    """A migration that a worker has brought to an end."""

    def make(name="0001_index_async", *, error=None, **options):
        row = migration(name, **options)
        lifecycle.run(row.pk, Origin("ci"))
        lease = lifecycle.claim(row.pk, "worker-1:7")
        assert lease is not None
        if error:
            lifecycle.fail(lease, ExecutionError(code="unique_violation", message=error, hint="Remove the duplicates."))
        else:
            lifecycle.succeed(lease)
        return lifecycle.get(row.pk)

    return make


@pytest.fixture
def throttled(migration):
    """A backfill with all that the engine tells of one."""
    row = migration(kind=Kind.BACKFILL)
    lifecycle.tune(row.pk, Origin("ci"), {"batch_size": 500, "priority": 3})
    waits = {"reason": "lock_waiters", "value": 7, "limit": 4, "since": "2026-11-22T10:00:00Z"}
    lifecycle.rows().filter(pk=row.pk).update(throttled=waits, quarantined=2)
    return lifecycle.get(row.pk)


def call(*arguments: object) -> str:
    """Run the command in this process and return what it writes."""
    out = io.StringIO()
    call_command("async_migrations", *map(str, arguments), stdout=out)
    return out.getvalue()


def shell(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    return run_to_end(manage_command("async_migrations", *map(str, arguments)), environment(**env))


def started(*arguments: object, **streams: Any) -> subprocess.Popen[Any]:
    command = manage_command("async_migrations", *map(str, arguments))
    return subprocess.Popen(command, env=environment(TERM="xterm", COLUMNS="140"), cwd=ROOT, **streams)


def first_line(process: subprocess.Popen[Any]) -> str:
    """Wait until a process that was started with a pipe has said something."""
    assert process.stdout is not None
    return str(process.stdout.readline())


def on_terminal(*arguments: object, answer: bytes = b"") -> tuple[int, str]:
    """Run the command on a terminal of its own; return its exit code and what appears there."""
    ours, theirs = pty.openpty()
    process = started(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, answer)
    seen = b""
    with suppress(OSError):  # The terminal ends with the process.
        while chunk := os.read(ours, 65536):
            seen += chunk
    os.close(ours)
    return process.wait(), seen.decode()


class TestList:
    pytestmark = pytest.mark.django_db

    def test_is_aligned_and_newest_first(self, migration, ended):
        ended("0001_done")
        migration("0002_waits")
        header, *lines = call("list").splitlines()
        assert [line.split()[-1] for line in lines] == ["tasks.migrations.0002_waits", "tasks.migrations.0001_done"]
        assert {line.index("tasks.") for line in lines} == {header.index("NAME")}
        assert {line[header.index("STATUS") :].split()[0] for line in lines} == {"SCHEDULED", "FINISHED"}

    def test_is_filtered(self, migration, ended):
        ended("0001_done")
        ended("0002_broken", error="no")
        migration("0003_waits")
        migration("0004_second", database="second")

        def shown(*arguments: str) -> set[str]:
            return {row["name"].rpartition(".")[2] for row in json.loads(call("list", "--json", *arguments))}

        assert shown("--status", "error", "--status", "FINISHED") == {"0001_done", "0002_broken"}
        assert shown("--database", "second") == {"0004_second"}
        assert shown("--search", "WAIT") == {"0003_waits"}
        assert shown("--status", "in-progress") == set()

    def test_says_when_there_is_nothing(self):
        assert call("list") == "No migrations.\n"

    def test_json_has_the_fields_and_values_of_the_http_contract(self, ended):
        row = ended(error="no")
        assert json.loads(call("list", "--json")) == json.loads(JSONRenderer().render([MigrationSerializer(row).data]))

    def test_says_what_a_backfill_waits_for_and_has_set_aside(self, throttled):
        assert "throttled by lock_waiters: 7, limit 4, 2 rows set aside" in call("list")
        (listed,) = json.loads(call("list", "--json"))
        assert listed == json.loads(JSONRenderer().render(MigrationSerializer(throttled).data))
        assert listed["throttled"]["value"] == 7


class TestShow:
    pytestmark = pytest.mark.django_db

    def test_tells_error_sql_and_events(self, ended):
        row = ended(error="could not create unique index", forwards="CREATE UNIQUE INDEX x ON t (a)")
        text = call("show", row.pk)
        for part in ("could not create unique index", "Remove the duplicates.", "CREATE UNIQUE INDEX x", "SELECT 2"):
            assert part in text
        assert text.index("schedule") < text.index("IN PROGRESS -> ERROR")

    def test_json_has_the_fields_and_values_of_the_http_contract(self, ended):
        row = ended()
        events = EventSerializer(row.events.all(), many=True).data
        served = json.loads(JSONRenderer().render({**MigrationDetailSerializer(row).data, "events": events}))
        assert json.loads(call("show", row.pk, "--json")) == served

    def test_says_what_a_backfill_waits_for_what_was_set_and_what_is_set_aside(self, throttled):
        text = call("show", throttled.pk)
        for part in ("by lock_waiters: 7, limit 4", "2 rows set aside", '{"batch_size": 500}'):
            assert part in text
        assert re.search("^priority +3$", text, re.MULTILINE)
        shown = json.loads(call("show", throttled.pk, "--json"))
        served = json.loads(JSONRenderer().render(MigrationDetailSerializer(throttled).data))
        assert shown == {**served, "events": shown["events"]}
        assert (shown["tuning"], shown["quarantined"]) == ({"batch_size": 500}, 2)

    def test_brackets_stay_and_control_characters_do_not_reach_the_terminal(self, ended):
        row = ended(error="bad \x1b[31mred\x07", forwards="SELECT '[bold]'")
        text = call("show", row.pk)
        assert r"bad \x1b[31mred\x07" in text
        assert "\x1b" not in text
        assert "SELECT '[bold]'" in text


class TestPreflight:
    def test_says_what_stands_in_the_way_and_what_to_do(self, control, migration):
        row = migration(forwards="UPDATE nowhere SET n = 1")
        done = shell("preflight", row.pk)
        assert done.returncode == 1
        assert "error    undefined_table: Statement 1 is about nowhere" in done.stdout
        assert "\n         Apply the migration that makes it" in done.stdout
        assert shell("preflight", "0001_index_async", "--json").returncode == 1

    def test_json_has_the_findings_of_the_http_contract(self, control, migration):
        done = shell("preflight", migration().pk, "--json")
        assert done.returncode == 0
        assert all({*found} == {"code", "level", "message", "detail", "hint"} for found in json.loads(done.stdout))
        assert json.loads(done.stdout)


class TestWhichIsMeant:
    pytestmark = pytest.mark.django_db

    @pytest.mark.parametrize(
        "word", ["tasks.migrations.0001_index_async", "migrations.0001_index_async", "0001_index_async"]
    )
    def test_by_name_or_the_last_part_of_it(self, migration, word):
        row = migration()
        assert json.loads(call("show", word, "--json"))["id"] == row.pk

    def test_ambiguous_names_are_refused_with_the_choice(self, migration):
        one, two = migration(), migration(database="second")
        with pytest.raises(
            CommandError, match=f"ambiguous: {one.pk} is .* on default, {two.pk} is .* on second"
        ) as caught:
            call("run", one.name)
        assert caught.value.returncode == 2
        assert json.loads(call("show", one.name, "--database", "second", "--json"))["id"] == two.pk

    @pytest.mark.parametrize("word", ["999999", "9" * 40, "index_async", "%", "nothing"])
    def test_unknown_ones_are_refused(self, migration, word):
        migration()
        with pytest.raises(CommandError, match="There is no migration") as caught:
            call("show", word)
        assert caught.value.returncode == 2

    def test_nothing_is_started_when_one_of_several_is_unknown(self, migration):
        row = migration()
        with pytest.raises(CommandError, match="no migration '4711'"):
            call("run", row.pk, 4711)
        assert lifecycle.get(row.pk).status == Status.SCHEDULED


class TestAsking:
    """What is asked for, by a process of its own."""

    def test_run_keeps_who_asked(self, control, migration):
        row = migration()
        done = shell("run", row.pk, LOGNAME="alice")
        assert (done.returncode, done.stdout) == (0, f"{row.name} on default: in line for a worker.\n")
        assert re.fullmatch(r"alice@\S+", lifecycle.get(row.pk).requested_by)

    def test_run_at_is_kept_for_later(self, control, migration):
        row = migration()
        done = shell("run", row.pk, "--run-at", "2999-01-01T03:00:00+01:00")
        assert "not before 2999-01-01T02:00:00+00:00" in done.stdout
        assert str(lifecycle.get(row.pk).run_at) == "2999-01-01 02:00:00+00:00"

    def test_priority_and_attempts_are_written(self, control, migration):
        row = migration()
        done = shell("run", row.pk, "--priority", "7", "--max-attempts", "9")
        assert done.returncode == 0, done.stderr
        row = lifecycle.get(row.pk)
        assert (row.priority, row.max_attempts) == (7, 9)

    @pytest.mark.parametrize(("option", "value"), [("--priority", "40000"), ("--max-attempts", "0")])
    def test_a_number_beyond_its_limits_is_refused(self, control, migration, option, value):
        row = migration()
        done = shell("run", row.pk, option, value)
        assert (done.returncode, lifecycle.get(row.pk).status) == (2, "SCHEDULED")
        assert f"{option[2:].replace('-', '_')}: This is not a whole number from" in done.stderr

    def test_run_at_without_an_offset_is_refused(self, control, migration):
        done = shell("run", migration().pk, "--run-at", "2999-01-01T03:00")
        assert done.returncode == 2
        assert "no time with an offset" in done.stderr

    def test_a_refusal_is_one_line_and_keeps_nothing_else_from_happening(self, control, migration, ended):
        done, waits = ended("0001_done"), migration("0002_waits")
        answer = shell("cancel", done.pk, waits.pk)
        assert answer.returncode == 2
        assert re.fullmatch(r"Refused: cancel is not possible while .* is FINISHED; .*rollback\.\n", answer.stderr)
        assert lifecycle.get(waits.pk).status == Status.CANCELLED

    def test_pause_and_resume(self, control, migration):
        row = migration()
        lifecycle.run(row.pk, Origin("ci"))
        assert shell("pause", row.pk).stdout == f"{row.name} on default: PAUSED.\n"
        assert shell("resume", row.pk).stdout == f"{row.name} on default: in line for a worker.\n"
        lifecycle.claim(row.pk, "worker-1:7")
        assert "asked to pause; the worker stops at the next checkpoint" in shell("pause", row.pk).stdout

    def test_a_run_that_would_fail_is_refused_unless_it_is_forced(self, control, migration):
        row = migration(forwards="UPDATE nowhere SET n = 1")
        done = shell("run", row.pk)
        assert (done.returncode, lifecycle.get(row.pk).status) == (2, Status.SCHEDULED)
        assert "nowhere" in done.stderr
        assert shell("run", row.pk, "--force").returncode == 0
        assert lifecycle.get(row.pk).status == Status.STARTED

    def test_tune_sets_what_it_is_told_and_says_what_is_set(self, control, migration):
        row = migration(kind=Kind.BACKFILL)
        answer = shell("tune", row.pk, "--set", "batch_size=500", "--set", 'throttle={"lock_waiters": 3}')
        tuned = 'tuned, priority=0, throttle={"lock_waiters": 3}, batch_size=500'
        assert answer.stdout == f"{row.name} on default: {tuned}.\n"
        answer = shell("tune", row.pk, "--set", "batch_size=null", "--set", "priority=2", "--json")
        (found,) = json.loads(answer.stdout)
        assert (found["tuning"], found["priority"]) == ({"throttle": {"lock_waiters": 3}}, 2)
        assert "nothing to do" in shell("tune", row.pk, "--set", "priority=2").stdout

    def test_what_cannot_be_tuned_is_refused_and_nothing_is_set(self, control, migration, ended):
        backfill, sql, done = migration(kind=Kind.BACKFILL), migration("0002_sql"), ended("0003_done")
        answer = shell("tune", backfill.pk, sql.pk, done.pk, "--set", "batch_size=7")
        assert answer.returncode == 2
        assert "Refused: batch_size: An SQL migration has no such value" in answer.stderr
        assert re.search(r"Refused: .*0003_done is FINISHED", answer.stderr)
        assert [lifecycle.get(row.pk).tuning for row in (backfill, sql)] == [{"batch_size": 7}, {}]
        answer = shell("tune", backfill.pk, "--set", "batch_size=0")
        assert answer.returncode == 2
        assert "a whole number from 1 to 1,000,000" in answer.stderr

    def test_json_holds_nothing_but_json(self, control, migration):
        answer = shell("run", migration().pk, "--json")
        assert [row["status"] for row in json.loads(answer.stdout)] == ["STARTED"]

    def test_without_a_broker_it_is_carried_out_at_once(self, control, migration):
        good, bad = migration("0001_good"), migration("0002_bad", forwards="SELECT * FROM no_such_table")
        assert shell("run", good.pk, BROKER_URL="").returncode == 0
        assert lifecycle.get(good.pk).status == Status.FINISHED
        answer = shell("run", bad.pk, BROKER_URL="")
        assert answer.returncode == 1
        assert "ERROR" in answer.stdout

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["list", "--status", "foo"],
            ["wait"],
            ["wait", "1", "--timeout", "-1"],
            ["tune", "1"],
            ["tune", "1", "--set", "batch_size"],
            ["tune", "1", "--set", "batch_size=many"],
        ],
    )
    def test_wrong_usage_is_2(self, control, arguments):
        answer = shell(*arguments)
        assert answer.returncode == 2
        assert "usage:" in answer.stderr

    @pytest.mark.parametrize("verb", [["list"], ["wait", "1"], ["run", "x"]])
    def test_an_unreachable_database_is_3_and_one_line(self, control, verb):
        answer = shell(*verb, DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
        assert answer.returncode == 3
        assert re.fullmatch(r"CommandError: The control database 'default' cannot be reached: .*\n", answer.stderr)

    def test_missing_tables_are_named(self, control):
        answer = shell("list", DATABASE_URL="sqlite://:memory:")
        assert answer.returncode == 3  # SQLite calls it an OperationalError
        assert "Traceback" not in answer.stderr

    def test_a_reader_that_goes_away_is_no_traceback(self, control, migration):
        for number in range(3):
            migration(f"{number:04}_x")
        command = " ".join(manage_command("async_migrations", "show", "0001_x"))
        answer = run_to_end(["/bin/sh", "-c", f"{command} | true"], environment())
        assert "Traceback" not in answer.stderr
        assert "BrokenPipe" not in answer.stderr


class TestWaiting:
    """A real worker carries out, a real process waits."""

    def test_0_when_all_are_finished(self, migration, start_worker):
        start_worker()
        rows = [migration(f"{number:04}_fine", forwards="SELECT pg_sleep(0.3)") for number in (1, 2)]
        answer = shell("run", rows[0].pk, "0002_fine", "--wait", "--timeout", 60)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert answer.stdout.count("FINISHED") == 2

    def test_1_when_one_has_failed_and_why(self, migration, start_worker):
        start_worker()
        rows = migration("0001_fine"), migration("0002_bad", forwards="SELECT * FROM no_such_table")
        answer = shell("run", *(row.pk for row in rows), "--wait", "--timeout", 60)
        assert answer.returncode == 1
        assert re.fullmatch(
            r"\d+ \S+0002_bad on default ended as ERROR, not FINISHED\. .*no_such_table.*\n", answer.stderr
        )

    def test_1_when_one_was_cancelled(self, control, migration):
        row = migration()
        lifecycle.cancel(row.pk, Origin("bob"))
        answer = shell("wait", row.pk)
        assert answer.returncode == 1
        assert "ended as CANCELLED" in answer.stderr

    def test_rolled_back_is_success_for_a_rollback_and_failure_for_a_run(self, migration, ended, start_worker):
        start_worker()
        row = ended()
        assert shell("rollback", row.pk, "--wait", "--timeout", 60).returncode == 0
        assert shell("wait", row.pk).returncode == 0
        assert verdict([Watch(as_dict(lifecycle.get(row.pk)), "FINISHED")]) == Exit.FAILED

    def test_cancel_waits_for_the_worker_to_obey(self, migration, start_worker):
        start_worker()
        row = migration(forwards="SELECT pg_sleep(60)")
        shell("run", row.pk)
        eventually(lambda: lifecycle.get(row.pk).status == Status.IN_PROGRESS, what="the worker has begun")
        answer = shell("cancel", row.pk, "--wait", "--timeout", 40)
        assert answer.returncode == 0, answer.stderr
        assert lifecycle.get(row.pk).status == Status.CANCELLED

    def test_pause_waits_until_it_is_paused(self, control, migration):
        row = migration()
        lifecycle.run(row.pk, Origin("ci"))
        lease = lifecycle.claim(row.pk, "worker-1:7")
        assert lease is not None
        process = started("pause", row.pk, "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "asked to pause" in first_line(process)
        lifecycle.paused(lease)
        out, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
        assert f"{row.pk} {row.name} on default: PAUSED" in out

    def test_who_waits_for_the_end_waits_on_while_it_is_paused(self, control, migration):
        row = migration()
        lifecycle.run(row.pk, Origin("ci"))
        lifecycle.pause(row.pk, Origin("ci"))
        answer = shell("wait", row.pk, "--timeout", 0.2)
        assert answer.returncode == 75
        assert "it goes on when somebody says `resume`" in answer.stderr

    def test_resume_waits_for_the_end_of_what_was_paused(self, migration, ended, start_worker):
        row = ended()
        lifecycle.rollback(row.pk, Origin("ci"))
        lifecycle.pause(row.pk, Origin("ci"))
        start_worker()
        assert shell("resume", row.pk, "--wait", "--timeout", 60).returncode == 0
        assert lifecycle.get(row.pk).status == Status.ROLLED_BACK

    def test_75_when_the_time_is_up(self, control, migration):
        row = migration()
        answer = shell("wait", row.pk, "--timeout", 0.2)
        assert answer.returncode == 75
        assert "nobody has started it yet" in answer.stderr
        assert "After 0.2 s still going on" in answer.stderr

    def test_json_comes_at_the_end_and_alone(self, control, ended):
        answer = shell("wait", ended().pk, "--json")
        assert [row["status"] for row in json.loads(answer.stdout)] == ["FINISHED"]

    def test_ctrl_c_leaves_the_migration_alone_and_says_so(self, control, migration):
        row = migration()
        lifecycle.run(row.pk, Origin("ci"))
        process = started("wait", row.pk, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert first_line(process).startswith(f"{row.pk} ")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert re.fullmatch(rf"Interrupted; nothing was stopped.*wait {row.pk}\n", errors)
        assert lifecycle.get(row.pk).status == Status.STARTED

    def test_a_connection_that_breaks_is_opened_again(self, control, migration):
        row = migration()
        lifecycle.run(row.pk, Origin("ci"))
        process = started("wait", row.pk, "--timeout", 30, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first_line(process)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND query LIKE '%asyncmigrationstatus%'"
            )
            assert cursor.fetchall()
        lifecycle.cancel(row.pk, Origin("bob"))
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 1
        assert re.fullmatch(r".* ended as CANCELLED, not FINISHED\.\n", errors)

    def test_a_migration_that_vanishes_is_2(self, control, migration):
        row = migration()
        process = started("wait", row.pk, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first_line(process)
        lifecycle.rows().filter(pk=row.pk).delete()
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 2
        assert "is not there any more" in errors


class TestOnATerminal:
    def test_lists_are_tables_with_coloured_words(self, control, ended):
        ended()
        code, seen = on_terminal("list")
        assert code == 0
        assert "\x1b[" in seen
        assert "FINISHED" in seen

    def test_no_color_means_no_colour(self, control, ended):
        ended()
        _, seen = on_terminal("--no-color", "list")
        assert "\x1b[32m" not in seen
        assert "FINISHED" in seen

    def test_waiting_draws_a_bar(self, control, ended):
        row = ended()
        code, seen = on_terminal("wait", row.pk)
        assert code == 0
        assert "━" in seen
        assert "100%" in seen

    @pytest.mark.parametrize(
        ("answer", "code", "end"), [(b"n\n", 2, "FINISHED"), (b"y\n", 0, "STARTED"), (b"\x04", 2, "FINISHED")]
    )
    def test_a_rollback_shows_the_sql_and_asks(self, control, ended, answer, code, end):
        row = ended(backwards="DROP INDEX CONCURRENTLY my_idx")
        ended_with, seen = on_terminal("rollback", row.pk, answer=answer)
        assert re.search("DROP.*INDEX.*CONCURRENTLY.*my_idx", seen)
        assert (ended_with, lifecycle.get(row.pk).status) == (code, end)

    def test_no_input_does_not_ask(self, control, ended):
        row = ended()
        assert on_terminal("rollback", row.pk, "--no-input")[0] == 0
        assert lifecycle.get(row.pk).status == Status.STARTED
