"""Many pollers with `Prefer: wait` at once, and what it does to those who ask for something short meanwhile.

Each poller keeps a connection and asks again when `Retry-After` tells it to; few find a place to wait, and the others
are answered at once. All of them begin in the same moment: what the short requests see then has a row of its own, and
no bound. The short requests come from four connections that rest 50 ms each.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from examples.demo.figures import milliseconds
from examples.demo.screen import Screen, Step
from examples.demo.service import Door, Place

from .outcome import Bound, Outcome
from .wrk import Load, load

SHORT = 4  # connections
FIRST = 6  # seconds, the longest that a poller is told to rest
P99_BOUND = 2

_RESTING = "function delay() return 50 end"
_POLLING = """
local rest = 0
function response(status, headers) rest = 1000 * tonumber(headers["Retry-After"]) end
function delay() return rest end
"""


def measure(door: Door, where: Place, pollers: int, seconds: int, screen: Screen, step: Step) -> Outcome:
    """Ask for short answers for so many seconds, alone and beside so many pollers."""
    polling, resting = _script(where, "polling", _POLLING), _script(where, "resting", _RESTING)
    token = f"Authorization: Bearer {door.token}"
    list_url = f"{door.url}/api/async-migrations"
    with httpx.Client(headers={"Authorization": f"Bearer {door.token}"}, trust_env=False) as client:
        pk = client.get(list_url, params={"status": "STARTED"}).json()["results"][0]["id"]
        etag = client.get(f"{list_url}/{pk}").headers["ETag"]
    url = f"{list_url}/{pk}"
    waiting = (token, f"If-None-Match: {etag}", "Prefer: wait=30")
    step.show(0, "short requests alone")
    alone = load(url, seconds, SHORT, token, script=resting)
    step.show(50, f"beside {pollers} pollers")
    with ThreadPoolExecutor(1) as others:
        crowd = others.submit(load, url, FIRST + seconds + 1, pollers, *waiting, script=polling)
        first = load(url, FIRST, SHORT, token, script=resting)
        beside = load(url, seconds, SHORT, token, script=resting)
        polled = crowd.result()
    step.end(f"p99 {milliseconds(alone.p99)} alone, {milliseconds(beside.p99)} beside {pollers} pollers")
    table = screen.table(
        f"{pollers} pollers with `Prefer: wait=30` for {seconds} s", "", "a second", "p50", "p99", "errors"
    )
    for label, found in (
        ("short requests alone", alone),
        (f"short requests in the first {FIRST} s, when all of them begin", first),
        ("short requests beside the pollers", beside),
        ("the pollers", polled),
    ):
        table.add_row(label, f"{found.rate:.0f}", milliseconds(found.p50), milliseconds(found.p99), str(found.errors))
    return Outcome((table,), (), _bounds(alone, beside, polled))


def _script(where: Place, name: str, text: str) -> str:
    """Write a script for wrk, which says how long a connection rests before each request; return its path."""
    path = where.directory / f"{name}.lua"
    path.write_text(text)
    return str(path)


def _bounds(alone: Load, beside: Load, polled: Load) -> tuple[Bound, ...]:
    return (
        Bound("p99 of short requests beside the pollers", beside.p99, round(P99_BOUND * alone.p99, 1), " ms"),
        Bound("requests beside or of the pollers that failed", beside.errors + polled.errors, 0),
    )
