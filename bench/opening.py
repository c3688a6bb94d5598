"""How long it takes to open a page, over many rows and over very many.

One request after the other: while nothing happens, and with something that has happened before each, so that what a
page remembers has to be looked for once more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection

from rich.table import Table

from examples.demo.errors import CannotGoOn
from examples.demo.figures import milliseconds, percentile
from examples.demo.screen import Screen, Step

from .filled import EVENTS, TABLE, fill
from .outcome import Bound, Outcome
from .pages import NOTED, Polling
from .polled import logged_in

WARM_UP = 3
GROWTH = 1.5  # from many rows to ten times as many, of all pages together, while nothing happens

PAGES = {
    "overview": "/",
    "list": "/migrations",
    "detail": "/migrations/{pk}",
    "gates": "/gates",
    "janitor": "/janitor",
}

_EVENT = f"""
INSERT INTO {EVENTS} (migration_id, kind, from_status, to_status, attempt, by, request_id, detail, created_at)
SELECT max(id), 'tuned', '', '', 1, 'ci', '', '{{}}', now() FROM {TABLE}
"""


@dataclass(frozen=True)
class Opened:
    """Milliseconds of each request: while nothing happens, and after an event each."""

    still: Sequence[float]
    lively: Sequence[float]

    def cells(self) -> Iterator[str]:
        """Yield what the table says of it."""
        yield from (milliseconds(statistics.median(self.still)), milliseconds(percentile(self.still, 0.95)))
        yield from (milliseconds(statistics.median(self.lively)), milliseconds(percentile(self.lively, 0.95)))


def measure(polling: Polling, sizes: Sequence[int], requests: int, screen: Screen, step: Step) -> Outcome:
    """Open each page so many times, over so many rows of the control plane, of which the first are there."""
    there, measured = sizes[0], dict[int, dict[str, Opened]]()
    for number, size in enumerate(sizes):
        step.show(100 * number / len(sizes), f"{size:,} rows")
        if size > there:
            fill(polling.connection.cursor(), size, 10, first=there + 1)
            polling.wait_until(NOTED)
        measured[size] = _opened(polling, requests)
    few, many = (sum(statistics.median(each.still) for each in measured[size].values()) for size in sizes)
    step.end(f"over {sizes[-1]:,} rows {many / few:.2f} times what it takes over {sizes[0]:,}")
    grown = Bound("how long the pages take over very many rows, of what they do over many", many / few, GROWTH)
    return Outcome(tuple(_table(size, requests, opened, screen) for size, opened in measured.items()), (), (grown,))


def _opened(polling: Polling, requests: int) -> dict[str, Opened]:
    """Return how long each page takes to open, as it is asked for by a click."""
    with logged_in(polling.door) as (_, _, session), polling.connection.cursor() as cursor:
        cursor.execute(f"SELECT max(id) FROM {TABLE}")
        (pk,) = cursor.fetchone() or (0,)
        headers = {"Cookie": session["Cookie"]}
        opened = {}
        for label, path in PAGES.items():
            with closing(HTTPConnection("127.0.0.1", polling.where.port, timeout=30)) as connection:
                ask = (connection, path.format(pk=pk), headers, requests)
                opened[label] = Opened(_times(*ask, lambda: None), _times(*ask, lambda: cursor.execute(_EVENT)))
        return opened


def _times(
    connection: HTTPConnection, path: str, headers: dict[str, str], requests: int, before: Callable[[], object]
) -> list[float]:
    """Return how many milliseconds each request took, after some that are not counted. before: done before each."""
    times = []
    for _ in range(WARM_UP + requests):
        before()
        begun = time.monotonic()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        times.append(1000 * (time.monotonic() - begun))
        if answer.status != 200:
            raise CannotGoOn(f"{path} answered {answer.status}")
    return times[WARM_UP:]


def _table(size: int, requests: int, opened: dict[str, Opened], screen: Screen) -> Table:
    title = f"Opening a page, {size:,} migrations, {requests} times one after the other"
    table = screen.table(title, "", "median", "p95", "after an event: median", "p95")
    for label, each in opened.items():
        table.add_row(label, *each.cells())
    return table
