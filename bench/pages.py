"""Open pages that ask every two seconds whether they still are what they show, beside as many 304 polls of the API.

The same number of connections polls one address after the other, in turns, over a small control plane and over a large
one; nothing changes meanwhile, so every answer is a 304. Then one migration is in progress, and its heartbeat renews
what the pages show each second. What the service spends is read off its processes: the web server's, and the sessions
that it has in PostgreSQL.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from urllib.parse import urlencode

import psutil
import psycopg2
from rich.table import Table

from api.processes import manage_command, running
from examples.demo.errors import CannotGoOn
from examples.demo.figures import milliseconds, percentile
from examples.demo.screen import Screen, Step
from examples.demo.service import Door, Place

from .filled import TABLE, fill
from .outcome import Bound, Outcome
from .polled import USER, Polled, logged_in, since, spent, tagged

POLLS = 2  # of each page in a round
TEN = ("overview", "list", "detail", "detail", "chart", "chart") * 2 + ("overview", "list")  # a detail has a chart
EVERY = 1.5  # seconds between two polls of an open page by itself
POLLS_OF_TEN = 3  # of each, times the rounds
AS_THE_API = 2  # times what a 304 of the API costs
GROWTH = 1.2  # of the cost of a poll, from few rows to many
AS_A_RETRIEVE = 2  # times what a retrieve of the API costs, for what is renewed

API, RETRIEVE = "API, 304 poll", "API, retrieve"
PAGES = {
    "overview": "/",
    "list": "/migrations",
    "list, filtered": f"/migrations?{urlencode({'status': 'FINISHED', 'database': 'default', 'ordering': '-name'})}",
    "detail": "/migrations/{pk}",
}
FURTHER = {
    "list, searched": "/migrations?search={end}",
    "list, last page": "/migrations?page={last}",
    "gates": "/gates",
    "gate of a prefix": "/gates?prefix=app_",
    "chart": "/migrations/{pk}/chart",
}

NOTED = f"SELECT count(*) = 0 FROM {TABLE} WHERE status = 'STARTED' AND phase = ''"
_BEGUN = f"""
UPDATE {TABLE} SET status = 'IN PROGRESS', lease_token = gen_random_uuid(), lease_expires_at = now() + '1 minute',
    slot = 0, started_at = now(), finished_at = NULL, progress_percent = 0
WHERE id = %s
"""
_AS_BEFORE = f"UPDATE {TABLE} SET status = 'SCHEDULED', lease_token = NULL, lease_expires_at = NULL, slot = NULL"
# What a worker writes while it carries out, as often.
_HEARTBEAT = """
import time
from async_migrations import lifecycle
from async_migrations.conf import conf
row = lifecycle.get({pk})
lease = lifecycle.Lease(row, row.lease_token, row.attempt, row.worker)
for done in range(1, 100_000):
    lifecycle.renew(lease, progress_done=done, progress_total=100_000, progress_percent=done / 1000)
    lifecycle.take_sample(lease)
    time.sleep(conf.heartbeat_seconds)
