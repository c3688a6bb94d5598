"""The doors under load, over large tables, beside a plain DRF ModelViewSet over the same rows.

Two gunicorns, each of two workers, are up all the time, and one of them is asked at a time: the rounds of all doors
alternate, so that what else happens on the machine meets both.
"""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from rich.table import Table

from api.processes import running, wait_until_ready, web_command
from examples.demo.figures import milliseconds
from examples.demo.screen import Screen, Step
from examples.demo.service import Door, Place

from .outcome import Bound, Outcome
from .wrk import Load, load

CONNECTIONS = 16
POLL_FASTER = 2
LIST_AS_FAST = 0.9

_PLAIN = "plain DRF, "


@dataclass
class Asked:
    """One address that is asked, and what came of it in each round."""

    label: str
    url: str
    headers: tuple[str, ...]
    rounds: list[Load] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Median of the rounds, answers a second."""
        return statistics.median(each.rate for each in self.rounds)


@contextmanager
def plain(where: Place) -> Iterator[str]:
    """Run the yardstick for the length of the block; yield its address."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    env = where.env | {"DJANGO_SETTINGS_MODULE": "bench.project.plain"}
    with running(web_command(port), env, where.directory / "plain.log") as web:
        wait_until_ready(url, alive=web.is_alive)
        yield url


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(door: Door, rival: str, seconds: int, rounds: int, screen: Screen, step: Step) -> Outcome:
    """Ask at each address for so many seconds, so many times in turn."""
    asked = _addresses(door, rival)
    for number in range(rounds):
        for place, each in enumerate(asked):
            step.show(100 * (number * len(asked) + place) / (rounds * len(asked)), each.label)
            each.rounds.append(load(each.url, seconds, CONNECTIONS, *each.headers))
    by_label = {each.label: each for each in asked}
    polls = by_label["304 poll"].rate / by_label[_PLAIN + "retrieve"].rate
    pages = by_label["list page"].rate / by_label[_PLAIN + "list page"].rate
    step.end(f"304 poll {polls:.2f} times the plain retrieve, list page {pages:.2f} times the plain list")
    return Outcome((_table(asked, seconds, rounds, screen),), (), _bounds(asked, polls, pages))


def _addresses(door: Door, rival: str) -> list[Asked]:
    token = f"Authorization: Bearer {door.token}"
    ours = f"{door.url}/api/async-migrations"
    with httpx.Client(headers={"Authorization": f"Bearer {door.token}"}, trust_env=False) as client:
        newest = client.get(ours, params={"status": "FINISHED"}).json()["results"][0]
        etag = client.get(f"{ours}/{newest['id']}").headers["ETag"]
    one, gate = newest["id"], f"name={newest['name']}&prefix=app_7.&database=default"
    return [
        Asked("list page", ours, (token,)),
        Asked(_PLAIN + "list page", f"{rival}/plain", (token,)),
        Asked("filtered list", f"{ours}?status=ERROR&status=PAUSED&database=default&ordering=-created_at", (token,)),
        Asked("search", f"{ours}?search=APP_77.", (token,)),
        Asked("detail", f"{ours}/{one}", (token,)),
        Asked(_PLAIN + "retrieve", f"{rival}/plain/{one}", (token,)),
        Asked("304 poll", f"{ours}/{one}", (token, f"If-None-Match: {etag}")),
        Asked("summary", f"{ours}/summary", (token,)),
        Asked("gate", f"{ours}/gate?{gate}", (token,)),
    ]


def _table(asked: Sequence[Asked], seconds: int, rounds: int, screen: Screen) -> Table:
    table = screen.table(
        f"One gunicorn with 2 workers, {CONNECTIONS} connections, {seconds} s {rounds} times each in turn: medians",
        "",
        "a second",
        "p50",
        "p99",
        "errors",
    )
    for each in asked:
        p50, p99 = (statistics.median(getattr(load, name) for load in each.rounds) for name in ("p50", "p99"))
        errors = sum(load.errors for load in each.rounds)
        table.add_row(each.label, f"{each.rate:.0f}", milliseconds(p50), milliseconds(p99), str(errors))
    return table


def _bounds(asked: Sequence[Asked], polls: float, pages: float) -> tuple[Bound, ...]:
    errors = sum(load.errors for each in asked for load in each.rounds)
    return (
        Bound("the plain view's retrieves, for each of our 304 polls", 1 / polls, 1 / POLL_FASTER),
        Bound("the plain view's list pages, for each of ours", 1 / pages, round(1 / LIST_AS_FAST, 3)),
        Bound("requests under load that failed", errors, 0),
    )
