"""`Prefer: wait=N` (RFC 7240): hold an answer until there is news, in one of few places.

Who waits occupies a thread of the web server, which is why the places are fewer than the threads, and otherwise next to
nothing: no transaction, and a query of one row by its key in each interval. Between two looks it sleeps on the
client's connection, so that one who has gone away frees the place at once.
"""

from __future__ import annotations

import random
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import parse_http_list

from rest_framework.request import Request

from ..conf import conf

LONGEST = 30  # seconds
SPREAD = 4  # seconds
_INTERVAL = 0.25  # seconds
_SECONDS = re.compile(r'("?)(?P<digits>[0-9]+)\1')


class Places:
    """The places of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._threads: int | None = None
        self._closed: Callable[[], bool] = lambda: False

    def fit(self, threads: int, closed: Callable[[], bool]) -> None:
        """Say what the web server is like: how many threads answer requests here, and whether it is to end.

        One thread at least is kept for those who do not wait.
        """
        self._threads, self._closed = threads, closed

    @property
    def closed(self) -> bool:
        """Whether nobody may wait here any longer."""
        return self._closed()

    @contextmanager
    def one(self) -> Iterator[bool]:
        """Take a place for the length of the block, if there is one; say whether there was."""
        there = conf.waiting_places if self._threads is None else min(conf.waiting_places, self._threads - 1)
        with self._lock:
            won = self._taken < there and not self.closed
            self._taken += won
        try:
            yield won
        finally:
            with self._lock:
                self._taken -= won


places = Places()


def until(news: Callable[[], bool], request: Request) -> dict[str, str]:
    """Return when there is news, the time that the request prefers to wait is up, or the client has gone.

    Returns the headers that say so: none if the request does not want to wait, or nobody may any more.
    """
    seconds = preferred(request.headers.get("Prefer", ""))
    if seconds is None:
        return {}
    with places.one() as won:
        if not won or not _wait(news, seconds, request):
            return {}
    return {"Preference-Applied": f"wait={seconds}"}


def spread(headers: dict[str, str], applied: dict[str, str], request: Request) -> dict[str, str]:
    """Return the headers of an answer, with `applied`, what `until` returned.

    Who wanted to wait and could not is told to come back up to SPREAD seconds later than others, by chance: a crowd
    that was answered in the same moment would come back in the same moment.
    """
    if not applied and "Retry-After" in headers and preferred(request.headers.get("Prefer", "")) is not None:
        headers = {**headers, "Retry-After": str(int(headers["Retry-After"]) + random.randint(0, SPREAD))}  # noqa: S311
    return {**headers, **applied}


def preferred(header: str) -> int | None:
    """Return for how many seconds a Prefer header wants to wait, LONGEST at most; what is malformed says nothing."""
    for preference in parse_http_list(header):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            found = _SECONDS.fullmatch(value.strip())
            # Six digits say it: Python reads no number of thousands of them.
            return min(LONGEST, int(found["digits"][:6])) if found else None
    return None


def _wait(news: Callable[[], bool], seconds: int, request: Request) -> bool:
    """Say whether it was waited as asked, not cut short."""
    end = time.monotonic() + seconds
    client = _Client(request)
    while not news() and (left := end - time.monotonic()) > 0:
        if places.closed or client.left_within(min(_INTERVAL, left)):
            return False
    return True


class _Client:
    """The other end of the connection, where the web server lets us see it: gunicorn does."""

    def __init__(self, request: Request) -> None:
        self._poll = select.poll()
        connection: Any = request.META.get("gunicorn.socket")
        if connection is not None:
            # Not POLLIN: what arrives may be the client's next request. Without POLLRDHUP, which is Linux's, only
            # a connection that is broken is noticed.
            self._poll.register(connection, getattr(select, "POLLRDHUP", 0))

    def left_within(self, seconds: float) -> bool:
        """Sleep for so long, or until the client goes away; say whether it has."""
        return bool(self._poll.poll(seconds * 1000))
