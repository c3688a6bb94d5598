"""What the application notices: a steady load on the table while nothing runs, and while its rows are changed.

`python -m bench.foreground ROWS` is the application: CLIENTS connections that read and write single rows at random. An
operation is due at its time whether or not the one before it has been served, and its latency counts from then: a wait
of ten seconds cannot hide behind the requests that were never sent during it. No client has a `lock_timeout`; told to
stop, they first serve what was due until then.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
from rich.table import Table

from api.processes import Running, running
from examples.demo.errors import CannotGoOn
from examples.demo.figures import milliseconds, percentile
from examples.demo.screen import Screen, Step
from examples.demo.service import Place, last_words

from .backfill import Rivals
from .copies import Copies
from .outcome import Bound, Outcome
from .project.trials.backfills import COPY, DEFAULTS

CLIENTS = 4
RATE = 200  # operations a second of all clients together, every other one a write
P99_BOUND = 2
LONGEST_BOUND = 1 / 100
UNSERVED_BOUND = 1  # per cent
START_TIMEOUT = 30
STOP_TIMEOUT = 60  # seconds for what was held up to be served

_READ = f"SELECT title, data FROM {COPY} WHERE id = %(id)s"
_WRITE = f"UPDATE {COPY} SET title = 'Task ' || %(id)s || ' again', updated_at = now() WHERE id = %(id)s"


@dataclass
class Way:
    """One way to spend the time, and what the clients saw in all rounds of it.

    work: returns how many seconds it went on. reads, writes: latencies in milliseconds. late: operations that were
    served only after their round had ended.
    """

    label: str
    work: Callable[[], float]
    reads: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    seconds: float = 0.0
    late: int = 0

    @property
    def all(self) -> Sequence[float]:
        """Reads and writes together."""
        return [*self.reads, *self.writes]

    @property
    def p99(self) -> float:
        return percentile(self.all, 0.99)

    @property
    def longest(self) -> float:
        """The longest of all, NaN without any."""
        return percentile(self.all, 1)

    @property
    def served(self) -> int:
        """How many operations were served while the work went on."""
        return len(self.all) - self.late

    def add(self, samples: Sequence[tuple[float, str, float]], start: float, seconds: float) -> None:
        """Take over what was due in a round: when, its kind, its latency."""
        self.seconds += seconds
        end = start + seconds
        for due, kind, latency in samples:
            if start <= due < end:
                (self.writes if kind == "write" else self.reads).append(latency)
                self.late += due + latency / 1000 > end


def measure(
    rivals: Rivals, copies: Copies, where: Place, idle: float, rounds: int, screen: Screen, step: Step
) -> Outcome:
    """Load the table in each way, `rounds` times, in turn. idle: seconds of a round in which nothing runs."""
    ways = [
        Way("nothing", lambda: _idle(idle)),
        Way("the backfill with defaults", lambda: rivals.backfill(DEFAULTS)),
        Way("the one UPDATE", rivals.single),
    ]
    for number in range(rounds):
        for place, way in enumerate(ways):
            step.show(100 * (3 * number + place) / (3 * rounds), f"round {number + 1} of {rounds}: {way.label}")
            copies.fresh()
            _load(way, copies.rows, where)
    nothing, backfill, single = ways
    step.end(f"p99 {milliseconds(nothing.p99)}, {milliseconds(backfill.p99)}, {milliseconds(single.p99)}")
    return Outcome((_table(ways, rounds, screen),), (), _bounds(nothing, backfill, single))


def _idle(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _load(way: Way, rows: int, where: Place) -> None:
    """Do the work under load."""
    log = where.directory / f"foreground-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "bench.foreground", str(rows)]
    with running(command, where.env, log, grace=STOP_TIMEOUT) as clients:
        _wait_for_first(clients)
        start = time.monotonic()
        seconds = way.work()
    if clients.process.returncode:
        raise CannotGoOn(f"the clients have failed, and said last: {last_words(clients)}")
    way.add(_samples(log), start, seconds)


def _wait_for_first(clients: Running) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while clients.output.count("\n") < 2 * CLIENTS:
        if not clients.is_alive() or time.monotonic() > deadline:
            raise CannotGoOn(f"the clients did not start, and said last: {last_words(clients)}")
        time.sleep(0.1)


def _samples(log: Path) -> list[tuple[float, str, float]]:
    lines = (line.split() for line in log.read_text().splitlines())
    return [(float(due), kind, float(latency)) for due, kind, latency in lines]


def _table(ways: Sequence[Way], rounds: int, screen: Screen) -> Table:
    table = screen.table(
        f"{CLIENTS} clients, {RATE} reads and writes a second while this runs, {rounds} times each",
        "",
        "p50",
        "p99",
        "longest",
        "p99 of reads",
        "of writes",
        "served a second",
        "took",
    )
    for way in ways:
        figures = (
            percentile(way.all, 0.5),
            way.p99,
            way.longest,
            percentile(way.reads, 0.99),
            percentile(way.writes, 0.99),
        )
        table.add_row(
            way.label, *map(milliseconds, figures), f"{way.served / way.seconds:.1f}", f"{way.seconds / rounds:.0f} s"
        )
    return table


def _bounds(nothing: Way, backfill: Way, single: Way) -> tuple[Bound, ...]:
    unserved = 100 * (1 - backfill.served / (backfill.seconds * RATE))
    return (
        Bound("p99 during the backfill", backfill.p99, round(P99_BOUND * nothing.p99, 2), " ms"),
        Bound("longest during the backfill", backfill.longest, round(LONGEST_BOUND * single.longest, 1), " ms"),
        Bound("not served while the backfill ran", unserved, UNSERVED_BOUND, " %"),
    )


# --- the application ---


class Clients:
    """All of them, from now until told to stop."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._until = float("inf")
        self._began = time.monotonic()

    def stop(self) -> None:
        """Take on nothing that is due from now on."""
        self._until = time.monotonic()

    def serve(self, number: int) -> None:
        """Be one of them."""
        connection = psycopg2.connect(os.environ["DATABASE_URL"], application_name="bench application")
        connection.autocommit = True
        parent = os.getppid()
        with connection.cursor() as cursor:
            due, writes = self._began + number / RATE, False
            while os.getppid() == parent:
                due += CLIENTS / RATE
                time.sleep(max(0.0, due - time.monotonic()))
                if due > self._until:
                    return
                cursor.execute(_WRITE if writes else _READ, {"id": random.randint(1, self._rows)})
                # One write of one whole line: the clients share the file.
                line = f"{due:.4f} {'write' if writes else 'read'} {(time.monotonic() - due) * 1000:.3f}\n"
                os.write(sys.stdout.fileno(), line.encode())
                writes = not writes


def main() -> None:
    """Serve until SIGTERM, or until whoever started this is gone."""
    clients = Clients(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: clients.stop())
    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(clients.serve, range(CLIENTS)))


if __name__ == "__main__":
    main()
