"""`manage.py async_migrations run` and `cancel` of many: by ids or filters, with an answer for each."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from rest_framework.renderers import JSONRenderer

from async_migrations import lifecycle
from async_migrations.errors import ExecutionError
from async_migrations.lifecycle import Origin, Request
from async_migrations.models import AsyncMigrationAudit
from async_migrations.rest.answers import BulkSerializer
from async_migrations.states import Direction, Status

pytestmark = pytest.mark.django_db(databases=["default", "second"])


@pytest.fixture
def migration():
    def make(name, database="default", status=Status.SCHEDULED):
        pk = lifecycle.take_over(Request("schedule", f"shop.migrations.{name}", database, "SELECT 1", "SELECT 2")).pk
        if status == Status.CANCELLED:
            lifecycle.cancel(pk, Origin("bob"))
        return lifecycle.get(pk)

    return make


def command(*arguments):
    out = StringIO()
    try:
        call_command("async_migrations", *arguments, stdout=out, stderr=StringIO())
    except SystemExit as exit:
        return exit.code, out.getvalue()
    return 0, out.getvalue()


def backwards(row):
    """Let it be rolled back now, so that it cannot be run."""
    lifecycle.run(row.pk, Origin("bob"))
    lease = lifecycle.claim(row.pk, "worker-1")
    assert lease is not None
    lifecycle.fail(lease, ExecutionError(code="database_error", message="no"))
    lifecycle.rollback(row.pk, Origin("bob"))


def test_all_that_match_are_asked_and_no_other(migration):
    first, second = migration("0002_a", "second"), migration("0003_b", "second")
    migration("0004_c")
    migration("0005_d", "second", Status.CANCELLED)
    code, told = command("run", "--database", "second", "--status", "SCHEDULED", "--search", "SHOP")
    assert code == 0
    assert told.splitlines() == [f"{row.pk} {row.name} on second: accepted, STARTED" for row in (first, second)]
    assert [row.status for row in lifecycle.rows().order_by("id")] == ["STARTED", "STARTED", "SCHEDULED", "CANCELLED"]
    asked = AsyncMigrationAudit.objects.filter(channel="command").values_list("migration_id", "action", "outcome")
    assert list(asked) == [(first.pk, "run", "accepted"), (second.pk, "run", "accepted")]


def test_what_is_refused_keeps_nothing_from_the_others_and_is_the_exit_code(migration):
    first, second = migration("0002_a"), migration("0003_b")
    backwards(first)
    code, told = command("run", "--database", "default", "--json")
    assert code == 2
    items = json.loads(told)
    assert [(item["id"], item["outcome"], item["code"]) for item in items] == [
        (first.pk, "refused", "invalid_transition"),
        (second.pk, "accepted", None),
    ]
    assert lifecycle.get(first.pk).direction == Direction.BACKWARDS
    answer = {"dry_run": False, "counts": dict.fromkeys(("accepted", "unchanged", "refused", "not_found"), 0)}
    as_the_api_has_it = json.loads(JSONRenderer().render(BulkSerializer({**answer, "items": items}).data))
    assert as_the_api_has_it["items"] == items


def test_those_with_the_ids_are_asked_and_one_that_is_not_there_is_the_exit_code(migration):
    first, second, third = migration("0002_a"), migration("0003_b", "second"), migration("0004_c")
    code, told = command("cancel", "--ids", str(third.pk), str(first.pk), str(third.pk), "999999")
    assert code == 2
    assert told.splitlines() == [
        f"{first.pk} {first.name} on default: accepted, CANCELLED",
        f"{third.pk} {third.name} on default: accepted, CANCELLED",
        "999999 not found",
    ]
    assert lifecycle.get(second.pk).status == "SCHEDULED"


def test_those_of_an_app_are_asked_and_no_other(migration):
    mine = migration("0002_a")
    lifecycle.take_over(Request("schedule", "shopping.migrations.0002_a", "default", "SELECT 1", "SELECT 2"))
    assert command("cancel", "--app", "shop") == (0, f"{mine.pk} {mine.name} on default: accepted, CANCELLED\n")
    assert json.loads(command("list", "--app", "shop", "--json")[1])[0]["id"] == mine.pk


def test_a_dry_run_says_what_would_be_and_does_nothing(migration):
    row = migration("0002_a")
    entries = AsyncMigrationAudit.objects.count()
    assert command("cancel", "--status", "scheduled", "--dry-run") == (
        0,
        f"{row.pk} {row.name} on default: would be accepted\n",
    )
    assert (lifecycle.get(row.pk).updated_at, AsyncMigrationAudit.objects.count()) == (row.updated_at, entries)
    assert command("cancel", "--kind", "backfill") == (0, "No migrations.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Say which migrations"),
        (["0002_a", "--status", "SCHEDULED"], "--status is for many at once"),
        (["0002_a", "--dry-run"], "--dry-run is for many at once"),
        (["0002_a", "--ids", "1"], "--ids is for many at once"),
        (["--ids", "1", "--app", "shop"], "in one way: --ids are of one migration each, leave --app out"),
        (["--database", "default", "--force"], "--force is for migrations that are named"),
    ],
)
def test_nonsense_is_refused_and_nothing_is_done(migration, arguments, said):
    row = migration("0002_a")
    with pytest.raises(CommandError, match=said):
        call_command("async_migrations", "run", *arguments, stdout=StringIO())
    assert lifecycle.get(row.pk).status == "SCHEDULED"


def test_more_than_can_be_asked_for_at_once_are_refused_with_nothing_done(migration, monkeypatch):
    monkeypatch.setattr("async_migrations.management.many.MOST", 1)
    rows = [migration("0002_a"), migration("0003_b")]
    with pytest.raises(CommandError, match="More than 1 migrations match"):
        call_command("async_migrations", "cancel", "--database", "default", stdout=StringIO())
    assert {lifecycle.get(row.pk).status for row in rows} == {"SCHEDULED"}
