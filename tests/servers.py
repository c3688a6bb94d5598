"""Loaded with `-p tests.servers`: PostgreSQL and Redis for the tests, before Django reads its settings.

Real servers are used where DATABASE_URL and BROKER_URL name them; whatever is missing is started from wheels in a
temporary directory and stopped at the end. Where several processes share the tests out (`-n`), each has servers of its
own: roles, queues and what is killed belong to nobody else.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from api.embedded import EmbeddedError, start_embedded

# The tests measure what commits, not what survives a power cut.
POSTGRES_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "5",
}

_SERVERS = ("DATABASE_URL", "DATABASE_URL_SECOND", "BROKER_URL")
# Which of these the process that shares the tests out has started itself: its workers do not use them.
_OWN = "TESTS_HAVE_THEIR_OWN"
_PROCESSES = 2  # as many as CI has cores; tests mostly wait, and what they start needs the rest

servers = ExitStack()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Generator[None, object, object]:
    """Set the environment before pytest-django loads the settings."""
    _let_children_hear_ctrl_c()
    try:
        _start()
    except EmbeddedError as exc:
        raise pytest.UsageError(f"the tests need a PostgreSQL and a Redis: {exc}") from exc
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Share the tests out unless they have to use the same servers."""
    return _PROCESSES if {"DATABASE_URL", "BROKER_URL"} <= set(os.environ[_OWN].split()) else 0


def pytest_unconfigure() -> None:
    """Stop what was started."""
    servers.close()


def _let_children_hear_ctrl_c() -> None:
    """Undo what a shell does to background jobs: they ignore Ctrl-C, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _start() -> None:
    for name in os.environ.pop(_OWN, "").split():
        del os.environ[name]
    missing = [name for name in _SERVERS if not os.environ.get(name)]
    directory = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="async-migrations-tests-")))
    embedded = servers.enter_context(
        start_embedded(
            directory,
            postgres="DATABASE_URL" in missing,
            redis="BROKER_URL" in missing,
            settings=POSTGRES_SETTINGS,
        )
    )
    database_url = os.environ.get("DATABASE_URL") or embedded.database_url or ""
    os.environ |= {
        "DATABASE_URL": database_url,
        "DATABASE_URL_SECOND": os.environ.get("DATABASE_URL_SECOND") or database_named(database_url, "second"),
        "BROKER_URL": os.environ.get("BROKER_URL") or embedded.broker_url or "",
        "SECRET_KEY": "for-tests-only",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "LOG_FORMAT": "console",
        _OWN: " ".join(missing),
    }
    os.environ.pop("ALLOW_SCHEDULED_MIGRATIONS", None)


def database_named(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
