"""CREATE INDEX CONCURRENTLY through the product against the same statement in psql, on the same table, in turn.

The product's time is all of it: from just before `POST .../run` is sent until the row says FINISHED, by the database's
clock, which includes the way to the worker, the verification in the catalogue, and a poller that looks on. psql's is
that of its process from start to exit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import psycopg2

from examples.demo.control_plane import ControlPlane
from examples.demo.errors import CannotGoOn
from examples.demo.screen import Screen, Step

from .copies import level
from .outcome import Bound, Outcome
from .psql import Psql

NAME = "tasks.migrations.0003_task_proj_octlen_idx_async"
RATIO_BOUND = 1.05
POLL_SECONDS = 2  # what `Retry-After` asks for

_FINISHED_AT = "SELECT extract(epoch FROM finished_at) FROM async_migrations_asyncmigrationstatus WHERE id = %(pk)s"
_STATEMENT = """
SELECT (detail ->> 'seconds')::float FROM async_migrations_asyncmigrationevent
WHERE migration_id = %(pk)s AND kind = 'statement_done' ORDER BY id DESC LIMIT 1
"""


class Rivals:
    """Builds the index in either way, and takes it away again."""

    def __init__(self, control: ControlPlane, connection: psycopg2.extensions.connection, database_url: str) -> None:
        self._control, self._connection = control, connection
        self._row = control.get(int(control.find(NAME)["id"]))
        self._psql = Psql(database_url)
        self.statements: list[float] = []

    def product(self) -> float:
        """Return the seconds that it takes through the product; afterwards the index is gone."""
        pk = self._row["id"]
        sent = time.time()
        self._control.ask("run", pk)
        self._wait("FINISHED")
        seconds = self._one(_FINISHED_AT) - sent
        self.statements.append(self._one(_STATEMENT))
        self._control.ask("rollback", pk)
        self._wait("ROLLED BACK")
        return seconds

    def psql(self) -> float:
        """Return the seconds that it takes in psql; afterwards the index is gone."""
        seconds = self._psql.seconds(self._row["sql_forwards"])
        self._psql.seconds(self._row["sql_backwards"])
        return seconds

    def level(self) -> None:
        """Give both the same start: nothing of the one before still has to be written to disk."""
        level(self._connection)

    def _wait(self, wanted: str) -> None:
        row = self._control.wait(self._row["id"], POLL_SECONDS)
        if row["status"] != wanted:
            raise CannotGoOn(f"{row['name']} ended {row['status']}: {row['meta'].get('error')}")

    def _one(self, sql: str) -> float:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, {"pk": self._row["id"]})
            return float((cursor.fetchone() or (0.0,))[0])


def measure(rivals: Rivals, rounds: int, screen: Screen, step: Step) -> Outcome:
    """Build the index in both ways, `rounds` times each, in turn; who begins changes with every round."""
    seconds: dict[str, list[float]] = {"product": [], "psql": []}
    ways: list[tuple[str, Callable[[], float]]] = [("product", rivals.product), ("psql", rivals.psql)]
    for number in range(rounds):
        for way, build in ways if number % 2 == 0 else reversed(ways):
            done = sum(map(len, seconds.values()))
            step.show(100 * done / (2 * rounds), f"round {number + 1} of {rounds}: {way}")
            rivals.level()
            seconds[way].append(build())
    step.end(f"{rounds} times each")
    return _outcome(seconds, rivals.statements, screen)


def _outcome(seconds: dict[str, list[float]], statements: list[float], screen: Screen) -> Outcome:
    product, psql = (statistics.median(seconds[way]) for way in ("product", "psql"))
    table = screen.table(
        f"CREATE INDEX CONCURRENTLY, {len(seconds['psql'])} times each in turn", "", "median", "fastest", "slowest"
    )
    for label, values in (
        ("through the product, POST run to FINISHED", seconds["product"]),
        ("  of that the statement and its verification", statements),
        ("psql, start to exit", seconds["psql"]),
    ):
        table.add_row(label, *(f"{value:.3f} s" for value in (statistics.median(values), min(values), max(values))))
    table.add_row("ratio of the medians", f"{product / psql:.3f}", "", "")
    return Outcome((table,), (), (Bound("CIC, the product against psql", product / psql, RATIO_BOUND),))
