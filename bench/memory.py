"""What a backfill takes of the worker's memory, over a table and over one ten times as large.

The highest resident size of the worker's process during each, by the kernel's own account, which begins anew before
each; Linux alone has one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2

from examples.demo.control_plane import ControlPlane
from examples.demo.errors import CannotGoOn
from examples.demo.screen import Screen, Step

from .backfill import Rivals
from .outcome import Bound, Outcome
from .project.trials.backfills import INCREMENT, NARROW

GROWTH_BOUND = 10  # MB
WARM_UP_ROWS = 20_000  # so that what is imported and connected once is not counted

_RESET_PEAK = "5"
_FILL = f"INSERT INTO {NARROW} SELECT n, 0 FROM generate_series(1, %s) AS n"


class Worker:
    """Backfills a narrow table, and looks at the process that does."""

    def __init__(self, rivals: Rivals, control: ControlPlane, connection: psycopg2.extensions.connection) -> None:
        self._rivals, self._control, self._connection = rivals, control, connection

    def change(self, rows: int) -> float:
        """Backfill a new table of so many rows; return the seconds that it takes."""
        self._execute(f"DROP TABLE IF EXISTS {NARROW}")
        self._execute(f"CREATE TABLE {NARROW} (id bigint PRIMARY KEY, n int NOT NULL)")
        self._execute(_FILL, rows)
        self._execute(f"VACUUM (ANALYZE) {NARROW}")
        seconds = self._rivals.backfill(INCREMENT)
        if self._execute(f"SELECT count(*) FROM {NARROW} WHERE n = 1") != rows:
            raise CannotGoOn(f"after the backfill not all of {rows:,} rows had been changed once")
        return seconds

    def peak(self, rows: int) -> tuple[float, float]:
        """Do the same; return the seconds, and the megabytes that the worker has held at the most meanwhile."""
        process = self._process()
        (process / "clear_refs").write_text(_RESET_PEAK)
        seconds = self.change(rows)
        if self._process() != process:
            raise CannotGoOn("another process has taken the backfill over; run it again")
        lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return seconds, int(lines["VmHWM"].split()[0]) / 1024

    def drop(self) -> None:
        """Give the disk back."""
        self._execute(f"DROP TABLE IF EXISTS {NARROW}")

    def _process(self) -> Path:
        """Return where the kernel tells of the process that carried out the backfill last."""
        process = Path("/proc") / str(self._control.find(INCREMENT)["worker"]).rpartition(":")[2]
        if not (process / "clear_refs").exists():
            raise CannotGoOn("the worker's memory can only be measured on Linux: leave the part out with --only")
        return process

    def _execute(self, sql: str, *parameters: Any) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return int((cursor.fetchone() or (0,))[0]) if cursor.description else 0


def measure(worker: Worker, sizes: tuple[int, int], screen: Screen, step: Step) -> Outcome:
    """Backfill tables of both sizes, the smaller one first."""
    step.show(None, "warming up")
    worker.change(WARM_UP_ROWS)
    table = screen.table("Memory of the worker", "rows", "seconds", "peak")
    peaks = []
    for rows in sizes:
        step.show(None, f"{rows:,} rows")
        seconds, peak = worker.peak(rows)
        table.add_row(f"{rows:,}", f"{seconds:.1f} s", f"{peak:.1f} MB")
        peaks.append(peak)
    worker.drop()
    growth = peaks[1] - peaks[0]
    step.end(f"{growth:+.1f} MB")
    what = f"the worker's memory, {sizes[1]:,} rows against {sizes[0]:,}"
    return Outcome((table,), (), (Bound(what, growth, GROWTH_BOUND, " MB"),))
