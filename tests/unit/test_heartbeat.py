"""What the heartbeat says of how fast the work is."""

from __future__ import annotations

import time
import uuid

import pytest

from async_migrations.execution.heartbeat import Heartbeat
from async_migrations.lifecycle import Lease
from async_migrations.models import AsyncMigrationStatus


@pytest.fixture
def heartbeat() -> Heartbeat:
    return Heartbeat(Lease(AsyncMigrationStatus(), uuid.uuid4(), 1, "a worker"), "default")


@pytest.mark.parametrize(
    ("end", "eta"),
    [(1_000, 180), (10**12, None), (None, None)],
    ids=["a while", "beyond all that the row can hold", "nobody knows how many"],
)
def test_the_time_left_is_told_where_it_means_something(heartbeat: Heartbeat, end: int | None, eta: int | None) -> None:
    now = time.monotonic()
    heartbeat._samples.extend([(now - 20, 0.0), (now - 10, 50.0)])
    pace = heartbeat._pace(100, end)
    assert pace["progress_rate"] == pytest.approx(5, rel=0.01)
    assert pace["eta_seconds"] == (None if eta is None else pytest.approx(eta, rel=0.01))
