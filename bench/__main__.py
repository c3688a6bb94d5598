"""`python -m bench [--short] [--only PARTS]`, run by `make bench`.

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

import psycopg2

from examples.demo import rows
from examples.demo.__main__ import told_in_one_line
from examples.demo.control_plane import ControlPlane, control_plane
from examples.demo.errors import CannotGoOn
from examples.demo.screen import Screen
from examples.demo.service import Door, Place, place, web_and_worker

from . import backfill, burst, first_statement, foreground, index_build, load, memory, naive, opening, pages, pollers
from .copies import Copies
from .filled import fill, hold
from .original import original
from .outcome import Bound, Outcome
from .project.trials.statements import BURST, BURSTS, TRIALS
from .wrk import require_wrk

BYTES_PER_ROW = 700  # of a table with its indexes, as large as it gets
BYTES_PER_NARROW_ROW = 150
WAL_BYTES = 5 * 1024**3
EVENTS_EACH = 10

PARTS = ("first", "burst", "build", "backfill", "naive", "foreground", "memory", "pages", "load", "pollers")
UNDER_LOAD = {"load", "pollers"}  # by wrk


@dataclass(frozen=True)
class Size:
    """How much is measured.

    rows, rounds: of the table that is indexed, and builds in each way. trials, bursts, burst: trivial migrations one by
    one and at once. backfilled, changes: rows of the table that is backfilled, and changes of all of them in each way.
    idle: seconds of the application by itself. narrow: rows of the two tables over which memory is compared.
    opened: pages at once, seconds between two polls of each, how often each is opened by itself, and the rows of the
    control plane meanwhile. recorded: the same rows when its doors are under load. asked: seconds and rounds at each
    address. pollers: at once.
    """

    rows: int
    rounds: int
    trials: int
    bursts: int
    burst: int
    backfilled: int
    changes: int
    idle: float
    narrow: tuple[int, int]
    opened: tuple[int, float, int, tuple[int, ...]]
    recorded: int
    asked: tuple[int, int]
    pollers: int

    @property
    def bytes(self) -> int:
        """What all of it takes on disk."""
        return (self.rows + self.backfilled) * BYTES_PER_ROW + self.narrow[1] * BYTES_PER_NARROW_ROW + WAL_BYTES


FULL = Size(
    rows=4_000_000,
    rounds=7,
    trials=TRIALS,
    bursts=BURSTS,
    burst=BURST,
    backfilled=3_000_000,
    changes=3,
    idle=20.0,
    narrow=(1_000_000, 10_000_000),
    opened=(100, 2.0, 50, (100, 10_000)),
    recorded=100_000,
    asked=(3, 3),
    pollers=500,
)
SHORT = Size(
    rows=20_000,
    rounds=1,
    trials=5,
    bursts=1,
    burst=20,
    backfilled=20_000,
    changes=1,
    idle=1.0,
    narrow=(2_000, 20_000),
    opened=(10, 0.2, 1, (100, 1_000)),
    recorded=2_000,
    asked=(1, 1),
    pollers=50,
)


def main() -> int:
    """Measure, print the tables and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measurements against yardsticks.")
    parser.add_argument("--short", action="store_true", help="a few of each: shows that it works, decides nothing")
    parser.add_argument("--only", type=_parts, help=f"some of {','.join(PARTS)}, default all")
    parser.add_argument("--rows", type=int, help=f"rows of the table that is indexed, default {FULL.rows:,}")
    parser.add_argument("--rounds", type=int, help=f"index builds in each way, default {FULL.rounds}")
    chosen = parser.parse_args()
    base = SHORT if chosen.short else FULL
    size = replace(base, rows=chosen.rows or base.rows, rounds=chosen.rounds or base.rounds)
    if size.rows < 1000 or size.rounds < 1:
        parser.error("say at least 1000 rows and 1 round")
    return told_in_one_line(
        "bench", lambda: measure(size, _possible(chosen.only, screen := Screen()), screen, decides=not chosen.short)
    )


def _parts(text: str) -> set[str]:
    parts = set(text.split(","))
    if unknown := parts - set(PARTS):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}: say some of {','.join(PARTS)}")
    return parts


def _possible(named: set[str] | None, screen: Screen) -> set[str]:
    """Return the parts that are measured. Without wrk two are left out, unless they are named: then CannotGoOn."""
    try:
        require_wrk()
    except CannotGoOn as exc:
        if (named or set()) & UNDER_LOAD:
            raise
        screen.say(f"Left out: {' and '.join(sorted(UNDER_LOAD))}. {exc}")
        return named or set(PARTS) - UNDER_LOAD
    return named or set(PARTS)


def measure(size: Size, only: set[str], screen: Screen, *, decides: bool) -> bool:
    """Set everything up, measure, print; False where a bound is not kept.

    only: the parts that are measured. decides: False prints how the bounds stand and returns True all the same.
    """
    screen.chapter("Set-up")
    with ExitStack() as stack:
        where = _set_up(size, only, screen, stack)
        with screen.step("API and worker"):
            door = stack.enter_context(web_and_worker(where))
            control = stack.enter_context(control_plane(door))
        outcomes = _outcomes(size, only, where, control, screen)
        # Last: from then on there are very many rows.
        if only & {"pages", *UNDER_LOAD}:
            outcomes += _many_rows(size, only, where, door, screen)
        setting = _setting(where, size)
    for outcome in outcomes:
        for table in outcome.tables:
            screen.print(table)
    screen.say(setting)
    bounds = [bound for outcome in outcomes for bound in outcome.bounds]
    return _kept(bounds, screen, decides=decides)


