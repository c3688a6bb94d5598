"""One address that is asked again and again, by whom, and what that costs the processes that answer."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx
import psutil

from examples.demo.errors import CannotGoOn
from examples.demo.service import Door

#: Makes who looks at the pages, in `manage.py shell`.
USER = """
from django.contrib.auth.models import Group, User
User.objects.create_user("pages", password="pages").groups.add(Group.objects.get(name="async_migrations operators"))
"""


@dataclass
class Polled:
    """One address, and what came of it.

    renewed: it changes meanwhile; then a page keeps the tag of what it was given last.
    latencies: of all polls, in milliseconds, each from when it was due. errors: polls that got another answer than 304,
    or than that and 200 where it is renewed. web, sessions: CPU milliseconds for each poll, by round.
    """

    path: str
    headers: dict[str, str]
    renewed: bool = False
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    web: list[float] = field(default_factory=list)
    sessions: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Median of the rounds, in CPU milliseconds for each poll, PostgreSQL's with it."""
        return statistics.median(map(sum, zip(self.web, self.sessions, strict=True)))


@contextmanager
def logged_in(door: Door) -> Iterator[tuple[httpx.Client, dict[str, str], dict[str, str]]]:
    """Yield a client with the headers of who has a token, and of an open page of USER, who is logged in."""
    with httpx.Client(base_url=door.url, trust_env=False) as client:
        _log_in(client)
        session = {"Cookie": f"sessionid={client.cookies['sessionid']}", "HX-Request": "true"}
        client.cookies.clear()
        yield client, {"Authorization": f"Bearer {door.token}"}, session


def _log_in(client: httpx.Client) -> None:
    client.get("/login")
    form = {"username": "pages", "password": "pages", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
    if client.post("/login", data=form).status_code != 302:
        raise CannotGoOn("the user that was made for the measurement cannot log in")


def tagged(client: httpx.Client, path: str, headers: dict[str, str]) -> Polled:
    """Return the address with the tag that it has."""
    tag = client.get(path, headers=headers).headers.get("ETag", "")
    return Polled(path, {**headers, "If-None-Match": tag})


def spent(processes: Iterable[psutil.Process]) -> dict[int, float]:
    """Return CPU seconds so far, by process id."""
    seconds = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[process.pid] = times.user + times.system
    return seconds


def since(then: dict[int, float], now: dict[int, float]) -> float:
    """Return the CPU seconds spent meanwhile.

    A process that has ended takes its figure along; the one in its place has begun with nothing.
    """
    return sum(seconds - then.get(pid, 0.0) for pid, seconds in now.items())
