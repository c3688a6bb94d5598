"""What a backfill does by the clock: how long it rests, and when its window shuts. The clock is the test's own."""

from __future__ import annotations

import sys
import types
from collections import defaultdict
from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from typing import Any

import pytest

from async_migrations import lifecycle, tasks
from async_migrations.execution import walk, window
from async_migrations.execution.heartbeat import Heartbeat
from async_migrations.lifecycle import Origin
from async_migrations.models import AsyncMigrationLane, AsyncMigrationStatus
from async_migrations.states import Status
from tests.conftest import eventually
from tests.db.conftest import Backfill, carried_out, kinds, query


@pytest.fixture(autouse=True)
def _as_the_file_says(settings: Any) -> None:
    settings.ASYNC_MIGRATIONS_DUTY_CYCLE = 1
    settings.ASYNC_MIGRATIONS_HEARTBEAT_SECONDS = 0.02
    settings.ALLOW_SCHEDULED_MIGRATIONS = True


class Rests:
    """A clock that stands still but for the pauses that a walk asks for.

    seconds: that it rested when so many rows had committed. bounds: rows a second that are set live when so many have.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.seconds: dict[int, float] = defaultdict(float)
        self.bounds: dict[int, float | None] = {}

    def monotonic(self) -> float:
        return self.now

    def pause(self, heartbeat: Heartbeat, seconds: float) -> None:
        done = int(query("SELECT sum(rows_done) FROM async_migrations_asyncmigrationlane")[0][0])
        if due := [rows for rows in self.bounds if rows <= done]:
            self._tune(heartbeat, self.bounds.pop(due[0]))
            return
        self.seconds[done] += seconds
        self.now += seconds

    @staticmethod
    def _tune(heartbeat: Heartbeat, bound: float | None) -> None:
        lifecycle.tune(lifecycle.rows().get().pk, Origin("test"), {"max_rows_per_second": bound})
        eventually(lambda: heartbeat.tuning.get("max_rows_per_second") == bound)


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> Rests:
    made = Rests()
    monkeypatch.setattr(walk, "time", made)
    monkeypatch.setattr(Heartbeat, "pause", lambda heartbeat, seconds: made.pause(heartbeat, seconds))
    return made


def test_no_more_rows_a_second_are_changed_than_the_file_or_live_tuning_says(backfill: Backfill, rests: Rests) -> None:
    # Given a bound, another one once half of the rows are changed, and that of the file again near the end
    bounds = {"lanes": 2, "max_rows_per_second": 200}
    rests.bounds = {250: 50, 430: None}
    # When it is carried out, one lane after the other, in no time but for the pauses
    row = carried_out(backfill(table="book", update="n = n + 1", batch_size=50, throttle=False, **bounds))
    assert (row.status, row.progress_done) == (Status.FINISHED, 500)
    # Then the rest after each batch is the time of its rows, by the lane's half of the bound
    assert not rests.bounds
    assert list(rests.seconds)[-1] == 500
    for before, done in pairwise([0, *rests.seconds]):
        bound = 25 if 250 <= done < 430 else 100
        assert rests.seconds[done] == pytest.approx((done - before) / bound), f"{before} to {done}"
        assert done - before <= (52 if before < 250 else 27), "a second's worth, give or take what parts differ by"


def went_on(pk: int) -> AsyncMigrationStatus:
    """Carry a migration out as a worker does that gets its message; return the row as it is then."""
    tasks.carry_out(pk)
    return lifecycle.get(pk)


def test_a_window_that_shuts_holds_it_behind_the_batch_under_way_until_it_opens_again(
    backfill: Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a clock, and a backfill in whose third batch it comes to be a fifth of a second before ten
    batches: list[list[int]] = []
    clock = {"now": datetime(2026, 11, 22, 23, tzinfo=UTC)}

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return clock["now"].astimezone(tz)

    def count(rows: list[dict[str, Any]]) -> None:
        batches.append([row["id"] for row in rows])
        query(f"UPDATE book SET n = n + 1 WHERE id BETWEEN {batches[-1][0]} AND {batches[-1][-1]}")
        if len(batches) == 3:
            clock["now"] = datetime(2026, 11, 23, 21, 59, 59, 800_000, tzinfo=UTC)

    module = types.ModuleType("night")
    module.count = count  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "night", module)
    monkeypatch.setattr(window, "datetime", Clock)
    shift = {"window": "22:00-06:00 UTC", "throttle": False}
    row = carried_out(backfill(table="book", process="night.count", batch_size=50, **shift))
    # Then that batch has committed, no other has begun, and the row says why it waits, and until when
    assert (row.status, row.phase, row.attempt) == (Status.STARTED, "waits for its window to open", 0)
    assert row.run_at is not None
    assert row.events.latest("id").detail["delay_seconds"] == 0.2
    lane = AsyncMigrationLane.objects.get()
    assert (lane.cursor, lane.rows_done, lane.finished) == ([str(batches[-1][-1])], 150, False)
    assert query("SELECT n, count(*) FROM book GROUP BY n ORDER BY n") == [(0, 350), (1, 150)]
    # And when it opens, it goes on behind that batch to its end
    clock["now"] = datetime(2026, 11, 23, 22, tzinfo=UTC)
    eventually(lambda: went_on(row.pk).terminal)
    assert lifecycle.get(row.pk).status == Status.FINISHED
    assert query("SELECT n, count(*) FROM book GROUP BY n") == [(1, 500)]
    assert batches[3][0] == 151
    told = kinds(row)
    assert [told.count(kind) for kind in ("claim", "resumed", "succeed")] == [2, 1, 1]
