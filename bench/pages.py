"""Open pages that ask every two seconds whether they still are what they show, beside as many 304 polls of the API.

The same number of connections polls one address after the other, in turns, over a small control plane and over a large
one; nothing changes meanwhile, so every answer is a 304. What the service spends is read off its processes: the web
server's, and the sessions that it has in PostgreSQL.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from urllib.parse import urlencode

import httpx
import psutil
import psycopg2
from rich.table import Table

from api.processes import manage_command
from examples.demo.errors import CannotGoOn
from examples.demo.figures import milliseconds, percentile
from examples.demo.screen import Screen, Step
from examples.demo.service import Door, Place

from .filled import TABLE, fill
from .outcome import Bound, Outcome

POLLS = 2  # of each page in a round
AS_THE_API = 2  # times what a 304 of the API costs
GROWTH = 1.2  # of the cost of a poll, from few rows to many

API = "API, 304 poll"
PAGES = {
    "overview": "/",
    "list": "/migrations",
    "list, filtered": f"/migrations?{urlencode({'status': 'FINISHED', 'database': 'default', 'ordering': '-name'})}",
    "detail": "/migrations/{pk}",
}
SEARCH, DEEP = "list, searched", "list, last page"

_UNNOTED = f"SELECT count(*) FROM {TABLE} WHERE status = 'STARTED' AND phase = ''"
_USER = """
from django.contrib.auth.models import Group, User
User.objects.create_user("pages", password="pages").groups.add(Group.objects.get(name="async_migrations operators"))
"""


@dataclass
class Polled:
    """One address, and what came of it.

    latencies: of all polls, in milliseconds, each from when it was due. errors: polls that got another answer than 304.
    web, sessions: CPU milliseconds for each poll, by round.
    """

    path: str
    headers: dict[str, str]
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    web: list[float] = field(default_factory=list)
    sessions: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Median of the rounds, in CPU milliseconds for each poll, PostgreSQL's with it."""
        return statistics.median(map(sum, zip(self.web, self.sessions, strict=True)))


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
        self.where.command(manage_command("shell", "--verbosity", "0", "--command", _USER))
        there, measured = 0, dict[int, dict[str, Polled]]()
        for number, size in enumerate(sizes):
            fill(self.connection.cursor(), size, 10, first=there + 1)
            self._wait_for_the_worker()
            there, measured[size] = size, self._addresses()
            for turn in range(self.rounds):
                step.show(100 * (number + turn / self.rounds) / len(sizes), f"{size:,} rows")
                for polled in measured[size].values():
                    self._poll(polled)
        few, many = measured[sizes[0]], measured[sizes[-1]]
        dearest = max(PAGES, key=lambda page: many[page].cost)
        step.end(f"a poll of the {dearest} costs {many[dearest].cost / many[API].cost:.2f} times the API's")
        return Outcome(tuple(self._tables(measured, screen)), (), tuple(_bounds(few, many)))

    def _wait_for_the_worker(self) -> None:
        """Wait until it has noted with what is in line that it is held, which it does once: then nothing changes."""
        unnoted, deadline = 1, time.monotonic() + 30
        with self.connection.cursor() as cursor:
            while unnoted and time.monotonic() < deadline:
                time.sleep(0.1)
                cursor.execute(_UNNOTED)
                unnoted = (cursor.fetchone() or (0,))[0]

    def _addresses(self) -> dict[str, Polled]:
        """Return what is polled, by what it is called, each with the tag that it has now."""
        token = {"Authorization": f"Bearer {self.door.token}"}
        with httpx.Client(base_url=self.door.url, trust_env=False) as client:
            rows = client.get("/api/async-migrations", headers=token).json()
            newest = rows["results"][0]
            paths = PAGES | {
                SEARCH: f"/migrations?search={newest['name'][-13:].upper()}",
                DEEP: "/migrations?page={last}",
            }
            _log_in(client)
            session = {"Cookie": f"sessionid={client.cookies['sessionid']}", "HX-Request": "true"}
            client.cookies.clear()
            found = {API: _tagged(client, f"/api/async-migrations/{newest['id']}", token)}
            for label, path in paths.items():
                found[label] = _tagged(client, path.format(pk=newest["id"], last=-(-rows["count"] // 50)), session)
        return found

    def _poll(self, polled: Polled) -> None:
        """Have each page ask POLLS times, all of them evenly spread; they keep their connections."""
        processes = self._web(), self._sessions()
        before = [_spent(each) for each in processes]
        begin, polls = time.monotonic() + 0.1, self.pages * POLLS
        with ThreadPoolExecutor(self.pages) as crowd:
            first = (begin + self.every * number / self.pages for number in range(self.pages))
            for latencies, errors in crowd.map(lambda due: self._ask(polled, due), first):
                polled.latencies += latencies
                polled.errors += errors
        for spent, then, now in zip((polled.web, polled.sessions), before, map(_spent, processes), strict=True):
            spent.append(1000 * (now - then) / polls)

    def _ask(self, polled: Polled, due: float) -> tuple[list[float], int]:
        """Be one page, from the moment when its first poll is due; return latencies, and how many got no 304."""
        latencies, errors = [], 0
        with closing(HTTPConnection("127.0.0.1", self.where.port, timeout=30)) as connection:
            for _ in range(POLLS):
                time.sleep(max(0.0, due - time.monotonic()))
                connection.request("GET", polled.path, headers=polled.headers)
                answer = connection.getresponse()
                answer.read()
                latencies.append(1000 * (time.monotonic() - due))
                errors += answer.status != 304
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

    def _tables(self, measured: dict[int, dict[str, Polled]], screen: Screen) -> Iterator[Table]:
        for size, polled in measured.items():
            title = (
                f"{self.pages} open pages, each polling every {self.every:g} s, {size:,} migrations, {POLLS} polls "
                f"{self.rounds} times each in turn: medians"
            )
            columns = ("", "a poll: web", "PostgreSQL", "of the API's", "CPU a second", "p50", "p99", "errors")
            table = screen.table(title, *columns)
            for label, each in polled.items():
                table.add_row(label, *_cells(each, polled[API], self.pages / self.every))
            yield table


def _log_in(client: httpx.Client) -> None:
    client.get("/login")
    form = {"username": "pages", "password": "pages", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
    if client.post("/login", data=form).status_code != 302:
        raise CannotGoOn("the user that was made for the measurement cannot log in")


def _tagged(client: httpx.Client, path: str, headers: dict[str, str]) -> Polled:
    """Return the address with the tag that it has."""
    tag = client.get(path, headers=headers).headers.get("ETag", "")
    return Polled(path, {**headers, "If-None-Match": tag})


def _spent(processes: Iterable[psutil.Process]) -> float:
    """Return CPU seconds so far."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _cells(polled: Polled, api: Polled, polls_a_second: float) -> Iterator[str]:
    web, sessions = statistics.median(polled.web), statistics.median(polled.sessions)
    yield from (f"{web:.2f} ms", f"{sessions:.2f} ms", f"{polled.cost / api.cost:.2f}")
    yield f"{polled.cost * polls_a_second / 1000:.3f} s"
    yield from (milliseconds(percentile(polled.latencies, share)) for share in (0.5, 0.99))
    yield str(polled.errors)


def _bounds(few: dict[str, Polled], many: dict[str, Polled]) -> Iterator[Bound]:
    pages = statistics.mean(many[page].cost for page in PAGES) / many[API].cost
    yield Bound("what a poll of a page costs, of what a 304 poll of the API does", pages, AS_THE_API)
    growth = sum(many[page].cost for page in PAGES) / sum(few[page].cost for page in PAGES)
    yield Bound("what a poll of a page costs over many rows, of what it does over few", growth, GROWTH)
    errors = sum(each.errors for polled in (few, many) for each in polled.values())
    yield Bound("polls that were not answered by 304", errors, 0)
