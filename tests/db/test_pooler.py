"""A session needs a backend of its own: what does not keep one is refused before anything is set in it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from django.db import connection
from psycopg2.extras import RealDictCursor

from async_migrations.errors import ExecutionError
from async_migrations.execution import session
from async_migrations.execution.session import Session
from async_migrations.states import Status
from tests.conftest import eventually, free_port, need
from tests.db.conftest import carried_out, query

pytestmark = pytest.mark.usefixtures("control")

# Debian installs it where an ordinary user's PATH does not look.
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
INI = """
[databases]
{dbname} = {target}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
ignore_startup_parameters = extra_float_digits,options
{further}
"""


@pytest.fixture
def pooler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a real PgBouncer between the worker and its target: `pooler("transaction")`; further lines of its file."""
    if PGBOUNCER is None:
        need("pgbouncer")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgbouncer-")))
        folder.chmod(0o755)

        def start(mode: str, *further: str) -> None:
            direct = dict(connection.get_connection_params())
            port = free_port()
            _start_pgbouncer(stack, folder / f"{mode}.ini", mode, direct, port, further)
            through = {"host": "127.0.0.1", "port": port, "user": direct["user"], "dbname": direct["dbname"]}
            monkeypatch.setattr(
                "async_migrations.execution.session._parameters",
                lambda alias: ({**session._NETWORK, **through, "sslmode": "disable"}, None),
            )

        yield start


