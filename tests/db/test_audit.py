"""The audit entries in the database: with the change or not at all, and only added to; the command that keeps them."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from io import StringIO
from uuid import uuid4

import pytest
from django.apps import apps
from django.core import mail
from django.core.management import CommandError, call_command
from django.db import DataError, ProgrammingError, connection, transaction
from django.utils import timezone

from api.processes import ROOT
from async_migrations import lifecycle, states
from async_migrations.lifecycle import Channel, Origin, Request, audit, moves
from async_migrations.models import AsyncMigrationAudit
from async_migrations.states import Status
from tests.test_docs import block

from .conftest import query

append_only = import_module("async_migrations.migrations.0003_append_only")

pytestmark = pytest.mark.django_db(databases=["default", "second"])

AUDIT, EVENT = append_only.AUDIT, append_only.EVENT
ALICE = Origin("alice", "r-1")
# More than its column takes: the entry cannot be written.
BROKEN = replace(ALICE, address="x" * 65)


@pytest.fixture
def row():
    request = Request("schedule", "shop.migrations.0002_async", "default", "SELECT 1", "SELECT 2")
    made = lifecycle.take_over(request)
    assert made is not None
    return made


@pytest.fixture
def not_for_tests(db, monkeypatch):
    """The triggers that `migrate` makes in a database that is not made for tests: those allow TRUNCATE."""
    monkeypatch.delattr(mail, "outbox")
    with connection.schema_editor() as editor:
        append_only.release(apps, editor)
        append_only.protect(apps, editor)


def entries(**conditions):
    return list(AsyncMigrationAudit.objects.filter(**conditions).order_by("id"))


def command(*arguments):
    out = StringIO()
    call_command("async_migrations", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def made_old(days=400):
    """Enter something as if it had been asked for so many days ago."""
    return AsyncMigrationAudit.objects.create(
        by="bob", channel="api", action="run", outcome="accepted", at=timezone.now() - timedelta(days=days)
    )


# --- with the change, or not at all ---


CHANGES = {
    "run": lambda row, origin: lifecycle.run(row.pk, origin),
    "cancel": lambda row, origin: lifecycle.cancel(row.pk, origin),
    "tune": lambda row, origin: lifecycle.tune(row.pk, origin, {"priority": 1}),
    "hold": lambda row, origin: lifecycle.set_hold("", "vacuum", origin),
}


@pytest.mark.parametrize("action", CHANGES)
def test_nothing_is_changed_without_its_entry(row, action):
    with pytest.raises(DataError), transaction.atomic():
        CHANGES[action](row, BROKEN)
    assert lifecycle.get(row.pk).updated_at == row.updated_at
    assert not lifecycle.holds().exists()
    assert not entries(action=action)


def test_what_a_worker_is_asked_for_is_not_there_without_its_entry(row):
    lifecycle.run(row.pk, ALICE)
    lease = lifecycle.claim(row.pk, "worker-1")
    for ask in (lifecycle.cancel, lifecycle.pause):
        with pytest.raises(DataError), transaction.atomic():
            ask(row.pk, BROKEN)
    assert lifecycle.get(row.pk).stop_requested is None
    assert lease is not None
    assert [entry.action for entry in entries()] == ["schedule", "run"], "what a worker does is no request"


@pytest.mark.parametrize("action", CHANGES)
def test_what_is_rolled_back_leaves_none(row, action):
    with transaction.atomic():
        CHANGES[action](row, ALICE)
        assert entries(action=action)
        transaction.set_rollback(True)
    assert not entries(action=action)


def test_the_entry_says_what_was_there_when_it_was_changed(row):
    lifecycle.tune(row.pk, ALICE, {"priority": 3})
    lifecycle.run(row.pk, ALICE, priority=5)
    assert [(entry.before, entry.after) for entry in entries()[1:]] == [
        ({"priority": 0}, {"priority": 3}),
        ({"status": "SCHEDULED", "priority": 3}, {"status": "STARTED", "priority": 5}),
    ]


def test_what_was_changed_since_it_was_read_is_not_entered_as_it_was(row):
    lifecycle.tune(row.pk, ALICE, {"priority": 3})
    assert not moves.move(states.RUN, row, Status.STARTED, ALICE, asked="run", priority=5)
    assert [entry.action for entry in entries()] == ["schedule", "tune"]


def test_migrate_is_one_who_asks(row):
    again = replace_sql(row, "SELECT 3")
    lifecycle.take_over(replace(again, operation="rollback", id=str(uuid4())))
    assert [(entry.by, entry.channel, entry.action, entry.after.get("status")) for entry in entries()] == [
        ("migrate", "migrate", "schedule", "SCHEDULED"),
        ("migrate", "migrate", "change_sql", None),
        ("migrate", "migrate", "rollback", "ROLLED BACK"),
    ]


def replace_sql(row, sql):
    request = Request("schedule", row.name, row.database, sql, row.sql_backwards)
    lifecycle.take_over(request)
    return request


# --- only added to ---


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (f"UPDATE {AUDIT} SET by = 'nobody'", "UPDATE on async_migrations_asyncmigrationaudit refused"),
        (f"DELETE FROM {AUDIT}", "DELETE on async_migrations_asyncmigrationaudit refused"),
        (f"UPDATE {EVENT} SET by = 'nobody'", "UPDATE on async_migrations_asyncmigrationevent refused"),
        (f"TRUNCATE {AUDIT}", "TRUNCATE on async_migrations_asyncmigrationaudit refused"),
        (f"TRUNCATE {EVENT} CASCADE", "TRUNCATE on async_migrations_asyncmigrationevent refused"),
    ],
)
@pytest.mark.usefixtures("not_for_tests")
def test_postgresql_refuses_to_change_what_is_written(row, statement, said):
    made_old()
    query("SET CONSTRAINTS ALL IMMEDIATE")  # Else TRUNCATE would be refused for what is still to be checked.
    with pytest.raises(ProgrammingError, match=said), transaction.atomic():
        query(statement)
    assert len(entries()) == 2


def test_events_go_with_their_migration_and_never_alone(row):
    with pytest.raises(ProgrammingError, match="events are only added"), transaction.atomic():
        query(f"DELETE FROM {EVENT}; SET CONSTRAINTS ALL IMMEDIATE")
    row.delete()
    query("SET CONSTRAINTS ALL IMMEDIATE")
    assert query(f"SELECT count(*) FROM {EVENT}") == [(0,)]
    assert [entry.name for entry in entries()] == [row.name], "the entry outlives the migration"


def test_a_role_that_owns_nothing_adds_and_cannot_take_away():
    made_old()
    query(f"CREATE ROLE api_role; {block('least', ROOT / 'docs' / 'audit.md')}; SET LOCAL ROLE api_role")
    audit.enter("run", ALICE)
    with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
        query(f"SET LOCAL async_migrations.prune = 'on'; DELETE FROM {AUDIT}")
    assert len(entries()) == 2


def test_who_knows_how_the_retention_does_it_removes_nothing_young(row):
    made_old(days=29)
    with pytest.raises(ProgrammingError, match="refused"), transaction.atomic():
        query(f"SET LOCAL async_migrations.prune = 'on'; DELETE FROM {AUDIT} WHERE by = 'bob'")


def test_the_retention_removes_what_is_old_and_enters_that(row):
    made_old(days=31)
    kept = made_old(days=29)
    assert "Removed: 1 audit entries." in command("audit", "--prune", "--older-than", "30d")
    assert [entry.action for entry in entries()] == ["schedule", "run", "prune"]
    last = entries()[-1]
    assert (entries()[1].pk, last.channel, last.detail["removed"]) == (kept.pk, "command", 1)
    with pytest.raises(ProgrammingError, match="refused"), transaction.atomic():
        query(f"DELETE FROM {AUDIT}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prune"], "Say --older-than too"),
        (["--prune", "--older-than", "29d"], "kept for 30 days at least"),
        (["--prune", "--older-than", "365"], "365d"),
        (["--prune", "--older-than", "365d", "--user", "bob"], "nothing else"),
        (["--older-than", "365d"], "say --until"),
    ],
)
def test_nonsense_about_retention_is_refused_and_nothing_removed(arguments, said):
    made_old()
    with pytest.raises(CommandError, match=said):
        command("audit", *arguments)
    assert len(entries()) == 1


# --- the command ---


def test_the_command_enters_what_it_does_and_what_is_refused(row):
    command("run", str(row.pk))
    command("hold", "--reason", "vacuum")
    command("lift")
    with pytest.raises(SystemExit):
        command("tune", str(row.pk), "--set", "batch_size=5")
    lifecycle.cancel(row.pk, ALICE)
    with pytest.raises(SystemExit):
        command("pause", str(row.pk))
    said = [(entry.action, entry.outcome, entry.code) for entry in entries(channel=Channel.COMMAND)]
    assert said == [
        ("run", "accepted", ""),
        ("hold", "accepted", ""),
        ("lift", "accepted", ""),
        ("tune", "refused", "validation_error"),
        ("pause", "refused", "invalid_transition"),
    ]
    assert "@" in entries(channel=Channel.COMMAND)[0].by


def test_a_token_is_entered_without_being_told():
    out = StringIO()
    call_command("create_api_token", "ci", "--role", "viewer", stdout=out, stderr=StringIO())
    (entry,) = entries()
    assert (entry.action, entry.after["user"], entry.after["role"]) == ("create_token", "ci", "viewer")
    assert out.getvalue().strip()[:8] not in str(vars(entry))


def test_the_export_is_a_json_object_a_line_with_stable_fields(row):
    made_old()
    lifecycle.run(row.pk, ALICE)
    lines = [json.loads(line) for line in command("audit", "--json").splitlines()]
    assert [line["by"] for line in lines] == ["bob", "migrate", "alice"], "oldest first"
    assert {tuple(line) for line in lines} == {
        ("id", "at", "by", "channel", "address", "token", "request_id", "action", "migration_id", "name", "database",
         "before", "after", "detail", "outcome", "code")
    }  # fmt: skip
    assert lines[2]["at"].endswith("Z")
    assert command("audit", "--user", "alice").count("\n") == 1
    assert "alice (code)  run shop.migrations.0002_async on default  accepted" in command("audit", "--user", "alice")
    since = lines[1]["at"]
    assert [json.loads(line)["by"] for line in command("audit", "--until", since, "--json").splitlines()] == ["bob"]
    assert command("audit", "--since", since, "--user", "bob") == ""
    assert command("audit", "--database", "second") == ""


def test_the_export_holds_a_part_of_them_in_memory():
    query(
        f"INSERT INTO {AUDIT} (by, channel, address, token, request_id, action, name, database, before, after, detail, "
        "outcome, code) SELECT 'bob', 'api', '', '', '', 'run', '', '', '{}', '{}', "
        "jsonb_build_object('reason', repeat('x', 1000)), 'refused', '' FROM generate_series(1, 10000)"
    )
    tracemalloc.start()
    try:
        count = sum(1 for _ in audit.as_lines(audit.entries()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 10_000
    assert peak < 6_000_000, "all of them would be 15 MB"
