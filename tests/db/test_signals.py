"""`migration_moved`, as a project that embeds the app hears it."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from async_migrations import lifecycle
from async_migrations.lifecycle import Origin
from async_migrations.signals import migration_moved
from tests.db.conftest import carried_out
from tests.test_docs import ROOT, block

pytestmark = pytest.mark.usefixtures("control")


@pytest.fixture
def heard():
    """What was heard: kind, statuses and who; the transaction was over by then."""
    told: list[tuple[str, str, str, str]] = []

    def hear(sender: Any, migration: Any, kind: str, from_status: str, to_status: str, by: str, **kwargs: Any) -> None:
        assert not connection.in_atomic_block
        assert migration.status == to_status
        told.append((kind, from_status, to_status, by))

    migration_moved.connect(hear)
    yield told
    migration_moved.disconnect(hear)


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_every_move_is_told_in_order_and_nothing_else(migration, heard):
    row = migration("SELECT 1")
    worker = carried_out(row).worker
    assert heard == [
        ("schedule", "", "SCHEDULED", "migrate"),
        ("run", "SCHEDULED", "STARTED", "test"),
        ("claim", "STARTED", "IN PROGRESS", worker),
        ("succeed", "IN PROGRESS", "FINISHED", worker),
    ]


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_it_is_told_after_the_commit_and_not_when_rolled_back(migration, heard):
    row = migration("SELECT 1")
    heard.clear()
    with transaction.atomic():
        lifecycle.run(row.pk, Origin("test"))
        transaction.set_rollback(True)
    with transaction.atomic():
        lifecycle.cancel(row.pk, Origin("test"))
        assert heard == []
    assert heard == [("cancel", "SCHEDULED", "CANCELLED", "test")]


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_a_receiver_that_fails_is_logged_and_harms_nothing(migration, heard, caplog):
    def fail(**kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM there_is_no_such_table")

    migration_moved.connect(fail)
    try:
        row = carried_out(migration("SELECT 1"))
    finally:
        migration_moved.disconnect(fail)
    assert row.status == "FINISHED"
    assert len(heard) == 4
    errors = [record for record in caplog.records if record.name == "django.dispatch"]
    assert len(errors) == 4
    assert all(error.exc_info and issubclass(error.exc_info[0] or Exception, DatabaseError) for error in errors)


@pytest.mark.django_db(transaction=True, databases=["default", "second"], serialized_rollback=True)
def test_the_documented_receiver_tells_of_an_error(migration, capsys):
    documented: dict[str, Any] = {}
    exec(block("signal", ROOT / "docs" / "notifications.md"), documented)  # noqa: S102 - ours
    try:
        carried_out(migration("SELECT * FROM there_is_no_such_table"))
    finally:
        migration_moved.disconnect(documented["tell_the_team"])
    assert "there_is_no_such_table" in capsys.readouterr().out