def _start_pgbouncer(
    stack: ExitStack, ini: Path, mode: str, direct: dict[str, Any], port: int, further: tuple[str, ...]
) -> None:
    known = ("host", "port", "dbname", "user", "password")
    target = " ".join(f"{key}='{direct[key]}'" for key in known if direct.get(key))
    ini.write_text(INI.format(dbname=direct["dbname"], target=target, port=port, mode=mode, further="\n".join(further)))
    ini.chmod(0o644)
    # It refuses to run as root; where the server listens on a socket, whoever owns its folder may use it.
    sockets = Path(str(direct.get("host") or "."))
    user = ["-u", sockets.owner() if sockets.is_absolute() else "nobody"] if getpass.getuser() == "root" else []
    log = stack.enter_context(ini.with_suffix(".log").open("wb"))
    process = subprocess.Popen([str(PGBOUNCER), *user, str(ini)], stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    parameters = {"host": "127.0.0.1", "port": port, "user": direct["user"], "dbname": direct["dbname"]}

    def answers() -> bool:
        assert process.poll() is None, ini.with_suffix(".log").read_text()
        try:
            psycopg2.connect(**parameters, sslmode="disable").close()
        except psycopg2.OperationalError:
            return False
        return True

    eventually(answers, 10, what="PgBouncer answers")


class Multiplexer:
    """A pooler in miniature, for machines without a real one: each query goes to the next of its server connections.

    It passes the server's pid on, as PgBouncer does not: what gives it away is that two answers come from two backends.
    """

    def __init__(self) -> None:
        self._target = connection.get_connection_params()
        self._servers: list[socket.socket] = []
        self._turn = count()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._servers):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            self._servers.append(server := self._connect())
            size = client.recv(4, socket.MSG_PEEK)
            server.sendall(_read(client, int.from_bytes(size)))
            while (message := _message(server))[:1] != READY:
                client.sendall(message)
                if message[:1] == b"R" and int.from_bytes(message[5:9]) in WANTS_ANSWER:
                    server.sendall(_message(client))
            client.sendall(message)
            while (query := _message(client))[:1] == b"Q":
                self._answer(query, client, self._servers[next(self._turn) % len(self._servers)])

    def _answer(self, query: bytes, client: socket.socket, server: socket.socket) -> None:
        server.sendall(query)
        message = b""
        while message[:1] != READY:
            client.sendall(message := _message(server))

    def _connect(self) -> socket.socket:
        host, port = str(self._target.get("host") or "localhost"), int(self._target.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server


READY = b"Z"
WANTS_ANSWER = {3, 5, 10, 11}  # a password: in clear, MD5, and the two steps of SCRAM


def _message(source: socket.socket) -> bytes:
    head = _read(source, 5)
    return head + _read(source, int.from_bytes(head[1:]) - 4)


def _read(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (chunk := source.recv(size - len(found))):
            raise ConnectionError
        found += chunk
    return found


@pytest.fixture
def multiplexer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Multiplexer]:
    """A pooler in miniature between the worker and its target, with another client's connection in its pool."""
    with closing(Multiplexer()) as made:
        direct = session._parameters("default")[0]
        through = {**direct, "host": "127.0.0.1", "port": made.port, "sslmode": "disable"}
        with closing(psycopg2.connect(**through)):
            monkeypatch.setattr("async_migrations.execution.session._parameters", lambda alias: (through, None))
            yield made


def opened() -> None:
    Session("default", "async-migrations/1/1").close()


def refused() -> None:
    with pytest.raises(ExecutionError) as refusal:
        opened()
    assert refusal.value.code == "transaction_pooler"
    assert not refusal.value.retryable
    assert "DATABASES" in str(refusal.value.hint)


def test_a_direct_connection_is_taken() -> None:
    opened()


def test_answers_of_two_backends_are_recognised_whatever_pid_was_told(multiplexer) -> None:
    for _ in range(4):
        refused()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_shares_backends_is_refused(pooler, mode) -> None:
    pooler(mode)
    refused()


def test_it_is_refused_however_the_pooler_chooses_among_its_backends(pooler) -> None:
    pooler("transaction", "server_round_robin = 1", "min_pool_size = 4")
    for _ in range(5):
        refused()


def test_it_is_refused_while_others_use_the_same_pool(pooler) -> None:
    pooler("transaction", "default_pool_size = 3")
    with closing(psycopg2.connect(**session._parameters("default")[0])) as other:
        other.autocommit = True
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                other.cursor().execute("SELECT pg_sleep(random() * 0.002)")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(10):
                refused()
        finally:
            ended.set()
            thread.join(10)


def test_a_pool_in_session_mode_is_taken(pooler) -> None:
    pooler("session")
    with Session("default", "async-migrations/1/1") as taken:
        assert taken.one("try_advisory_lock", key="x")["locked"]
        # What a cancel goes by is what the server knows this session as.
        found = query(f"SELECT application_name FROM pg_stat_activity WHERE pid = {taken.backend.pid}")
        assert found == [(taken.backend.application_name,)]


def test_nothing_is_set_in_a_backend_that_the_application_gets_next(pooler) -> None:
    query("ALTER ROLE CURRENT_USER SET lock_timeout = '7s'")
    try:
        pooler("transaction", "default_pool_size = 1")
        refused()
        with closing(psycopg2.connect(**session._parameters("default")[0])) as application:
            cursor = application.cursor()
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchall() == [("7s",)]
    finally:
        query("ALTER ROLE CURRENT_USER RESET lock_timeout")


def test_the_row_says_what_is_wrong_and_that_nothing_was_done(pooler, migration, book) -> None:
    row = migration("UPDATE book SET n = n + 1")
    pooler("transaction")
    row = carried_out(row)
    assert row.status == Status.ERROR
    assert row.meta["error"]["code"] == "transaction_pooler"
    assert row.attempt == 1
    assert query("SELECT DISTINCT n FROM book") == [(0,)]


def test_a_direct_connection_costs_no_question_more(monkeypatch) -> None:
    """What tells a pooler comes with the two questions that every session asks anyway."""
    asked: list[str] = []

    class Counting(RealDictCursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            asked.append(query)
            super().execute(query, vars)

    class CountingPlain(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            asked.append(query)
            super().execute(query, vars)

    connect = psycopg2.connect
    monkeypatch.setattr("psycopg2.connect", lambda **given: connect(**{**given, "cursor_factory": CountingPlain}))
    monkeypatch.setattr("async_migrations.execution.session.RealDictCursor", Counting)
    opened()
    assert len(asked) == 2, asked
