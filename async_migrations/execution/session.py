"""Dedicated connections to a target database, and PostgreSQL's errors in the product's words.

The only place that imports the driver. A session is autocommit; it belongs to one attempt, or to the heartbeat beside
it. It needs a backend of its own: what is set, locked and cancelled here is a backend's, so a connection through a
transaction pooler, which gives every transaction another backend, is recognised and refused.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, NamedTuple

import psycopg2
from django.db import Error as DjangoError
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import Database  # type: ignore[attr-defined] # psycopg 3 or psycopg2
from django.db.backends.postgresql.psycopg_any import mogrify
from django.utils.connection import ConnectionDoesNotExist
from django.utils.encoding import force_str
from psycopg2.extensions import TRANSACTION_STATUS_INTRANS, adapt
from psycopg2.extras import RealDictCursor

from ..errors import ExecutionError

# psycopg 3's own parameters, which Django adds when that driver is installed beside this one.
_FOREIGN_PARAMETERS = ("context", "cursor_factory", "prepare_threshold", "pool", "server_side_binding", "assume_role")

# A server that falls silent, or a network, is noticed within a minute and not after the quarter of an hour that the
# kernel takes by itself. Seconds, but for the last one: milliseconds. Django's OPTIONS win.
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

# The server's names of the same: else it keeps a session, and its locks, for two hours after the client's host is gone.
_SERVERS_NETWORK = {
    "tcp_keepalives_idle": "keepalives_idle",
    "tcp_keepalives_interval": "keepalives_interval",
    "tcp_keepalives_count": "keepalives_count",
    "tcp_user_timeout": "tcp_user_timeout",
}

# What would end a statement that is meant to take its time, whatever the role, the database or Django's OPTIONS say.
# Each with the first version of PostgreSQL that has it.
_SETTINGS = {
    "statement_timeout": 0,
    "lock_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
    "idle_session_timeout": 140000,
    "transaction_timeout": 170000,
}

_PID = "SELECT pg_backend_pid()"

# The schema of our own tables in a target, and what stands for it in the queries.
_OWN = "{own}"
_OWN_SCHEMA = """
SELECT relnamespace::regnamespace::text AS schema
FROM pg_class WHERE oid = to_regclass('async_migrations_asyncmigrationcheckpoint')
"""

# What a session is called while nobody uses it, and again when it is told to forget.
_RESTING = "async-migrations idle"

# How often a pooler is given the chance to show that it shares backends: once is enough unless others use the same
# pool in the same moment.
_POOLER_TRIES = 5

# SQLSTATE or its class -> (code, hint, worth another attempt). The longest match counts.
_MEANINGS: dict[str, tuple[str, str | None, bool]] = {
    "08": ("connection_lost", None, True),
    "0A": ("not_supported", "PostgreSQL does not support this here; change the SQL.", False),
    "22": ("data_error", "Correct the rows or the SQL, then run the migration again.", False),
    "23": ("constraint_violation", "Correct the rows that break the constraint, then run the migration again.", False),
    "23505": ("duplicate_key", "Remove the duplicate rows, then run the migration again.", False),
    "25": ("transaction_state", None, False),
    "25006": ("read_only", "Behind a failover this ends by itself; else point DATABASES at the primary.", True),
    "25P03": ("connection_lost", None, True),  # We were frozen within a transaction for too long.
    "28": ("not_authorised", "Check user and password of the target in DATABASES.", False),
    "3D": ("unknown_database", "The database does not exist; check DATABASES.", False),
    "40": ("transaction_rolled_back", None, True),
    "40001": ("serialization_failure", None, True),
    "40P01": ("deadlock", None, True),
    "42": ("invalid_statement", "Correct the SQL in the migration file and migrate again, then run.", False),
    "42501": ("not_allowed", "Give the role of the target the missing privilege, then run the migration again.", False),
    "42601": ("syntax_error", "Correct the SQL in the migration file, apply it again, then run.", False),
    "42P01": ("undefined_table", "Is the migration that creates the table applied to this database?", False),
    "42P07": ("already_exists", "Drop it or rename it if it is not what was asked for, then run again.", False),
    "53": ("insufficient_resources", "Give the server what it lacks (memory, connections).", True),
    "53100": ("disk_full", "Make room on the server's disk, then run the migration again.", False),
    "55P03": ("lock_timeout", "Something holds a lock on the table; see the events for who.", True),
    "57014": ("statement_cancelled", "Somebody cancelled it, or statement_timeout did. Run it again to go on.", False),
    "57P": ("connection_lost", None, True),
    "58": ("system_error", "Look into the server's log.", True),
}


# What a driver raises when the server went away without a SQLSTATE. Django takes psycopg 3 where there is one.
_GONE = (psycopg2.OperationalError, psycopg2.InterfaceError, Database.OperationalError, Database.InterfaceError)


class Backend(NamedTuple):
    """One server process, told from all others: a pid alone may have been given to somebody else."""

    pid: int
    application_name: str
    backend_start: datetime


@cache
def queries() -> dict[str, str]:
    """Return the SQL of the files in `sql` by name."""
    named: dict[str, str] = {}
    for file in files(__package__).joinpath("sql").iterdir():
        if file.name.endswith(".sql"):
            parts = re.split(r"^-- (\w+) --\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
            named |= zip(parts[::2], (sql.strip() for sql in parts[1::2]), strict=True)
    return named


class Session:
    """One autocommit connection to the target `alias`, without any timeout of its own.

    patience: whole seconds, at least 2, that the server is given to let us in and the network to carry a question;
    None: as DATABASES says, else a minute at most.

    Raises ExecutionError: `unknown_database` for an alias that is not in DATABASES, `unsupported_database` for another
    server than PostgreSQL, `transaction_pooler` for a connection that does not keep its backend, otherwise what
    connecting gave.
    """

    def __init__(self, alias: str, application_name: str, *, patience: int | None = None) -> None:
        self.alias, self.opened_at = alias, time.monotonic()
        self._parameters, self._role = _parameters(alias)
        #: The schema of our own tables, with its dot; empty where they are not there.
        self.own = ""
        self._limits = {} if patience is None else {"connect_timeout": patience, "tcp_user_timeout": patience * 1000}
        with translated():
            self._connection = self._connect()
            self._connection.autocommit = True
        try:
            # Before anything is set: behind a pooler that would stay in a backend which the application gets next.
            self.backend = Backend(**self.one("backend"))
            with translated():
                self._require_own_backend()
            self.begin(application_name)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Any:
        return psycopg2.connect(**{**self._parameters, **self._limits, "application_name": _RESTING})

    def begin(self, application_name: str) -> None:
        """Set what every session begins with, under this name. Raises ExecutionError, also if it is dead."""
        known = [name for name, since in _SETTINGS.items() if self._connection.server_version >= since]
        unlimited = ", ".join(f"set_config('{name}', '0', false)" for name in known)
        network = ", ".join(f"set_config('{name}', %({name})s, false)" for name in _SERVERS_NETWORK)
        values = {"name": application_name[:63], "role": self._role}
        values |= {name: str(self._parameters[ours]) for name, ours in _SERVERS_NETWORK.items()}
        role = "set_config('role', %(role)s, false)" if self._role else "NULL"
        with translated(), self._connection.cursor() as cursor:
            # The driver reads times in no other style; what a connection begins with is the driver's own wish. And a
            # policy that hides rows would let us call done what is not: with row_security off it is an error instead.
            cursor.execute(
                f"SELECT pg_backend_pid(), set_config('application_name', %(name)s, false), {unlimited}, "
                f"{network}, set_config('datestyle', 'ISO', false), set_config('row_security', 'off', false), {role}, "
                f"({_OWN_SCHEMA})",
                values,
            )
            pid, name, *_, own = cursor.fetchall()[0]
        if pid != self.backend.pid:
            raise _through_pooler()
        self.backend = self.backend._replace(application_name=name)
        self.own = f"{own}." if own else ""

    def forget(self) -> None:
        """Leave nothing to who uses it next: locks, settings, role, temporary tables. Raises ExecutionError."""
        self.execute("DISCARD ALL")

    def is_up_to_date(self) -> bool:
        """Whether the alias still leads to where this session is connected, and as whom. Raises ExecutionError."""
        return (self._parameters, self._role) == _parameters(self.alias)

    def _require_own_backend(self) -> None:
        """Refuse a connection that does not keep its backend.

        A server tells its pid when a connection begins; a pooler has none to tell then and makes a number up. So
        another number here means a pooler, and only then is it worth asking which kind.
        """
        if self._connection.info.backend_pid != self.backend.pid and not self._keeps_backend():
            raise _through_pooler()

    def _keeps_backend(self) -> bool:
        """Whether a second connection, in a transaction, never gets this one's backend or drives it to another."""
        with closing(self._connect()) as rival:
            for _ in range(_POOLER_TRIES):
                try:
                    with rival, rival.cursor() as cursor:  # A transaction holds on to the backend that it is given.
                        cursor.execute(_PID)
                        if cursor.fetchall() == [(self.backend.pid,)] or self._pid() != self.backend.pid:
                            return False
                except psycopg2.Error:  # A pooler that shares after each statement allows no transaction.
                    self._pid()  # Raises if it is not that but the server that is gone.
                    return False
        return True

    def _pid(self) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(_PID)
            return int(cursor.fetchall()[0][0])

    def execute(self, sql: str) -> None:
        """Carry out one statement as it is written. Raises ExecutionError."""
        with translated():
            self._run(sql, None)

    def affect(self, sql: str) -> int:
        """Carry out one statement as it is written; return how many rows it changed. Raises ExecutionError."""
        with translated(), self._connection.cursor() as cursor:
            cursor.execute(sql)
            return int(cursor.rowcount)

    def literal(self, value: str) -> str:
        """Return a text as an SQL literal."""
        adapted = adapt(value)
        adapted.prepare(self._connection)  # Quoted as this connection's encoding and settings have it.
        return str(adapted.getquoted().decode())

    def set(self, name: str, value: str) -> None:
        """Set a parameter for the rest of the session, e.g. ("lock_timeout", "2000ms"). Raises ExecutionError."""
        with translated():
            self._run("SELECT set_config(%(name)s, %(value)s, false)", {"name": name, "value": value})

    def set_all(self, settings: dict[str, Any]) -> None:
        """Set parameters for the rest of the session, by name. Raises ExecutionError."""
        for name, value in settings.items():
            self.set(name, str(value))

    def limit(self, statement_seconds: float, lock_seconds: float) -> None:
        """Set `statement_timeout` and `lock_timeout` for the rest of the session. Raises ExecutionError."""
        self.one("limits", statement=f"{statement_seconds * 1000:.0f}ms", lock=f"{lock_seconds * 1000:.0f}ms")

    def all(self, query: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of a named query. Raises ExecutionError."""
        with translated(), self._connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute(self._text(query), parameters)
            return [dict(row) for row in cursor.fetchall()]

    def one(self, query: str, /, **parameters: Any) -> dict[str, Any]:
        """Return the first row of a named query, {} if there is none. Raises ExecutionError."""
        return next(iter(self.all(query, **parameters)), {})

    def change(self, query: str, /, **parameters: Any) -> int:
        """Carry out a named query that writes; return how many rows it changed. Raises ExecutionError."""
        with translated(), self._connection.cursor() as cursor:
            cursor.execute(self._text(query), _plain(parameters))
            return int(cursor.rowcount)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one transaction; whatever it raises rolls back."""
        with translated():
            self._run("BEGIN", None)
            try:
                yield
            except BaseException:
                with suppress(psycopg2.Error):  # On a lost connection the server has rolled back by itself.
                    self._run("ROLLBACK", None)
                raise
            self._run("COMMIT", None)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Run the block, and take back what it did, also within a transaction. Raises ExecutionError."""
        within = self._connection.info.transaction_status == TRANSACTION_STATUS_INTRANS
        begin, undo = ("SAVEPOINT undone", "ROLLBACK TO undone") if within else ("BEGIN", "ROLLBACK")
        with translated():
            self._run(begin, None)
            try:
                yield
            except BaseException:
                with suppress(psycopg2.Error):  # On a lost connection the server has rolled back by itself.
                    self._run(undo, None)
                raise
            self._run(undo, None)

    def select(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query that was made for one table. Raises ExecutionError."""
        with translated(), self._connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute(sql)
            return [dict(row) for row in cursor.fetchall()]

    def close(self) -> None:
        """End the session; its advisory locks go with it."""
        self._connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _text(self, query: str) -> str:
        return queries()[query].replace(_OWN, self.own)

    def _run(self, sql: str, parameters: dict[str, Any] | None) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)


