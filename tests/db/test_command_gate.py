"""`manage.py async_migrations gate`, `hold` and `lift`; exit codes are those of real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from datetime import timedelta

import pytest
from django.core.management import CommandError
from django.db import connections
from django.utils import timezone
from rest_framework.renderers import JSONRenderer

from async_migrations import lifecycle, tasks
from async_migrations.client.watching import Exit
from async_migrations.lifecycle import Origin, Wanted
from async_migrations.management.waiting import wait_at_gate
from async_migrations.rest.answers import HoldSerializer, VerdictSerializer
from tests.conftest import eventually
from tests.db.conftest import carried_out
from tests.db.test_command import call, first_line, shell, started

pytestmark = pytest.mark.usefixtures("control")

ORIGIN = Origin("alice")


def rendered(serializer) -> object:
    return json.loads(JSONRenderer().render(serializer.data))


class TestGate:
    def test_says_by_its_exit_code_whether_all_are_finished(self, migration) -> None:
        done, broken, waits = (
            migration(sql, name=f"shop.migrations.{name}")
            for name, sql in (("0001_a", "SELECT 1"), ("0002_b", "SELECT 1/0"), ("0003_c", "SELECT 1"))
        )
        carried_out(done)
        carried_out(broken)
        process = shell("gate", done.name)
        assert (process.returncode, process.stdout) == (0, "pass: 1 migrations looked at\n")
        process = shell("gate", done.name, waits.name)
        assert process.returncode == 1
        assert f"blocked: {waits.pk} {waits.name} on default, SCHEDULED: Nobody has asked" in process.stdout
        process = shell("gate", "--prefix", "shop.migrations.", "--wait", 3600)
        assert process.returncode == 1
        assert "division by zero" in process.stdout
        assert shell("gate", "--app", "shop", "--database", "second").returncode == 1
        assert shell("gate").returncode == 2

    @pytest.mark.parametrize("asked", [["a.b", ""], ["--prefix", ""], ["a.b", "--app", ""]])
    def test_an_empty_name_is_refused(self, migration, asked) -> None:
        carried_out(migration("SELECT 1", name="a.b"))
        with pytest.raises(CommandError, match="is empty") as refused:
            call("gate", *asked)
        assert refused.value.returncode == Exit.REFUSED

    def test_json_is_that_of_the_http_contract(self, migration) -> None:
        row = migration("SELECT 1")
        process = shell("gate", row.name, "nowhere", "--json")
        wanted = rendered(VerdictSerializer(lifecycle.judge(Wanted([row.name, "nowhere"]))))
        assert (process.returncode, json.loads(process.stdout)) == (1, wanted)

    def test_waits_for_so_long(self, migration) -> None:
        row = migration("SELECT 1")
        told: list[str] = []

        def run() -> None:
            try:
                eventually(lambda: told, what="the first look")
                lifecycle.run(row.pk, ORIGIN)
                tasks.carry_out(row.pk)
            finally:
                connections.close_all()

        runner = threading.Thread(target=run)
        runner.start()
        verdict = wait_at_gate(Wanted([row.name]), 60, told.append)
        runner.join()
        assert (verdict.state, told[0], told[-1]) == (
            "pass",
            "blocked: 1 migrations looked at",
            "pass: 1 migrations looked at",
        )

    def test_an_interrupt_stops_nothing(self, migration) -> None:
        row = migration("SELECT 1")
        process = started("gate", row.name, "--wait", 3600, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert first_line(process) == "blocked: 1 migrations looked at\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, "the migrations go on" in said) == (130, True)

    def test_a_database_that_is_away_is_said(self) -> None:
        assert shell("gate", "x", DATABASE_URL="postgresql://u:p@127.0.0.1:1/x").returncode == 3


class TestHold:
    def test_is_set_shown_and_lifted(self, migration) -> None:
        row = migration("SELECT 1")
        assert call("hold") == "Nothing is held.\n"
        until = timezone.now() + timedelta(hours=1)
        assert "Black Friday" in call("hold", "--reason", "Black Friday", "--until", until.isoformat())
        lifecycle.run(row.pk, ORIGIN)
        assert lifecycle.claim(row.pk, "worker") is None
        (hold,) = json.loads(call("hold", "--json"))
        assert hold == rendered(HoldSerializer(lifecycle.holds().get()))
        assert call("lift").startswith("Lifted: held by ")
        assert call("lift") == "Nothing to do: there is no hold on all databases.\n"
        assert lifecycle.claim(row.pk, "worker") is not None

    def test_is_for_one_database_and_what_is_left_is_said(self) -> None:
        call("hold", "--reason", "vacuum", "--database", "second")
        call("hold", "--reason", "incident")
        assert "incident" in call("lift", "--database", "second")
        assert "incident" in call("hold", "--database", "default")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--reason", " "], "1 to 1000"),
            (["--until", "2030-01-01T00:00:00Z"], "--reason"),
            (["--reason", "x", "--until", "2020-01-01T00:00:00Z"], "is over"),
            (["--reason", "x", "--database", "nowhere"], "default, second"),
        ],
    )
    def test_nonsense_is_refused(self, arguments, says) -> None:
        with pytest.raises(CommandError, match=says) as refused:
            call("hold", *arguments)
        assert refused.value.returncode == Exit.REFUSED
        assert not lifecycle.holds().exists()
