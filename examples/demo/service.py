"""The whole installation for the length of a block: servers, a database of its own, both projects, web, worker.

Embedded servers in a temporary directory, or those that DATABASE_URL and BROKER_URL name. There, too, everything
happens in a database that is made for it and dropped at the end, and on a queue that no other worker listens to: what
else lives on those servers is not touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

from api import variables
from api.embedded import start_embedded
from api.processes import (
    ROOT,
    NotReady,
    Running,
    child_environment,
    manage_command,
    run_to_end,
    running,
    wait_until_ready,
    web_command,
    worker_command,
)

from .database import scratch_database
from .errors import CannotGoOn

EXAMPLES = ROOT / "examples"
READY_TIMEOUT = 30  # seconds
SPARE_DISK = 500 * 1024**2  # bytes that a cluster and its first write-ahead log take

# A new cluster has no write-ahead log to use again, and fills each new file with zeros while a commit waits for it. A
# server that has been up for a day hardly ever does.
POSTGRES_SETTINGS = {"wal_init_zero": "off", "min_wal_size": "2GB", "max_wal_size": "4GB"}

_KINDS = {"PostgreSQL": "DATABASE_URL", "Redis": "BROKER_URL"}


@dataclass(frozen=True)
class Place:
    """Where the installation works: its database, what its processes are given, their files, and the port to be."""

    name: str
    database_url: str
    env: dict[str, str]
    directory: Path
    embedded: tuple[str, ...]
    port: int

    def connect(self) -> psycopg2.extensions.connection:
        """Return an autocommit connection to the database."""
        connection = psycopg2.connect(self.database_url)
        connection.autocommit = True
        return connection

    def migrate_service(self) -> None:
        """Make the service's own tables."""
        self.command(manage_command("migrate", "--verbosity", "0"))

    def migrate_host(self, *target: str) -> None:
        """Apply the host project's migration files, all of them or up to a target; async ones are only recorded."""
        self.migrate_project("tracker.settings", *target)

    def migrate_project(self, settings: str, *target: str) -> None:
        """Do the same for any project whose settings module can be imported from the checkout or from examples/."""
        # As a deploy does it: no broker is needed where nothing is started.
        env = {name: value for name, value in self.env.items() if name != "BROKER_URL"}
        command = [sys.executable, "-m", "django", "migrate", *target, "--settings", settings, "--verbosity", "0"]
        self.command(command, env | {"PYTHONPATH": str(EXAMPLES)})

    def command(self, command: list[str], env: dict[str, str] | None = None) -> str:
        """Run a command to its end and return what it printed; CannotGoOn with its last line where it fails."""
        done = run_to_end(command, env or self.env)
        if done.returncode:
            lines = [line for line in str(done.stderr).splitlines() if line.strip()]
            raise CannotGoOn(lines[-1] if lines else f"{' '.join(command[1:4])} failed and said nothing")
        return str(done.stdout)


@dataclass(frozen=True)
class Door:
    """Where the control plane answers, the token to talk to it, and the two processes behind it."""

    url: str
    token: str
    processes: dict[str, Running]

    def check(self) -> None:
        """Raise CannotGoOn where one of the two has ended by itself."""
        for name, process in self.processes.items():
            if not process.is_alive():
                raise CannotGoOn(f"the {name} has ended by itself, and said last: {last_words(process)}")