class Shared:
    """Django's own connection to a target, where that is the one that sees or changes the rows."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection

    def all(self, query: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of a named query."""
        return self._rows(queries()[query], parameters)

    def read(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query that was made for one table, as a part of the transaction under way."""
        return self._rows(sql, None)

    def select(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query that was made for one table. Raises ExecutionError, and spoils no transaction."""
        with translated_by_django(), transaction.atomic(using=self._connection.alias):
            return self._rows(sql, None)

    def change(self, query: str, /, **parameters: Any) -> int:
        """Carry out a named query that writes; return how many rows it changed."""
        with self._connection.cursor() as cursor:
            cursor.execute(queries()[query].replace(_OWN, self._own), _plain(parameters))
            return int(cursor.rowcount)

    @cached_property
    def _own(self) -> str:
        own = self._rows(_OWN_SCHEMA, None)
        return f"{own[0]['schema']}." if own else ""

    def set_locally(self, name: str, value: str) -> None:
        """Set a parameter for the rest of the transaction."""
        _ = self._own  # Found while the search path is still the connection's.
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT set_config(%s, %s, true)", [name, value])

    def literal(self, value: str) -> str:
        """Return a text as an SQL literal."""
        self._connection.ensure_connection()
        return force_str(mogrify("%s", [value], self._connection))  # Of one driver these are bytes.

    def _rows(self, sql: str, parameters: dict[str, Any] | None) -> list[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    return {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in parameters.items()}


def hold_lock(connection: BaseDatabaseWrapper, key: str) -> None:
    """Take an advisory lock in a session of Django's own, if it is free; it lasts until `drop_lock`.

    A session that ends gives it back too.
    """
    with connection.cursor() as cursor:
        cursor.execute(queries()["try_advisory_lock"], {"key": key})


def drop_lock(connection: BaseDatabaseWrapper, key: str) -> None:
    """Give back what `hold_lock` took."""
    with connection.cursor() as cursor:
        cursor.execute(queries()["advisory_unlock"], {"key": key})


def has_written(connection: BaseDatabaseWrapper) -> bool:
    """Whether the open transaction of a session of Django's own has changed anything."""
    with connection.cursor() as cursor:
        cursor.execute(queries()["has_written"])
        return bool(cursor.fetchone()[0])


def _parameters(alias: str) -> tuple[dict[str, Any], str | None]:
    """Return what libpq needs to connect to a Django alias, and the role to assume."""
    try:
        wrapper = connections[alias]
    except ConnectionDoesNotExist as exc:
        raise ExecutionError(
            code="unknown_database",
            message=f"The target {alias!r} is not in DATABASES of this worker.",
            hint=f"Configure the alias {alias!r} for workers as it is for `migrate`, then run the migration again.",
        ) from exc
    if wrapper.vendor != "postgresql":
        raise ExecutionError(
            code="unsupported_database",
            message=f"The target {alias!r} is {wrapper.display_name}; migrations are carried out on PostgreSQL.",
            hint="Point the alias at a PostgreSQL database.",
        )
    parameters = {**_NETWORK, **wrapper.get_connection_params()}
    role = wrapper.settings_dict["OPTIONS"].get("assume_role")
    for name in _FOREIGN_PARAMETERS:
        parameters.pop(name, None)
    return parameters, role


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into ExecutionError, by SQLSTATE and never by text."""
    try:
        yield
    except psycopg2.Error as exc:
        raise _translate(exc) from exc


@contextmanager
def translated_by_django() -> Iterator[None]:
    """Turn what Django made of the driver's errors into ExecutionError."""
    try:
        yield
    except DjangoError as exc:
        if not isinstance(exc.__cause__, Database.Error):
            raise
        raise _translate(exc.__cause__) from exc


def _through_pooler() -> ExecutionError:
    return ExecutionError(
        code="transaction_pooler",
        message="The connection goes through a transaction pooler: it does not keep its server process.",
        hint="Give this alias in the worker's DATABASES the server's own host and port, or a pool in session mode, "
        "then run the migration again. Nothing was done.",
    )


def _translate(exc: Any) -> ExecutionError:
    """Return what an error of the driver means: of ours, or of psycopg 3 where Django's connections are that one's."""
    state, diag = exc.pgcode if isinstance(exc, psycopg2.Error) else exc.sqlstate, exc.diag
    if state is None and isinstance(exc, _GONE):
        state = "08006"  # The server went away without a word, so libpq has no SQLSTATE to give.
    matches = (state[:length] for length in (5, 3, 2) if state and state[:length] in _MEANINGS)
    code, hint, retryable = _MEANINGS.get(next(matches, ""), ("database_error", None, False))
    return ExecutionError(
        code=code,
        message=diag.message_primary or str(exc).strip() or type(exc).__name__,
        sqlstate=state,
        detail=diag.message_detail,
        hint=diag.message_hint or hint,
        retryable=retryable,
    )
