"""From `POST .../run` to the first statement: trivial migrations, one after the other, on an idle worker.

Beside each the same statement through RQ, from `enqueue`, in turn. The statement itself says when it ran, by the
database's clock; the time of the request, or of the enqueueing, is this process's clock, taken just before. Both are
clocks of one machine, unless DATABASE_URL names another.

RQ's worker is told by Redis that there is a job; Dramatiq's asks, here every few milliseconds (`POLL_MILLISECONDS`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg2

from examples.demo.control_plane import ControlPlane
from examples.demo.errors import CannotGoOn
from examples.demo.figures import percentile
from examples.demo.screen import Screen, Step

from .original import Original
from .outcome import Bound, Outcome
from .project.trials.statements import NAME, THROUGH_RQ

# Seconds between two requests, by chance: the worker falls idle again, and no request meets it at the same point of its
# polling as the one before.
_PAUSE = (0.2, 0.5)
POLL_SECONDS = 0.25  # as often as the control plane is asked

# How long our worker sleeps at most before it asks Redis again. The service's own setting is 20, which costs an idle
# worker less and a migration some ten milliseconds more.
POLL_MILLISECONDS = 5
TIMEOUT = 30

_STAGES = """
SELECT extract(epoch FROM m.requested_at), extract(epoch FROM m.started_at), extract(epoch FROM t.at)
FROM async_migrations_asyncmigrationstatus AS m, bench_trial AS t
WHERE m.id = %(pk)s AND t.number = %(number)s
"""
_JOB = """
SELECT extract(epoch FROM t.at) FROM bench_job_status AS j, bench_trial AS t
WHERE j.name = %(name)s AND j.status = 'FINISHED' AND t.number = %(number)s
"""


@dataclass(frozen=True)
class Trial:
    """When one migration was where, as seconds of the epoch."""

    sent: float
    recorded: float
    claimed: float
    statement: float

    @property
    def whole(self) -> float:
        """Milliseconds from the request to the first statement."""
        return (self.statement - self.sent) * 1000

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds of each part of the way."""
        moments = (self.sent, self.recorded, self.claimed, self.statement)
        lengths = [(later - earlier) * 1000 for earlier, later in pairwise(moments)]
        return dict(zip(STAGES, lengths, strict=True))


STAGES = (
    "request arrives, row says STARTED",
    "transaction ends, message travels, worker claims",
    "session, locks, checkpoint, first statement",
)


class Rivals:
    """Run one statement in either way, and wait until it has ended."""

    def __init__(self, control: ControlPlane, original: Original, connection: psycopg2.extensions.connection) -> None:
        self._control, self._original, self._connection = control, original, connection

    def product(self, number: int) -> Trial:
        """Run it through the product."""
        pk = int(self._control.find(NAME.format(number))["id"])
        sent = time.time()
        self._control.ask("run", pk)
        row = self._control.wait(pk)
        if row["status"] != "FINISHED":
            raise CannotGoOn(f"{row['name']} ended {row['status']}: {row['meta'].get('error')}")
        moments = self._select(_STAGES, pk=pk, number=number)
        if len(moments) != 1:
            raise CannotGoOn(f"{row['name']} ran {len(moments)} times, not once")
        return Trial(sent, *(float(moment) for moment in moments[0]))

    def rq(self, number: int) -> float:
        """Run it through RQ; return the milliseconds from enqueueing it to the statement."""
        sent = time.time()
        self._original.enqueue(number)
        deadline = time.monotonic() + TIMEOUT
        while not (found := self._select(_JOB, name=NAME.format(number), number=THROUGH_RQ + number)):
            if time.monotonic() > deadline:
                raise CannotGoOn("RQ's worker did not end a job")
            time.sleep(POLL_SECONDS)
        return (float(found[0][0]) - sent) * 1000

    def _select(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()


def measure(rivals: Rivals, count: int, screen: Screen, step: Step) -> Outcome:
    """Run `count` in both ways in turn, each after the one before has ended; who begins changes with every pair."""
    trials: list[Trial] = []
    jobs: list[float] = []
    ways: list[Callable[[int], None]] = [
        lambda number: trials.append(rivals.product(number)),
        lambda number: jobs.append(rivals.rq(number)),
    ]
    for number in range(count):
        step.show(100 * number / count)
        for way in ways if number % 2 == 0 else reversed(ways):
            time.sleep(random.uniform(*_PAUSE))
            way(number)
    p50 = percentile([trial.whole for trial in trials], 0.5)
    step.end(f"p50 {p50:.1f} ms, RQ {percentile(jobs, 0.5):.1f} ms")
    return _outcome(trials, jobs, screen)


def _outcome(trials: Sequence[Trial], jobs: Sequence[float], screen: Screen) -> Outcome:
    whole = [trial.whole for trial in trials]
    table = screen.table(f"To the first statement, {len(trials)} in each way, in turn", "", "p50", "p95", "longest")
    for label, values in (
        ("through the product, from POST run", whole),
        ("through RQ, from enqueue; no request in front", jobs),
    ):
        table.add_row(label, *(f"{value:.1f} ms" for value in (*_percentiles(values), max(values))))
    parts = screen.table("Where the product's time goes", "", "p50", "p95")
    for stage in STAGES:
        parts.add_row(stage, *(f"{value:.1f} ms" for value in _percentiles([trial.stages[stage] for trial in trials])))
    bounds = (
        Bound(f"POST run to first statement, {share}, against RQ", ours, round(theirs, 1), " ms")
        for share, ours, theirs in zip(("p50", "p95"), _percentiles(whole), _percentiles(jobs), strict=True)
    )
    return Outcome((table, parts), (), tuple(bounds))


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    return percentile(values, 0.5), percentile(values, 0.95)
