"""Who takes what is first in line, and what those behind it say meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from async_migrations import lifecycle, tasks
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationStatus
from tests.db.conftest import at_work_on
from tests.db.test_lifecycle import in_threads

pytestmark = pytest.mark.usefixtures("control")


def in_line(migration: Callable[..., AsyncMigrationStatus], count: int, **options: Any) -> list[int]:
    rows = [migration("SELECT 1", name=f"m{number}", **options) for number in range(count)]
    for row in rows:
        lifecycle.run(row.pk, Origin("alice"))
    return [row.pk for row in rows]


def test_whichever_message_arrives_the_first_in_line_is_taken(migration) -> None:
    pks = in_line(migration, 3)
    lease = lifecycle.claim_first(pks[2], "worker")
    assert lease is not None
    assert lease.pk == pks[0]


def test_who_loses_the_first_in_line_takes_the_one_behind_it(migration, settings) -> None:
    settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = 4
    pks = in_line(migration, 4)
    leases = in_threads(4, lambda: lifecycle.claim_first(pks[3], "worker"))
    assert sorted(lease.pk for lease in leases) == pks


def test_a_lease_knows_the_row_as_it_was_taken(migration) -> None:
    (pk,) = in_line(migration, 1)
    lease = lifecycle.claim(pk, "worker")
    assert lease is not None
    now = lifecycle.get(pk)
    fields = [field.attname for field in now._meta.concrete_fields]
    assert {name: getattr(lease.migration, name) for name in fields} == {name: getattr(now, name) for name in fields}


def test_what_waits_says_so_once(migration) -> None:
    pks = in_line(migration, 3)
    lifecycle.note_waiting()
    assert lifecycle.get(pks[1]).phase == ""
    assert lifecycle.claim(pks[0], "worker") is not None
    lifecycle.note_waiting()
    before = [lifecycle.get(pk) for pk in pks[1:]]
    assert all(row.phase.startswith("waits for its turn: others") for row in before)
    lifecycle.note_waiting()
    assert [lifecycle.get(pk).updated_at for pk in pks[1:]] == [row.updated_at for row in before]
    assert lifecycle.get(pks[0]).phase == ""


def test_a_message_is_not_looked_into_where_this_process_fills_every_database_itself(migration) -> None:
    pks = in_line(migration, 2)
    with tasks._under_way.on("default"), CaptureQueriesContext(connection) as beside:
        tasks.carry_out(pks[0])
    assert beside, "another database has room"
    assert lifecycle.get(pks[1]).status == "FINISHED"
    (again,) = in_line(migration, 1)
    with tasks._under_way.on("default"), tasks._under_way.on("second"), CaptureQueriesContext(connection) as full:
        tasks.carry_out(again)
    assert not full


@pytest.fixture
def behind(migration, book, settings) -> list[int]:
    """Two migrations that want the same table, on a database with places for both."""
    settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = 2
    rows = [migration("ANALYZE book", name=f"behind{number}") for number in range(2)]
    for row in rows:
        lifecycle.run(row.pk, Origin("alice"))
    return [row.pk for row in rows]


@pytest.mark.parametrize(("waited", "pause"), [(0, 1), (100, 10), (10_000, 30)])
def test_who_waits_for_a_table_looks_again_after_a_tenth_of_the_time(behind, waited, pause) -> None:
    lifecycle.rows().update(requested_at=timezone.now() - timedelta(seconds=waited))
    with at_work_on("book"):
        tasks.carry_out(behind[0])
    row = lifecycle.get(behind[0])
    assert (row.status, row.attempt) == ("STARTED", 0)
    assert row.phase == "waits for its turn: another migration is at work on book"
    assert pause <= row.events.get(kind="release").detail["delay_seconds"] <= 30


def test_who_waits_for_a_table_is_called_up_by_the_end_of_another(behind, migration) -> None:
    lifecycle.rows().update(requested_at=timezone.now() - timedelta(days=1))
    with at_work_on("book"):
        tasks.carry_out(behind[0])
    assert lifecycle.next_in_line("default") is None, "they look again in half a minute"
    other = migration("ANALYZE book", name="other")
    lifecycle.run(other.pk, Origin("alice"))
    tasks.carry_out(other.pk)
    assert [lifecycle.get(pk).status for pk in behind] == ["FINISHED", "FINISHED"]