"""


@dataclass(frozen=True)
class Polling:
    """How it is measured. pages: open at once. every: seconds between two polls of each. rounds: at each address."""

    door: Door
    where: Place
    connection: psycopg2.extensions.connection
    pages: int
    every: float
    rounds: int

    def measure(self, sizes: Sequence[int], screen: Screen, step: Step) -> Outcome:
        """Poll over so many rows of the control plane, which are put there, then over so many more."""
        self.where.command(manage_command("shell", "--verbosity", "0", "--command", USER))
        there, measured = 0, dict[int, dict[str, Polled]]()
        for number, size in enumerate(sizes):
            fill(self.connection.cursor(), size, 10, first=there + 1)
            # The worker notes with what is in line that it is held, once: then nothing changes.
            self.wait_until(NOTED)
            there, measured[size] = size, self._addresses()
            for turn in range(self.rounds):
                step.show(100 * (number + turn / self.rounds) / len(sizes), f"{size:,} rows")
                for polled in measured[size].values():
                    self._poll(polled)
        few, many = measured[sizes[0]], measured[sizes[-1]]
        step.show(99, "one in progress")
        with self._one_in_progress() as pk:
            renewed = self._renewed(pk)
            for _ in range(self.rounds):
                for polled in renewed.values():
                    self._poll(polled)
            ten = self._few_pages(renewed)
        dearest = max(PAGES, key=lambda page: many[page].cost)
        step.end(f"a poll of the {dearest} costs {many[dearest].cost / many[API].cost:.2f} times the API's")
        tables = [self._table(f"{size:,} migrations", polled, API, screen) for size, polled in measured.items()]
        tables.append(self._table(f"{sizes[-1]:,} migrations, one in progress", renewed, RETRIEVE, screen))
        few_open = screen.table("Ten open pages", "as often as they ask, one in progress", "of a core")
        for label, share in zip(("web server", "PostgreSQL"), ten, strict=True):
            few_open.add_row(label, f"{share:.1%}")
        return Outcome((*tables, few_open), (), tuple(_bounds(few, many, renewed)))

    @contextmanager
    def _one_in_progress(self) -> Iterator[int]:
        """Have the newest migration be in progress for the length of a block, its heartbeat with it; yield its id."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT max(id) FROM {TABLE}")
            pk = (cursor.fetchone() or (0,))[0]
            cursor.execute(_BEGUN, [pk])
            beating = manage_command("shell", "--verbosity", "0", "--command", _HEARTBEAT.format(pk=pk))
            try:
                with running(beating, self.where.env, self.where.directory / "heartbeat.log") as process:
                    self.wait_until(f"SELECT progress_percent > 0 FROM {TABLE} WHERE id = {pk}")
                    yield pk
                    if not process.is_alive():
                        raise CannotGoOn("the heartbeat has ended while the pages were polled")
            finally:
                cursor.execute(f"{_AS_BEFORE} WHERE id = %s", [pk])

    def wait_until(self, sql: str) -> None:
        """Wait until the query returns true; CannotGoOn after a minute."""
        deadline = time.monotonic() + 60
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            while not (cursor.fetchone() or (False,))[0]:
                if time.monotonic() > deadline:
                    raise CannotGoOn(f"this has not come true within a minute: {sql}")
                time.sleep(0.1)
                cursor.execute(sql)

    def _addresses(self) -> dict[str, Polled]:
        """Return what is polled, by what it is called, each with the tag that it has now."""
        with logged_in(self.door) as (client, token, session):
            rows = client.get("/api/async-migrations", headers=token).json()
            newest = rows["results"][0]
            given = {"pk": newest["id"], "last": -(-rows["count"] // 50), "end": newest["name"][-13:].upper()}
            found = {API: tagged(client, f"/api/async-migrations/{newest['id']}", token)}
            for label, path in {**PAGES, **FURTHER}.items():
                found[label] = tagged(client, path.format(**given), session)
        return found

    def _renewed(self, pk: int) -> dict[str, Polled]:
        """Return what is polled while a migration is in progress, which each heartbeat renews."""
        with logged_in(self.door) as (client, token, session):
            retrieve = f"/api/async-migrations/{pk}"
            found = {RETRIEVE: Polled(retrieve, token, renewed=True), API: tagged(client, retrieve, token)}
            for label in ("overview", "list", "detail"):
                found[label] = tagged(client, PAGES[label].format(pk=pk), session)
            found["chart"] = tagged(client, FURTHER["chart"].format(pk=pk), session)
        for polled in found.values():
            polled.renewed = True
        return found

    def _poll(self, polled: Polled) -> None:
        """Have each page ask POLLS times, all of them evenly spread; they keep their connections."""
        before = spent(self._web()), spent(self._sessions())
        begin, polls = time.monotonic() + 0.1, self.pages * POLLS
        with ThreadPoolExecutor(self.pages) as crowd:
            first = (begin + self.every * number / self.pages for number in range(self.pages))
            for latencies, errors in crowd.map(lambda due: self._ask(polled, due), first):
                polled.latencies += latencies
                polled.errors += errors
        after = spent(self._web()), spent(self._sessions())
        for costs, then, now in zip((polled.web, polled.sessions), before, after, strict=True):
            costs.append(1000 * since(then, now) / polls)

    def _few_pages(self, renewed: dict[str, Polled]) -> tuple[float, float]:
        """Have ten pages be open, asking as often as they do; return CPU seconds a second of the web and PostgreSQL."""
        polling, polls = replace(self, pages=len(TEN), every=EVERY), POLLS_OF_TEN * self.rounds
        before, begin = (spent(self._web()), spent(self._sessions())), time.monotonic() + 0.1
        with ThreadPoolExecutor(len(TEN)) as crowd:
            due = (begin + EVERY * number / len(TEN) for number in range(len(TEN)))
            asked = [crowd.submit(polling._ask, renewed[label], at, polls) for label, at in zip(TEN, due, strict=True)]
        for label, answers in zip(TEN, asked, strict=True):
            renewed[label].errors += answers.result()[1]
        seconds = time.monotonic() - begin
        web, sessions = (
            since(then, spent(now())) for then, now in zip(before, (self._web, self._sessions), strict=True)
        )
        return web / seconds, sessions / seconds

    def _ask(self, polled: Polled, due: float, polls: int = POLLS) -> tuple[list[float], int]:
        """Be one page, from when its first poll is due; return latencies, and how many got a wrong answer."""
        latencies, errors, headers = [], 0, dict(polled.headers)
        with closing(HTTPConnection("127.0.0.1", self.where.port, timeout=30)) as connection:
            for _ in range(polls):
                time.sleep(max(0.0, due - time.monotonic()))
                connection.request("GET", polled.path, headers=headers)
                answer = connection.getresponse()
                answer.read()
                latencies.append(1000 * (time.monotonic() - due))
                errors += answer.status not in ((200, 304) if polled.renewed else (304,))
                if polled.renewed and "If-None-Match" in headers:
                    headers["If-None-Match"] = answer.headers.get("ETag", "")
                due += self.every
        return latencies, errors

    def _web(self) -> list[psutil.Process]:
        master = psutil.Process(self.door.processes["web server"].pid)
        return [master, *master.children(recursive=True)]

    def _sessions(self) -> list[psutil.Process]:
        """Return PostgreSQL's processes for the database; none where the server is on another machine."""
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
            pids = [pid for (pid,) in cursor.fetchall()]
        found = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def _table(self, what: str, measured: dict[str, Polled], yardstick: str, screen: Screen) -> Table:
        title = (
            f"{self.pages} open pages, each polling every {self.every:g} s, {what}, {POLLS} polls "
            f"{self.rounds} times each in turn: medians"
        )
        of = f"of {yardstick}"
        table = screen.table(title, "", "a poll: web", "PostgreSQL", of, "CPU a second", "p50", "p99", "errors")
        for label, each in measured.items():
            table.add_row(label, *_cells(each, measured[yardstick], self.pages / self.every))
        return table


def _cells(polled: Polled, api: Polled, polls_a_second: float) -> Iterator[str]:
    web, sessions = statistics.median(polled.web), statistics.median(polled.sessions)
    yield from (f"{web:.2f} ms", f"{sessions:.2f} ms", f"{polled.cost / api.cost:.2f}")
    yield f"{polled.cost * polls_a_second / 1000:.3f} s"
    yield from (milliseconds(percentile(polled.latencies, share)) for share in (0.5, 0.99))
    yield str(polled.errors)


def _bounds(few: dict[str, Polled], many: dict[str, Polled], renewed: dict[str, Polled]) -> Iterator[Bound]:
    pages = statistics.mean(many[page].cost for page in PAGES) / many[API].cost
    yield Bound("what a poll of a page costs, of what a 304 poll of the API does", pages, AS_THE_API)
    for label in FURTHER:
        yield Bound(f"the same of: {label}", many[label].cost / many[API].cost, AS_THE_API)
    polled = (*PAGES, *FURTHER)
    growth = sum(many[page].cost for page in polled) / sum(few[page].cost for page in polled)
    yield Bound("what a poll of a page costs over many rows, of what it does over few", growth, GROWTH)
    shown = statistics.mean(renewed[page].cost for page in ("overview", "list", "detail")) / renewed[RETRIEVE].cost
    yield Bound("what a poll of a page costs while one is in progress, of what a retrieve does", shown, AS_A_RETRIEVE)
    errors = sum(each.errors for measured in (few, many, renewed) for each in measured.values())
    yield Bound("polls that got a wrong answer", errors, 0)
