"""The act of the backfill: paused in the middle, resumed, and tuned while it goes on.

It is held back until it has been paused, so that there is a middle however few tasks there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .control_plane import ControlPlane, Row
from .scene import Proof, Scene

HELD_BACK = 30  # to a rate at which all tasks would take so many seconds
PAUSE_AT = 0.2  # of all tasks
PAUSE_SECONDS = 1.0
TUNED_BATCHES = 500  # at least so many, were they for all tasks
TUNED_DUTY = 0.95


class Look(NamedTuple):
    """What the lanes of the backfill say in the database.

    at: when the last batch committed, in seconds. rows: changed so far. size: the bound of the next batch, in rows.
    """

    at: float
    rows: int
    batches: int
    size: int


def paused_and_tuned(control: ControlPlane, scene: Scene, pk: int) -> Iterator[Row]:
    """Run it at a low rate, pause it, resume it, and let it go faster in smaller batches."""
    tasks = scene.loaded.rows
    yield control.tune(pk, {"max_rows_per_second": tasks // HELD_BACK})
    yield control.ask("run", pk)
    yield from _until(control, pk, lambda row: _look(scene).batches > 0)
    first = _look(scene)
    yield from _until(control, pk, lambda row: _look(scene).rows > PAUSE_AT * tasks)
    yield control.ask("pause", pk)
    yield from _until(control, pk, lambda row: row["status"] == "PAUSED")
    scene.seen.append(_nothing_moves(scene))
    paused = _look(scene)
    yield control.ask("resume", pk)
    yield from _until(control, pk, lambda row: _look(scene).batches > paused.batches)
    tuning = {"batch_size": max(1, tasks // TUNED_BATCHES), "duty_cycle": TUNED_DUTY, "max_rows_per_second": None}
    yield control.tune(pk, tuning)
    yield from _until(control, pk, lambda row: _look(scene).size <= tasks // TUNED_BATCHES)
    tuned = _look(scene)
    yield from control.follow(pk)
    scene.seen.append(_obeys(tuning, (first, paused), (tuned, _look(scene))))


def each_row_once(scene: Scene) -> Iterator[Proof]:
    """Yield what was seen in its course, then what is to be true of the tasks and of the counters."""
    yield from scene.seen
    once, otherwise = scene.values(_CHECKED)
    yield (
        (once, otherwise) == (scene.loaded.rows, 0),
        f"{once:,} tasks, open ones too, were changed exactly once and hold their checksum, {otherwise:,} otherwise",
    )
    lanes, row = _look(scene).rows, scene.row["progress"]["done"]
    yield lanes == row == once, f"{lanes:,} by the counter beside the cursor, {row:,} by the row"


def _until(control: ControlPlane, pk: int, reached: Callable[[Row], bool]) -> Iterator[Row]:
    """Follow until it is so, or until it has ended."""
    for row in control.follow(pk):
        yield row
        if reached(row):
            return


def _nothing_moves(scene: Scene) -> Proof:
    before = scene.value(_COUNT)
    time.sleep(PAUSE_SECONDS)
    after, counted = scene.value(_COUNT), _look(scene).rows
    return (
        0 < before == after == counted < scene.loaded.rows,
        f"PAUSED: {before:,} tasks are done, {PAUSE_SECONDS:g} s later {after:,}, and {counted:,} by its counter",
    )


def _obeys(tuning: dict[str, Any], slow: tuple[Look, Look], fast: tuple[Look, Look]) -> Proof:
    (slow_rate, slow_size), (fast_rate, fast_size) = _speed(*slow), _speed(*fast)
    return (
        fast_size <= tuning["batch_size"],
        f"tuned in its course: {slow_rate:,.0f} tasks a second in batches of {slow_size:,.0f} before, "
        f"{fast_rate:,.0f} in batches of {fast_size:,.0f} after",
    )


def _speed(first: Look, last: Look) -> tuple[float, float]:
    """Return rows a second and rows a batch."""
    rows = last.rows - first.rows
    return rows / max(last.at - first.at, 1e-3), rows / max(last.batches - first.batches, 1)


def _look(scene: Scene) -> Look:
    return Look(*scene.values(_LANES, name="tasks.migrations.0006_task_checksum_async"))


_LANES = """
SELECT coalesce(extract(epoch FROM max(updated_at)), 0)::float, coalesce(sum(rows_done), 0)::bigint,
       coalesce(sum(batches), 0)::bigint, coalesce(max(batch_size), 0)
FROM async_migrations_asyncmigrationlane WHERE name = %(name)s
"""

_COUNT = "SELECT count(*) FROM task WHERE checked > 0"

_CHECKED = """
SELECT count(*) FILTER (WHERE once), count(*) FILTER (WHERE NOT once)
FROM (SELECT checked = 1 AND checksum IS NOT DISTINCT FROM md5(data::text) AS once FROM task) AS t
"""
