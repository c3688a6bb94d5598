"""A backfill against the one UPDATE in psql that does the same, on equal copies of a table, in turn.

The backfill's time is all of it: from `POST .../run` until the row says FINISHED, both by the database's clock, which
includes the way to the worker and the proof that no row is left. psql's is that of its process from start to exit.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg2

from examples.demo.control_plane import ControlPlane
from examples.demo.errors import CannotGoOn
from examples.demo.screen import Screen, Step

from .copies import Copies
from .outcome import Bound, Outcome
from .project.trials.backfills import COPY, DEFAULTS, UNTHROTTLED, UPDATE, WHERE
from .psql import Psql

POLL_SECONDS = 2  # what `Retry-After` asks for
UNTHROTTLED_BOUND = 1.0
DEFAULTS_BOUND = 1.25

_SECONDS = """
SELECT extract(epoch FROM finished_at - requested_at) FROM async_migrations_asyncmigrationstatus WHERE id = %(pk)s
"""


class Rivals:
    """Changes the rows of the copy in either way."""

    def __init__(self, control: ControlPlane, connection: psycopg2.extensions.connection, database_url: str) -> None:
        self._control, self._connection = control, connection
        self._psql = Psql(database_url)

    def backfill(self, name: str) -> float:
        """Return the seconds of the backfill of this name; afterwards it can be run again."""
        pk = int(self._control.find(name)["id"])
        self._ask("run", pk, "FINISHED")
        with self._connection.cursor() as cursor:
            cursor.execute(_SECONDS, {"pk": pk})
            seconds = float((cursor.fetchone() or (0.0,))[0])
        self._ask("rollback", pk, "ROLLED BACK")
        return seconds

    def single(self) -> float:
        """Return the seconds of the one UPDATE in psql."""
        return self._psql.seconds(f"UPDATE {COPY} SET {UPDATE} WHERE {WHERE}")

    def _ask(self, verb: str, pk: int, wanted: str) -> None:
        self._control.ask(verb, pk)
        row = self._control.wait(pk, POLL_SECONDS)
        if row["status"] != wanted:
            raise CannotGoOn(f"{row['name']} ended {row['status']}: {row['meta'].get('error')}")


@dataclass
class Way:
    """One way to change the rows: how, and what came of it in every round; sizes in bytes."""

    label: str
    change: Callable[[], float]
    seconds: list[float] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of its seconds."""
        return statistics.median(self.seconds)

    def measure(self, copies: Copies) -> None:
        """Change a fresh copy."""
        copies.fresh()
        self.before.append(copies.size())
        self.seconds.append(self.change())
        self.after.append(copies.size())
        copies.check(copies.rows)


def measure(rivals: Rivals, copies: Copies, rounds: int, screen: Screen, step: Step) -> Outcome:
    """Change all rows in each way, `rounds` times, in turn; which begins changes with every round."""
    ways = [
        Way("one UPDATE in psql, start to exit", rivals.single),
        Way("backfill, throttle off, duty cycle 1", lambda: rivals.backfill(UNTHROTTLED)),
        Way("backfill with defaults", lambda: rivals.backfill(DEFAULTS)),
    ]
    for number in range(rounds):
        for place, way in enumerate(ways if number % 2 == 0 else reversed(ways)):
            step.show(100 * (3 * number + place) / (3 * rounds), f"round {number + 1} of {rounds}: {way.label}")
            way.measure(copies)
    single, unthrottled, defaults = (way.median for way in ways)
    step.end(f"{unthrottled / single:.2f} and {defaults / single:.2f} of the UPDATE's time")
    table = screen.table(
        f"{copies.rows:,} rows changed, {rounds} times each in turn",
        "",
        "median",
        "fastest",
        "slowest",
        "of UPDATE",
        "before",
        "after",
    )
    for way in ways:
        times = (f"{value:.2f} s" for value in (way.median, min(way.seconds), max(way.seconds)))
        sizes = (f"{statistics.median(values) / 1024**2:,.0f} MB" for values in (way.before, way.after))
        table.add_row(way.label, *times, f"{way.median / single:.2f}", *sizes)
    bounds = (
        Bound("backfill without throttle against the one UPDATE", unthrottled / single, UNTHROTTLED_BOUND),
        Bound("backfill with defaults against the one UPDATE", defaults / single, DEFAULTS_BOUND),
    )
    return Outcome((table,), (), bounds)
