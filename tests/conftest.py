"""Fixtures, all of them factories: real processes on the test's databases, clients, and waiting.

`start_worker` and `start_api` start what an installation runs; everything is stopped at the end of the test that
started it. A test that uses one of the fixtures below writes rows that other processes see, on both databases, without
any mark of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test import Client

from api.processes import ROOT, Running, child_environment, running, wait_until_ready, web_command, worker_command
from tests.browser import CHROMIUM, TIMEOUT, chromium
from tests.receiver import Receiver, receiving
from tests.servers import database_named

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

DATABASES = ("default", "second")
T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout: float = 30, *, what: str = "") -> T:
    """Return the first true answer of the predicate, asked every few milliseconds.

    timeout: seconds, after which the test fails. what: names in the failure what was waited for.
    """
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            pytest.fail(f"after {timeout:g} s still not: {what or predicate}; last answer {answer!r}")
        time.sleep(0.02)
    return answer


def need(*programs: str) -> None:
    """Skip the test where one of the programs is not installed; in CI, where each of them has to be, fail."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        absent = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        absent(f"this test needs {' and '.join(missing)}: run `make programs` as root, or install it otherwise")


class Process(Running):
    """A process of the service in a test; `url` is where it answers, if it does."""

    url: str = ""


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a process that works on the test's databases."""
    urls = {alias: database_named(os.environ[name], connections[alias].settings_dict["NAME"]) for alias, name in _URLS}
    return child_environment(
        urls["default"], os.environ["BROKER_URL"], DATABASE_URL_SECOND=urls["second"], **_FAST | extra
    )


_URLS = (("default", "DATABASE_URL"), ("second", "DATABASE_URL_SECOND"))
_FAST = {"ASYNC_MIGRATIONS_SHUTDOWN_GRACE_SECONDS": "3", "LOG_LEVEL": "INFO"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs committed rows on both databases, with what the migrations put there (the groups) put back."""
    committed = pytest.mark.django_db(transaction=True, databases=list(DATABASES), serialized_rollback=True)
    for item in items:
        if "control" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("django_db"):
            item.add_marker(committed)
        # Shared out by file; and what commits, and so empties the tables, after what does not, as in one process.
        item.add_marker(pytest.mark.xdist_group(f"{item.path}, {'committing' if _commits(item) else 'not committing'}"))


def _commits(item: pytest.Item) -> bool:
    marks = item.iter_markers("django_db")
    return any(mark.kwargs.get("transaction") for mark in marks) or "transactional_db" in getattr(
        item, "fixturenames", ()
    )


@pytest.fixture
def control(transactional_db: None) -> None:
    """Rows that other processes see, and no message of an earlier test; what a test leaves is removed after it."""
    forget_messages()


def forget_messages() -> None:
    """Remove from the broker what earlier tests have sent."""
    if client := settings.DRAMATIQ_BROKER["OPTIONS"].get("client"):
        client.flushdb()


@pytest.fixture
def processes(control: None, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a command as a process: `processes(command, **environment)`; stopped at the end, also after a failure."""
    number = count(1)
    with ExitStack() as stack:

        def start(command: list[str], *, cwd: Path = ROOT, **env: str) -> Process:
            process = Process(command, environment(**env), tmp_path / f"process-{next(number)}.log", cwd=cwd)
            stack.callback(process.stop)
            return process

        yield start


@pytest.fixture
def start_worker(processes: Callable[..., Process]) -> Callable[..., Process]:
    """Start a worker: `start_worker(threads=4, **environment)` -> a handle with pid, output, terminate() and kill()."""

    def start(*, threads: int = 4, **env: str) -> Process:
        worker = processes(worker_command(threads=threads), **env)
        eventually(lambda: "ready for action" in worker.output or not worker.is_alive(), what="the worker is ready")
        assert worker.is_alive(), worker.output
        return worker

    return start


@pytest.fixture
def start_api(processes: Callable[..., Process]) -> Callable[..., Process]:
    """Start a web server: `start_api(**environment)` -> a handle with url, output, terminate() and kill().

    port: where an earlier one was that is gone.
    """

    def start(*, threads: int = 8, port: int | None = None, **env: str) -> Process:
        port = port or free_port()
        web = processes(web_command(port, workers=1, threads=threads), **env)
        web.url = f"http://127.0.0.1:{port}"
        wait_until_ready(web.url, 60, alive=web.is_alive)
        return web

    return start


@pytest.fixture(scope="session")
def shared_api(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One web server for all tests that only need one to talk to; it keeps nothing between requests."""
    port = free_port()
    log = tmp_path_factory.mktemp("api") / "log"
    with running(web_command(port, workers=1, threads=16), environment(), log) as web:
        shared = Process.__new__(Process)
        shared.__dict__.update(web.__dict__, url=f"http://127.0.0.1:{port}")
        wait_until_ready(shared.url, 60, alive=web.is_alive)
        yield shared


@pytest.fixture
def token(control: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Make a token: `token("viewer")`; further keywords are options of `create_api_token`."""
    number = count(1)

    def make(role: str = "operator", **options: Any) -> str:
        capsys.readouterr()
        call_command("create_api_token", f"{role}-{next(number)}", role=role, **options)
        return capsys.readouterr().out.strip()

    return make


@pytest.fixture
def api(shared_api: Process, token: Callable[..., str]) -> Iterator[Callable[..., httpx.Client]]:
    """Make a client: `api("operator")`, or `api(None)` for one without a token; `at=` talks to another server."""
    with ExitStack() as stack:

        def make(role: str | None = "operator", *, at: Process | None = None, **options: Any) -> httpx.Client:
            headers = {"Authorization": f"Bearer {token(role, **options)}"} if role else {}
            # Else a thread closes what seems to be one too many, though another has just taken it.
            all_kept = httpx.Limits(max_connections=100, max_keepalive_connections=None)
            url = (at or shared_api).url
            return stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=40, limits=all_kept))

        yield make


