"""Two operators ask for something of one migration at the same moment, over and over.

What comes of it has to be what comes of asking one after the other, in one order or the other: the same answers, the
same end, the same history. That is looked up by doing just that, on migrations of their own.
"""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import httpx
import pytest

from api.processes import wait_until_ready, web_command
from async_migrations import lifecycle
from async_migrations.states import TRANSITIONS, VERBS, Status
from tests.conftest import free_port
from tests.http.conftest import migration  # noqa: F401 - a fixture

PAIRS = {True: 1000, False: 60}  # by whether it is in full
PLACES = 30_000  # on the target: each migration that is IN PROGRESS takes one

MOVES = {(move.name, source, target) for move in TRANSITIONS for source in move.sources for target in move.targets}
VERB_NAMES = [verb.name for verb in VERBS]


@pytest.fixture
def operators(processes, api, settings):
    """Clients of two operators, at a web server of two processes; there is no worker that would get in between."""
    settings.ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE = PLACES
    port = free_port()
    web = processes(web_command(port, workers=2), ASYNC_MIGRATIONS_MAX_RUNNING_PER_DATABASE=str(PLACES))
    web.url = f"http://127.0.0.1:{port}"
    wait_until_ready(web.url, alive=web.is_alive)
    return api("operator", at=web), api("operator", at=web)


def ask(client: httpx.Client, pk: int, verb: str) -> tuple[int, str | None]:
    answer = client.post(f"/api/async-migrations/{pk}/{verb}")
    return answer.status_code, answer.json().get("code")


def outcome(pk: int, answers: list[tuple[int, str | None]]) -> tuple:
    """Return all that came of it, in a form that can be compared; see that the history is a path in the table."""
    row = lifecycle.get(pk)
    events = list(row.events.order_by("id"))
    status = ""
    for event in (event for event in events if event.to_status):
        assert event.from_status == status, [str(event) for event in events]
        assert not status or (event.kind, status, event.to_status) in MOVES
        status = event.to_status
    assert status == row.status
    return tuple(answers), row.status, row.direction, row.stop_requested, tuple(event.kind for event in events)


def test_it_is_as_if_one_had_asked_after_the_other(extent, operators, migration):  # noqa: F811
    chance = random.Random(extent.seed)
    seen: Counter[str] = Counter()

    @cache
    def one_after_the_other(status: Status, first: str, second: str) -> tuple:
        pk = migration(status).pk
        return outcome(pk, [ask(operators[0], pk, first), ask(operators[1], pk, second)])

    with ThreadPoolExecutor(2) as threads:
        for _ in range(PAIRS[extent.full]):
            status, verbs = chance.choice(list(Status)), chance.choices(VERB_NAMES, k=2)
            pk, both = migration(status).pk, Barrier(2)

            def at_once(number: int) -> tuple[int, str | None]:
                both.wait()  # noqa: B023 - of this round, and done within it
                return ask(operators[number], pk, verbs[number])  # noqa: B023

            found = outcome(pk, list(threads.map(at_once, (0, 1))))

            answers, *rest = one_after_the_other(status, verbs[1], verbs[0])
            allowed = [one_after_the_other(status, *verbs), (answers[::-1], *rest)]
            assert found in allowed, f"{verbs} of {status}"
            assert {code for code, _ in found[0]} <= {200, 202, 409}
            seen.update(str(code) for code, _ in found[0])
    extent.told.append(f"{PAIRS[extent.full]} pairs of verbs: {dict(sorted(seen.items()))}")
