"""A real standby whose replay is stopped: what it says of itself stands still, so others have to notice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from async_migrations.execution.session import Session
from async_migrations.execution.throttle import Throttle
from tests.conftest import eventually
from tests.db.conftest import query
from tests.standby import Standby, standby

pytestmark = pytest.mark.usefixtures("book")


@pytest.fixture
def replica() -> Iterator[Standby]:
    """A standby of the test's server."""
    if urlsplit(os.environ["DATABASE_URL"]).hostname:
        pytest.skip("only the embedded server can be copied: unset DATABASE_URL")
    with standby(os.environ["DATABASE_URL"]) as made:
        eventually(lambda: query("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"), what="it streams")
        yield made


def test_a_standby_that_stops_to_replay_is_a_reason_to_wait_until_it_has_caught_up(replica):
    with Session("default", "async-migrations/1/attempt") as session:
        throttle = Throttle(session, "book", {"replica_lag_seconds": 0.5})
        assert eventually(lambda: throttle.look() is None)

        replica.pause_replay()
        query("UPDATE book SET n = n + 1")
        reason = eventually(throttle.look, what="the standby is behind")
        assert (reason.reason, reason.limit) == ("replica_lag_seconds", 0.5)
        assert isinstance(reason.value, float)
        assert reason.value > 0.5

        replica.resume_replay()
        eventually(lambda: throttle.look() is None, what="the standby has caught up")


def test_a_standby_that_is_gone_is_nobody_to_wait_for(replica):
    with Session("default", "async-migrations/1/attempt") as session:
        throttle = Throttle(session, "book", {"replica_lag_seconds": 0})
        replica.pause_replay()
        query("UPDATE book SET n = n + 1")
        eventually(throttle.look)
        replica.stop()
        eventually(lambda: throttle.look() is None, what="nobody waits for it")