@pytest.fixture(scope="session")
def browser_process() -> Iterator[Browser]:
    """One Chromium for all tests of this process; it keeps nothing between contexts."""
    if CHROMIUM is None:
        need("chromium")
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser_process: Browser, shared_api: Process, control: None) -> Iterator[Callable[..., Page]]:
    """Open a page of a browser that nobody has used yet: `open_page(user, at=..., expected=..., **context)`.

    user: is logged in. at: another server than the one for all. expected: what the browser may complain of, a regular
    expression; the test fails where it complains of anything else: a script that fails, an error in the console, what
    the Content-Security-Policy forbids.
    """
    complaints: list[str] = []
    with ExitStack() as stack:

        def make(user: User | None = None, *, at: Process | None = None, expected: str = "", **options: Any) -> Page:
            def note(text: str) -> None:
                if not (expected and re.search(expected, text)):
                    complaints.append(text)

            def read(message: ConsoleMessage) -> None:
                if message.type in ("error", "warning"):
                    note(f"{message.text} ({message.location['url']})")

            url = (at or shared_api).url
            context = browser_process.new_context(base_url=url, **options)
            stack.callback(context.close)
            context.set_default_timeout(TIMEOUT)
            context.on("console", read)
            context.on("weberror", lambda error: note(str(error.error)))
            if user:
                session = Client()
                session.force_login(user)
                context.add_cookies([{"name": "sessionid", "value": session.cookies["sessionid"].value, "url": url}])
            return context.new_page()

        yield make
    assert not complaints, "\n".join(["the browser complains of", *complaints])


@pytest.fixture
def nearby(settings: Any) -> None:
    """Webhooks may lead to this machine, and what fails is tried again at once."""
    settings.ASYNC_MIGRATIONS_WEBHOOK_PRIVATE_ADDRESSES = True
    settings.ASYNC_MIGRATIONS_WEBHOOK_BACKOFF_SECONDS = 0
    settings.ASYNC_MIGRATIONS_WEBHOOK_MAX_ATTEMPTS = 3
    settings.ASYNC_MIGRATIONS_WEBHOOK_TIMEOUT_SECONDS = 5


@pytest.fixture
def receiver(nearby: None) -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiving() as receiver:
        yield receiver


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
