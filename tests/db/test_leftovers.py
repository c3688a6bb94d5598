"""What is left where an attempt is stopped in an awkward moment."""

from __future__ import annotations

import pytest

from async_migrations import lifecycle, tasks
from async_migrations.execution import steps
from async_migrations.execution.session import Session
from async_migrations.lifecycle import Origin
from async_migrations.states import Status
from tests.db.conftest import index_is_valid, kinds, query

pytestmark = pytest.mark.usefixtures("control", "book")

BUILD = "CREATE INDEX CONCURRENTLY book_title_idx ON book (title)"


@pytest.fixture(params=["_check_index", "_mark_done"])
def cancelled_behind_the_build(request, monkeypatch: pytest.MonkeyPatch, settings) -> None:
    """Let a cancel be asked for when the build has returned, and hit what comes next on its connection."""
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.05

    def hit(*given) -> None:
        (session,) = (one for one in given if isinstance(one, Session))
        lifecycle.cancel(lifecycle.rows().get().pk, Origin("test"))
        session.execute("SELECT pg_sleep(30)")

    monkeypatch.setattr(steps, request.param, hit)


@pytest.mark.usefixtures("cancelled_behind_the_build")
def test_a_cancel_that_hits_right_behind_the_end_of_a_build_leaves_nothing(migration) -> None:
    row = migration(BUILD)
    lifecycle.run(row.pk, Origin("test"))
    tasks.carry_out(row.pk)
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("book_title_idx") is None
    assert "leftover_removed" in kinds(row)


@pytest.mark.usefixtures("cancelled_behind_the_build")
def test_a_cancel_leaves_an_index_that_was_there_before(migration) -> None:
    query("CREATE INDEX book_title_idx ON book (title)")
    row = migration(BUILD)
    lifecycle.run(row.pk, Origin("test"))
    tasks.carry_out(row.pk)
    assert lifecycle.get(row.pk).status == Status.CANCELLED
    assert index_is_valid("book_title_idx") is True
