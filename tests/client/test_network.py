"""A network that loses answers, a service that is away, and answers that are none of ours."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic

import pytest

from async_migrations import lifecycle
from async_migrations.models import AsyncMigrationKey
from tests.client.conftest import finish, started
from tests.client.test_waiting import read_until
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.e2e

NOTHING = (200, {"Content-Type": "application/json"}, '{"count": 0, "next": null, "previous": null, "results": []}')
PAGE = (404, {"Content-Type": "text/html"}, "<h1>Not found</h1>")
PROBLEM = {"Content-Type": "application/problem+json", "Retry-After": "1"}


@pytest.fixture
def proxy(shared_api) -> Iterator[Proxy]:
    made = Proxy({"HOST": "127.0.0.1", "PORT": shared_api.url.rpartition(":")[2]})
    yield made
    made.close()


@pytest.fixture
def beyond(cli_of, proxy):
    """A client on the other side of a network that can be disturbed."""
    return cli_of(at=f"http://127.0.0.1:{proxy.port}")


def test_lost_answers_are_asked_for_again_with_the_same_key(beyond, proxy, migration):
    row = migration()
    proxy.lose_answers(2, to=b"POST ")
    done = beyond("run", row.pk)
    assert (done.returncode, done.stdout) == (0, f"{row.name} on default: in line for a worker.\n")
    keys = re.findall(rb"idempotency-key: (\S+)", bytes(proxy.heard).lower())
    assert (len(keys), len(set(keys))) == (3, 1)
    assert AsyncMigrationKey.objects.count() == 1
    assert [event.kind for event in row.events.all()].count("run") == 1


def test_a_service_that_is_away_for_a_while_is_waited_for(beyond, proxy, migration):
    row = started(migration())
    waiting = beyond.start("wait", row.pk)
    read_until(waiting, "STARTED")
    proxy.cut()
    assert "Trying again for" in waiting.stderr.readline()
    finish(row)
    proxy.mend()
    _, errors = waiting.communicate(timeout=30)
    assert (waiting.returncode, errors) == (0, "The service answers again.\n")


def test_3_when_it_does_not_come_back(beyond, proxy, migration):
    row = started(migration())
    waiting = beyond.start("wait", row.pk, "--retry-for", 0.5)
    read_until(waiting, "STARTED")
    proxy.cut()
    _, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 3
    assert errors.splitlines()[-1].endswith("The migrations go on meanwhile.")
    assert beyond("list", "--retry-for", 0).returncode == 3
    assert beyond("wait", row.pk, "--timeout", 1).returncode == 3
    assert lifecycle.get(row.pk).status == "STARTED"


def test_3_when_it_is_silent_for_as_long_as_there_is_time(beyond, proxy, migration):
    row = started(migration())
    waiting = beyond.start("wait", row.pk, "--timeout", 2)
    read_until(waiting, "STARTED")
    proxy.silence()
    assert waiting.wait(20) == 3


@contextmanager
def answering(*answers: tuple[int, dict[str, str], str]) -> Iterator[tuple[str, list[float]]]:
    """A server that gives these answers in turn, the last one for ever; yields its address and when it was asked."""
    times: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers[min(len(times), len(answers) - 1)]
            times.append(monotonic())
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", times
    finally:
        server.shutdown()
        server.server_close()


def later(status: int, code: str) -> tuple[int, dict[str, str], str]:
    return status, PROBLEM, f'{{"status": {status}, "code": "{code}", "detail": "Later."}}'


def test_it_comes_again_when_the_service_says_and_not_before(cli_of):
    with answering(later(429, "rate_limited"), NOTHING) as (url, times):
        done = cli_of(at=url)("list")
        assert (done.returncode, done.stdout, done.stderr) == (0, "No migrations.\n", "")
        assert times[1] - times[0] >= 1
    with answering(later(503, "database_unavailable")) as (url, times):
        done = cli_of(at=url)("list", "--retry-for", 0.5)
        assert (done.returncode, len(times)) == (3, 1)
        assert "answers 503: Later. [database_unavailable]" in done.stderr


def test_a_proxy_that_finds_no_service_behind_it_is_tried_again(cli_of):
    with answering((502, PAGE[1], PAGE[2]), NOTHING) as (url, times):
        assert cli_of(at=url)("list").returncode == 0
        assert len(times) == 2


def test_2_when_something_else_answers_there(cli_of):
    with answering(PAGE) as (url, _):
        done = cli_of(at=url)("list")
        assert done.returncode == 2
        assert f"What answers at {url}/api/async-migrations is not the API" in done.stderr
    with answering((301, {"Location": "https://example.com/"}, "")) as (url, times):
        done = cli_of(at=url)("list")
        assert (done.returncode, len(times)) == (2, 1)
        assert "redirects to https://example.com/" in done.stderr


def test_an_api_below_another_prefix(cli_of):
    with answering(NOTHING) as (url, _):
        assert cli_of(at=f"{url}/internal/async-migrations/")("list").returncode == 0