def _set_up(size: Size, only: set[str], screen: Screen, stack: ExitStack) -> Place:
    with screen.step("PostgreSQL and Redis, tables"):
        polling = {"dramatiq_worker_timeout": str(first_statement.POLL_MILLISECONDS)}
        # The limit stays on, and stops nobody: one token makes all of the load.
        polling["ASYNC_MIGRATIONS_RATE_LIMIT"] = "600000"
        where = stack.enter_context(place("migrations_bench", disk=size.bytes, **polling))
        where.migrate_service()
        where.migrate_host()
        where.migrate_project("bench.project.settings")
    if "build" in only:
        _load_tasks(size.rows, where, screen)
    return where


def _load_tasks(count: int, where: Place, screen: Screen) -> None:
    with screen.step(f"{count:,} tasks with JSON documents") as step, closing(where.connect()) as connection:
        loaded = rows.load(connection, count, lambda done: step.show(100 * done / count))
        # Its own time is not when something else is measured.
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE task SET (autovacuum_enabled = off)")
        step.end(f"{loaded.bytes / 1024**2:,.0f} MB")


def _outcomes(size: Size, only: set[str], where: Place, control: ControlPlane, screen: Screen) -> list[Outcome]:
    screen.chapter("Measuring")
    outcomes: list[Outcome] = []
    with closing(where.connect()) as connection:
        if only & {"first", "burst"}:
            outcomes += _trials(size, only, where, control, connection, screen)
        if "build" in only:
            with screen.step("CREATE INDEX CONCURRENTLY, the product and psql") as step:
                builders = index_build.Rivals(control, connection, where.database_url)
                outcomes.append(index_build.measure(builders, size.rounds, screen, step))
        rivals = backfill.Rivals(control, connection, where.database_url)
        if only & {"backfill", "naive", "foreground"}:
            outcomes += _backfills(size, only, where, rivals, connection, screen)
        if "memory" in only:
            with screen.step(f"Backfills of {size.narrow[0]:,} and {size.narrow[1]:,} rows") as step:
                worker = memory.Worker(rivals, control, connection)
                outcomes.append(memory.measure(worker, size.narrow, screen, step))
    return outcomes


def _trials(
    size: Size,
    only: set[str],
    where: Place,
    control: ControlPlane,
    connection: psycopg2.extensions.connection,
    screen: Screen,
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with original(where) as rival:
        if "first" in only:
            with screen.step(f"First statement, {size.trials} times, the product and RQ") as step:
                pair = first_statement.Rivals(control, rival, connection)
                outcomes.append(first_statement.measure(pair, size.trials, screen, step))
        if "burst" in only:
            with screen.step(f"{size.burst} at once, the product and RQ") as step:
                rivals = burst.Rivals(control, rival, connection)
                outcomes.append(burst.measure(rivals, size.bursts, size.burst, screen, step))
    return outcomes


def _backfills(
    size: Size,
    only: set[str],
    where: Place,
    rivals: backfill.Rivals,
    connection: psycopg2.extensions.connection,
    screen: Screen,
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    copies = Copies(connection, size.backfilled)
    with screen.step(f"{size.backfilled:,} rows to be backfilled") as step:
        copies.load(step)
    if "backfill" in only:
        with screen.step("All rows changed, the product and psql") as step:
            outcomes.append(backfill.measure(rivals, copies, size.changes, screen, step))
    if "naive" in only:
        with screen.step("All rows changed, the product and Python") as step:
            outcomes.append(naive.measure(rivals, copies, where, screen, step))
    if "foreground" in only:
        with screen.step("The application meanwhile") as step:
            outcomes.append(foreground.measure(rivals, copies, where, size.idle, size.changes, screen, step))
    copies.drop()
    return outcomes


def _many_rows(size: Size, only: set[str], where: Place, door: Door, screen: Screen) -> list[Outcome]:
    outcomes: list[Outcome] = []
    there = 0
    with closing(where.connect()) as connection:
        hold(connection.cursor())
        if "pages" in only:
            opened, every, times, sizes = size.opened
            with screen.step(f"{opened} open pages") as step:
                polling = pages.Polling(door, where, connection, opened, every, size.asked[1])
                outcomes.append(polling.measure(sizes, screen, step))
            with screen.step("Pages, one after the other") as step:
                outcomes.append(opening.measure(polling, (sizes[-1], size.recorded), times, screen, step))
            there = size.recorded
        if only & UNDER_LOAD:
            with screen.step(f"{size.recorded:,} rows, {EVENTS_EACH * size.recorded:,} events"):
                fill(connection.cursor(), size.recorded, EVENTS_EACH, first=there + 1)
    if "load" in only:
        with load.plain(where) as rival, screen.step("Doors under load, ours and plain DRF's") as step:
            outcomes.append(load.measure(door, rival, *size.asked, screen, step))
    if "pollers" in only:
        with screen.step(f"{size.pollers} pollers at once") as step:
            outcomes.append(pollers.measure(door, where, size.pollers, 5 * size.asked[0], screen, step))
    return outcomes


def _setting(where: Place, size: Size) -> str:
    with closing(where.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        version = (cursor.fetchone() or ("?",))[0]
    return (
        f"PostgreSQL {version}, Python {platform.python_version()}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f}, {size.rows:,} rows indexed, {size.backfilled:,} backfilled."
    )


def _kept(bounds: list[Bound], screen: Screen, *, decides: bool) -> bool:
    screen.chapter("Bounds" if decides else "Bounds (the short form: they decide nothing)")
    screen.checks((bound.holds, str(bound)) for bound in bounds)
    return not decides or all(bound.holds for bound in bounds)


if __name__ == "__main__":
    sys.exit(main())
