"""From `POST .../run` to the first statement: trivial migrations, one after the other, on an idle worker.

The statement itself says when it ran, by the database's clock; the request's time is this process's clock, taken just
before it is sent. Both are clocks of one machine, unless DATABASE_URL names another.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import psycopg2

from examples.demo.control_plane import ControlPlane
from examples.demo.errors import CannotGoOn
from examples.demo.figures import percentile
from examples.demo.screen import Screen, Step

from .outcome import Bound, Outcome

NAME = "bench.project.trials.migrations.0002_trivial_async_{:02}"
P50_BOUND = 36.0  # milliseconds
P95_BOUND = 46.0

# Seconds between two requests, by chance: the worker falls idle again, and no request meets it at the same point of its
# polling as the one before.
_PAUSE = (0.2, 0.5)

_STAGES = """
SELECT extract(epoch FROM m.requested_at), extract(epoch FROM m.dispatched_at), extract(epoch FROM m.started_at),
       extract(epoch FROM t.at)
FROM async_migrations_asyncmigrationstatus AS m, bench_trial AS t
WHERE m.id = %(pk)s AND t.number = %(number)s
"""


@dataclass(frozen=True)
class Trial:
    """When one migration was where, as seconds of the epoch."""

    sent: float
    recorded: float
    dispatched: float
    claimed: float
    statement: float

    @property
    def whole(self) -> float:
        """Milliseconds from the request to the first statement."""
        return (self.statement - self.sent) * 1000

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds of each part of the way."""
        moments = (self.sent, self.recorded, self.dispatched, self.claimed, self.statement)
        lengths = [(later - earlier) * 1000 for earlier, later in pairwise(moments)]
        return dict(zip(STAGES, lengths, strict=True))


STAGES = (
    "request arrives, row says STARTED",
    "transaction ends, message is about to be sent",
    "message travels, worker claims",
    "connection, locks, checkpoint, first statement",
)


def measure(
    control: ControlPlane, connection: psycopg2.extensions.connection, count: int, screen: Screen, step: Step
) -> Outcome:
    """Run `count` migrations, each after the one before has ended."""
    trials = []
    for number in range(count):
        step.show(100 * number / count)
        time.sleep(random.uniform(*_PAUSE))
        trials.append(_trial(control, connection, number))
    step.end(f"p50 {percentile([trial.whole for trial in trials], 0.5):.1f} ms")
    return _outcome(trials, screen)


def _trial(control: ControlPlane, connection: psycopg2.extensions.connection, number: int) -> Trial:
    pk = int(control.find(NAME.format(number))["id"])
    sent = time.time()
    control.ask("run", pk)
    row = control.wait(pk)
    if row["status"] != "FINISHED":
        raise CannotGoOn(f"{row['name']} ended {row['status']}: {row['meta'].get('error')}")
    with connection.cursor() as cursor:
        cursor.execute(_STAGES, {"pk": pk, "number": number})
        moments = cursor.fetchall()
    if len(moments) != 1:
        raise CannotGoOn(f"{row['name']} ran {len(moments)} times, not once")
    return Trial(sent, *(float(moment) for moment in moments[0]))


def _outcome(trials: Sequence[Trial], screen: Screen) -> Outcome:
    whole = [trial.whole for trial in trials]
    p50, p95 = percentile(whole, 0.5), percentile(whole, 0.95)
    table = screen.table(f"From POST run to the first statement, {len(trials)} migrations", "", "p50", "p95", "longest")
    table.add_row("through the product", *(f"{value:.1f} ms" for value in (p50, p95, max(whole))))
    table.add_row("the original, from enqueue; measured elsewhere", "36-41 ms", "46-57 ms", "")
    parts = screen.table("Where that time goes", "", "p50", "p95")
    for stage in STAGES:
        lengths = [trial.stages[stage] for trial in trials]
        parts.add_row(stage, f"{percentile(lengths, 0.5):.1f} ms", f"{percentile(lengths, 0.95):.1f} ms")
    return Outcome(
        (table, parts),
        (),
        (
            Bound("POST run to first statement, p50", p50, P50_BOUND, " ms"),
            Bound("POST run to first statement, p95", p95, P95_BOUND, " ms"),
        ),
    )
