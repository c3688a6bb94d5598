"""Trivial migrations asked for all at once, as a CI script does that fans out, until the last of them is FINISHED.

Ours are asked for over HTTP, each with its own request, by a few connections; the original's jobs are put into Redis
without any request. The time is from just before the first of them until the last says FINISHED, by the database's
clock, which is this machine's unless DATABASE_URL names another.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg2

from examples.demo.control_plane import ControlPlane
from examples.demo.errors import CannotGoOn
from examples.demo.screen import Screen, Step

from .original import Original
from .outcome import Bound, Outcome
from .project.trials.statements import BURST, NAME, THROUGH_RQ, TRIALS

CONNECTIONS = 4
TIMES_FASTER = 2
POLL_SECONDS = 0.1
TIMEOUT = 120  # seconds for one burst

_IDS = "SELECT id FROM async_migrations_asyncmigrationstatus WHERE name = ANY (%(names)s)"
_OURS = """
SELECT count(*) FILTER (WHERE status = 'FINISHED'), string_agg(DISTINCT meta ->> 'error', '; '),
       extract(epoch FROM max(finished_at))
FROM async_migrations_asyncmigrationstatus WHERE name = ANY (%(names)s)
"""
_RQS = """
SELECT count(*) FILTER (WHERE status = 'FINISHED'), NULL, extract(epoch FROM max(updated_at))
FROM bench_job_status WHERE name = ANY (%(names)s)
"""
_RUNS = "SELECT count(*) FROM bench_trial WHERE number BETWEEN %(first)s AND %(last)s"


class Rivals:
    """Carry a burst out in either way, each with numbers of its own."""

    def __init__(self, control: ControlPlane, original: Original, connection: psycopg2.extensions.connection) -> None:
        self._control, self._original, self._connection = control, original, connection

    def product(self, numbers: range) -> float:
        """Return the seconds that it takes through the product."""
        with self._connection.cursor() as cursor:
            cursor.execute(_IDS, {"names": _names(numbers)})
            ids = [pk for (pk,) in cursor.fetchall()]
        sent = time.time()
        with ThreadPoolExecutor(CONNECTIONS) as clients:
            list(clients.map(lambda pk: self._control.ask("run", pk), ids))
        return self._finished(_OURS, numbers) - sent

    def rq(self, numbers: range) -> float:
        """Return the seconds that it takes through RQ."""
        sent = time.time()
        for number in numbers:
            self._original.enqueue(number)
        return self._finished(_RQS, numbers, THROUGH_RQ) - sent

    def _finished(self, sql: str, numbers: range, offset: int = 0) -> float:
        """Return when the last of them was finished, as seconds of the epoch; see that each ran once."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, {"names": _names(numbers)})
                finished, errors, last = cursor.fetchall()[0]
            if errors or time.monotonic() > deadline:
                raise CannotGoOn(f"{finished} of {len(numbers)} in a burst were FINISHED: {errors or 'out of time'}")
            if finished == len(numbers):
                break
            time.sleep(POLL_SECONDS)
        with self._connection.cursor() as cursor:
            cursor.execute(_RUNS, {"first": numbers[0] + offset, "last": numbers[-1] + offset})
            runs = cursor.fetchall()[0][0]
        if runs != len(numbers):
            raise CannotGoOn(f"{len(numbers)} in a burst were FINISHED, and their statements ran {runs} times")
        return float(last)


def measure(rivals: Rivals, bursts: int, size: int, screen: Screen, step: Step) -> Outcome:
    """Carry out `bursts` of `size` in both ways, in turn; who begins changes with every burst."""
    seconds: dict[str, list[float]] = {"product": [], "rq": []}
    ways: list[tuple[str, Callable[[range], float]]] = [("product", rivals.product), ("rq", rivals.rq)]
    for number in range(bursts):
        first = TRIALS + number * BURST
        for way, burst in ways if number % 2 == 0 else reversed(ways):
            step.show(50 * sum(map(len, seconds.values())) / bursts, f"burst {number + 1} of {bursts}: {way}")
            seconds[way].append(burst(range(first, first + size)))
    product, rq = (statistics.median(seconds[way]) * 1000 / size for way in ("product", "rq"))
    step.end(f"{product:.1f} ms each, RQ {rq:.1f} ms")
    return _outcome(seconds, size, screen)


def _outcome(seconds: dict[str, list[float]], size: int, screen: Screen) -> Outcome:
    table = screen.table(
        f"{size} trivial migrations at once, one worker process, {len(seconds['rq'])} times each in turn",
        "",
        "median",
        "fastest",
        "slowest",
        "each",
    )
    for label, values in (
        (f"through the product, POST run on {CONNECTIONS} connections to FINISHED", seconds["product"]),
        ("through RQ, enqueue to FINISHED", seconds["rq"]),
    ):
        table.add_row(label, *(f"{value:.2f} s" for value in _spread(values)), f"{_each(values, size):.1f} ms")
    product, rq = (_each(seconds[way], size) for way in ("product", "rq"))
    table.add_row("RQ's median as a multiple of ours", f"{rq / product:.2f}", "", "", "")
    limit = round(rq / TIMES_FASTER, 1)
    return Outcome((table,), (), (Bound("a migration in a burst, half of RQ's time", product, limit, " ms"),))


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def _each(values: Sequence[float], size: int) -> float:
    """Return milliseconds a migration."""
    return statistics.median(values) * 1000 / size


def _names(numbers: range) -> list[str]:
    return [NAME.format(number) for number in numbers]
