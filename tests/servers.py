"""Loaded with `-p tests.servers`: PostgreSQL and Redis for the tests, before Django reads its settings.

Real servers are used where DATABASE_URL and BROKER_URL name them; whatever is missing is started from wheels in a
temporary directory and stopped at the end.
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


def pytest_unconfigure() -> None:
    """Stop what was started."""
    servers.close()


def _let_children_hear_ctrl_c() -> None:
    """Undo what a shell does to background jobs: they ignore Ctrl-C, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _start() -> None:
    directory = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="async-migrations-tests-")))
    embedded = servers.enter_context(
        start_embedded(
            directory,
            postgres=not os.environ.get("DATABASE_URL"),
            redis=not os.environ.get("BROKER_URL"),
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
    }
    os.environ.pop("ALLOW_SCHEDULED_MIGRATIONS", None)


def database_named(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
