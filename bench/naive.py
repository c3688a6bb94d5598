"""A backfill against the loop that every Django project has somewhere: `iterator()` and `bulk_update` of 1,000.

`python -m bench.naive ROWS` is that loop, in a process of its own: it changes the first so many rows and prints the
seconds that the loop took. Both are compared by the row: the loop is given fewer of them, since it would take minutes.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice

import django

from examples.demo.screen import Screen, Step
from examples.demo.service import EXAMPLES, Place

from .backfill import Rivals
from .copies import Copies
from .outcome import Bound, Outcome
from .project.trials.backfills import DEFAULTS

BATCH = 1000
ROWS = 300_000  # that the loop is given at the most
TIMES_FASTER = 10


def measure(rivals: Rivals, copies: Copies, where: Place, screen: Screen, step: Step) -> Outcome:
    """Change all rows by the backfill, and the first of them by the loop."""
    step.show(None, "the loop")
    rows = min(ROWS, copies.rows)
    copies.fresh()
    env = where.env | {"DJANGO_SETTINGS_MODULE": "bench.project.settings", "PYTHONPATH": str(EXAMPLES)}
    loop = float(where.command([sys.executable, "-m", "bench.naive", str(rows)], env))
    copies.check(rows)
    step.show(None, "the backfill")
    copies.fresh()
    ours = rivals.backfill(DEFAULTS)
    copies.check(copies.rows)
    table = screen.table("A backfill and a loop in Python", "", "rows", "seconds", "rows a second")
    for label, count, seconds in (
        ("backfill with defaults", copies.rows, ours),
        (f"iterator() and bulk_update of {BATCH:,}", rows, loop),
    ):
        table.add_row(label, f"{count:,}", f"{seconds:.1f} s", f"{count / seconds:,.0f}")
    times = (copies.rows / ours) / (rows / loop)
    table.add_row("times as fast by the row", "", "", f"{times:.1f}")
    step.end(f"{times:.1f} times as fast")
    limit = round(1e6 * loop / rows / TIMES_FASTER, 2)
    bound = Bound("a row by the backfill, a tenth of the loop's time", 1e6 * ours / copies.rows, limit, " µs")
    return Outcome((table,), (), (bound,))


def change(rows: int) -> float:
    """Change the first so many rows; return the seconds that it takes."""
    from .project.trials.models import Copy  # Django has to be set up before.

    began = time.monotonic()
    tasks = Copy.objects.filter(total__isnull=True, id__lte=rows).iterator()
    while batch := list(islice(tasks, BATCH)):
        for task in batch:
            task.total = len(json.dumps(task.data))
        Copy.objects.bulk_update(batch, ["total"])
    return time.monotonic() - began


if __name__ == "__main__":
    django.setup()
    print(change(int(sys.argv[1])))