@contextmanager
def place(name: str, *, disk: int = 0, **env: str) -> Iterator[Place]:
    """Yield a place to work in; nothing of it is left at the end, also after an error, Ctrl-C or SIGTERM.

    name: begins the names of the database and of the queue. disk: bytes that an embedded PostgreSQL will need.
    env: for all processes.

    Raises CannotGoOn, ImproperlyConfigured and EmbeddedError, each with one line that says what to do.
    """
    unique = f"{name}_{os.getpid()}_{secrets.token_hex(3)}"
    given = {variable: os.environ.get(variable) or None for variable in _KINDS.values()}
    _check_given(given)
    port = _port()
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix=f"{name.replace('_', '-')}-", ignore_cleanup_errors=True)
        directory = Path(stack.enter_context(temporary))
        if given["DATABASE_URL"] is None:
            _check_disk(directory, disk)
        embedded = stack.enter_context(
            start_embedded(
                directory,
                postgres=given["DATABASE_URL"] is None,
                redis=given["BROKER_URL"] is None,
                settings=POSTGRES_SETTINGS,
            )
        )
        server_url = given["DATABASE_URL"] or embedded.database_url or ""
        broker_url = given["BROKER_URL"] or embedded.broker_url
        database_url = stack.enter_context(scratch_database(server_url, unique))
        ours = _no_further_targets() | {
            "SECRET_KEY": secrets.token_urlsafe(50),
            "LOG_FORMAT": "console",
            "ALLOW_SCHEDULED_MIGRATIONS": "true",
            "ASYNC_MIGRATIONS_QUEUE": unique,
            "ASYNC_MIGRATIONS_SHUTDOWN_GRACE_SECONDS": "1",
        }
        started = tuple(kind for kind, name in _KINDS.items() if given[name] is None)
        yield Place(
            unique,
            database_url,
            child_environment(database_url, broker_url, **ours | env),
            directory,
            started,
            port,
        )


@contextmanager
def web_and_worker(where: Place) -> Iterator[Door]:
    """Run the service's two processes on a port of this machine and yield the door, with an operator's token."""
    url = f"http://127.0.0.1:{where.port}"
    queue = where.env["ASYNC_MIGRATIONS_QUEUE"]
    with (
        running(web_command(where.port), where.env, where.directory / "web.log") as web,
        running(worker_command(threads=2, queue=queue), where.env, where.directory / "worker.log") as worker,
    ):
        door = Door(url, _token(where), {"web server": web, "worker": worker})
        try:
            wait_until_ready(url, READY_TIMEOUT, alive=lambda: web.is_alive() and worker.is_alive())
        except NotReady as exc:
            door.check()
            raise CannotGoOn(f"the service did not start: {exc}; the web server said last: {last_words(web)}") from exc
        yield door


def _token(where: Place) -> str:
    return where.command(manage_command("create_api_token", where.name, "--role", "operator")).strip()


def last_words(process: Running) -> str:
    """Return the last line that a process has said."""
    return next((line for line in reversed(process.output.splitlines()) if line.strip()), "nothing")


# --- before anything is started ---


def _check_given(given: dict[str, str | None]) -> None:
    if url := given["DATABASE_URL"]:
        variables.databases({"DATABASE_URL": url})
        if urlsplit(url).scheme == "sqlite":
            raise CannotGoOn(
                f"DATABASE_URL is {variables.masked(url)}, and this needs PostgreSQL: say another or none."
            )
    variables.broker({"BROKER_URL": given["BROKER_URL"] or ""})


def _check_disk(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed + SPARE_DISK:
        raise CannotGoOn(
            f"{directory.parent} has {free / 1024**3:.1f} GB free, and {(needed + SPARE_DISK) / 1024**3:.1f} GB are "
            "needed: make room, name another directory in TMPDIR, or take fewer --rows."
        )


def _port() -> int:
    """Return the port that PORT names, otherwise one that is free."""
    text = os.environ.get("PORT") or "0"
    if not text.isdecimal() or int(text) > 65535:
        raise CannotGoOn(f"PORT is {text!r}: say a number from 1 to 65535, or leave it out to use any that is free.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as exc:
            raise CannotGoOn(
                f"port {text} on 127.0.0.1 cannot be used: {exc.strerror}. Name another one in PORT, or none."
            ) from exc
        return int(probe.getsockname()[1])


def _no_further_targets() -> dict[str, str]:
    """Hide the targets that the environment names, for the worker would look into them."""
    return {name: "" for name in os.environ if name.startswith("DATABASE_URL_")}
