"""`python -m bench [--short]`, run by `make bench`.

Exit codes: 0 every bound is kept, 1 one is not or something went wrong, 130 stopped. DATABASE_URL and BROKER_URL name
real servers instead of embedded ones; nothing is written into the checkout.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from examples.demo import rows
from examples.demo.__main__ import told_in_one_line
from examples.demo.control_plane import ControlPlane, control_plane
from examples.demo.screen import Screen
from examples.demo.service import Place, place, web_and_worker

from . import burst, first_statement, index_build
from .original import Original, original
from .outcome import Bound, Outcome
from .project.trials.statements import BURST, BURSTS, TRIALS

BYTES_PER_ROW = 700  # of the table with its indexes
WAL_BYTES = 5 * 1024**3


@dataclass(frozen=True)
class Size:
    """How much is measured: rows of the table, builds in each way, trivial migrations one by one and at once."""

    rows: int
    rounds: int
    trials: int
    bursts: int
    burst: int


FULL = Size(rows=4_000_000, rounds=7, trials=TRIALS, bursts=BURSTS, burst=BURST)
SHORT = Size(rows=20_000, rounds=1, trials=5, bursts=1, burst=20)


def main() -> int:
    """Measure, print the tables and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measurements against yardsticks.")
    parser.add_argument("--short", action="store_true", help="a few of each: shows that it works, decides nothing")
    parser.add_argument("--rows", type=int, help=f"rows of the table that is indexed, default {FULL.rows:,}")
    parser.add_argument("--rounds", type=int, help=f"index builds in each way, default {FULL.rounds}")
    chosen = parser.parse_args()
    base = SHORT if chosen.short else FULL
    size = replace(base, rows=chosen.rows or base.rows, rounds=chosen.rounds or base.rounds)
    if size.rows < 1000 or size.rounds < 1:
        parser.error("say at least 1000 rows and 1 round")
    return told_in_one_line("bench", lambda: measure(size, Screen(), decides=not chosen.short))


def measure(size: Size, screen: Screen, *, decides: bool) -> bool:
    """Set everything up, measure, print; False where a bound is not kept.

    decides: False prints how the bounds stand and returns True all the same.
    """
    screen.chapter("Set-up")
    with ExitStack() as stack:
        where = _set_up(size, screen, stack)
        with screen.step("API and worker"):
            control = stack.enter_context(control_plane(stack.enter_context(web_and_worker(where))))
        with screen.step("RQ's worker"):
            rival = stack.enter_context(original(where))
        outcomes = _outcomes(size, where, control, rival, screen)
        setting = _setting(where, size)
    for outcome in outcomes:
        for table in outcome.tables:
            screen.print(table)
    screen.say(setting)
    bounds = [bound for outcome in outcomes for bound in outcome.bounds]
    return _kept(bounds, screen, decides=decides)


def _set_up(size: Size, screen: Screen, stack: ExitStack) -> Place:
    with screen.step("PostgreSQL and Redis, tables"):
        where = stack.enter_context(place("migrations_bench", disk=size.rows * BYTES_PER_ROW + WAL_BYTES))
        where.migrate_service()
        where.migrate_host()
        where.migrate_project("bench.project.settings")
    with screen.step(f"{size.rows:,} tasks with JSON documents") as step, closing(where.connect()) as connection:
        loaded = rows.load(connection, size.rows, lambda done: step.show(100 * done / size.rows))
        # Its own time is not when something else is measured.
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE task SET (autovacuum_enabled = off)")
        step.end(f"{loaded.bytes / 1024**2:,.0f} MB")
    return where


def _outcomes(size: Size, where: Place, control: ControlPlane, rival: Original, screen: Screen) -> list[Outcome]:
    screen.chapter("Measuring")
    with closing(where.connect()) as connection:
        with screen.step(f"First statement, {size.trials} times, the product and RQ") as step:
            pair = first_statement.Rivals(control, rival, connection)
            first = first_statement.measure(pair, size.trials, screen, step)
        with screen.step(f"{size.burst} at once, the product and RQ") as step:
            at_once = burst.measure(burst.Rivals(control, rival, connection), size.bursts, size.burst, screen, step)
        with screen.step("CREATE INDEX CONCURRENTLY, the product and psql") as step:
            rivals = index_build.Rivals(control, connection, where.database_url)
            build = index_build.measure(rivals, size.rounds, screen, step)
    return [first, at_once, build]


def _setting(where: Place, size: Size) -> str:
    with closing(where.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        version = (cursor.fetchone() or ("?",))[0]
    return (
        f"PostgreSQL {version}, Python {platform.python_version()}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f}, table of {size.rows:,} rows."
    )


def _kept(bounds: list[Bound], screen: Screen, *, decides: bool) -> bool:
    screen.chapter("Bounds" if decides else "Bounds (the short form: they decide nothing)")
    screen.checks((bound.holds, str(bound)) for bound in bounds)
    return not decides or all(bound.holds for bound in bounds)


if __name__ == "__main__":
    sys.exit(main())
