"""What migration files call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import NotSupportedError, connections
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from . import lifecycle
from .conf import conf
from .errors import InvalidDefinition, TablesMissing
from .execution import session, statements
from .execution.attempt import advisory_key
from .execution.guard import Mode
from .lifecycle import Request
from .models import AsyncMigrationCheckpoint, AsyncMigrationStatus
from .states import Status

Operation = Callable[[StateApps, BaseDatabaseSchemaEditor], None]

# The advisory locks that this process holds until its `migrate` is through, by alias. They keep a worker that hears of
# a migration too early from meeting the files that `migrate` has yet to apply (they may touch the same tables).
_held: dict[str, set[str]] = {}


def make_sql_migration(
    sql_forwards: str,
    sql_backwards: str,
    *,
    apply_on_sqlite: bool = False,
    execute_immediately: bool = False,
    migration_name: str | None = None,
    lock_timeout: timedelta | float | None = None,
    statement_timeout: timedelta | float | None = None,
    max_attempts: int | None = None,
    atomic: bool = True,
    settings: dict[str, str] | None = None,
    guard: str = "report",
    priority: int = 0,
) -> tuple[Operation, Operation]:
    """Return (forwards, backwards) for `migrations.RunPython`: heavy SQL that `migrate` hands over to a worker.

    sql_forwards, sql_backwards: one or more statements; SELECT 1 where there is nothing to do.
    apply_on_sqlite: on SQLite nothing happens unless this is True; then the SQL runs at once, within `migrate`.
    execute_immediately: start as soon as `migrate` is through, even where ALLOW_SCHEDULED_MIGRATIONS makes others wait.
    migration_name: unique for each call; `__name__` in a file with one call.
    lock_timeout: seconds or timedelta that a statement waits for its lock at a time (default 2 s for those that block
        readers or writers, which are then tried again; none for plain reads and writes).
    statement_timeout: seconds or timedelta after which a statement is ended; none by default.
    max_attempts: attempts before a retryable error (lost connection, deadlock) becomes final; default 5.
    atomic: False runs every statement outside of a transaction, for procedures that commit by themselves.
    settings: further parameters of the session, e.g. {"maintenance_work_mem": "2GB"}.
    guard: what to do about sessions that queue behind a build for more than 0.3 s, and so make readers wait: "off",
        "report", or "protect", which cancels them.
    priority: the highest goes first among those in line on a database, -32768 to 32767.

    Raises InvalidDefinition, a ValueError, without a name, for SQL that is empty, cannot be read, or controls
    transactions by itself, and for options out of range.
    """
    name = _checked_name(migration_name)
    for sql in (sql_forwards, sql_backwards):
        _check_sql(sql, atomic)
    options = {
        **_durations(lock_timeout=lock_timeout, statement_timeout=statement_timeout),
        **_numbers(max_attempts, priority),
        **({} if atomic else {"atomic": False}),
        **({"settings": dict(settings)} if settings else {}),
        **_guard(guard),
    }

    def ask(operation: str, schema_editor: BaseDatabaseSchemaEditor) -> None:
        alias = schema_editor.connection.alias
        request = Request(operation, name, alias, sql_forwards, sql_backwards, options)
        if schema_editor.collect_sql:
            _show(request, schema_editor)
        elif schema_editor.connection.vendor == "postgresql":
            _hand_over(request, schema_editor)
        elif schema_editor.connection.vendor != "sqlite":
            raise NotSupportedError(f"async_migrations carries SQL out on PostgreSQL; {alias!r} is another database.")
        elif apply_on_sqlite:
            _carry_out_in_place(request, schema_editor)

    def forwards(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        wait = conf.allow_scheduled_migrations and not execute_immediately
        ask("schedule" if wait else "run", schema_editor)

    def backwards(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        ask("rollback", schema_editor)

    forwards.async_migration = name  # type: ignore[attr-defined]
    return forwards, backwards


def is_async_migration(operation: object) -> bool:
    """Whether a function that RunPython would call was made here."""
    return hasattr(operation, "async_migration")


def after_migrate(using: str, **kwargs: Any) -> None:
    """When `migrate` is through (`post_migrate`): take over what it left in the target, and send the messages."""
    connection = connections[using]
    for key in _held.pop(using, set()):
        session.drop_lock(connection, key)
    if _missing_tables(using) or _missing_tables(conf.control_database):
        return
    if using != conf.control_database:
        lifecycle.collect_requests(using)
    from . import tasks  # Not before: importing it binds the actor to the broker, which other apps may set when ready.

    for pk in lifecycle.in_line(using).filter(dispatched_at=None, attempt=0).values_list("pk", flat=True):
        tasks.send_soon(pk)


def _checked_name(name: str | None) -> str:
    if not name:
        raise InvalidDefinition("make_sql_migration needs an explicit migration_name: pass migration_name=__name__.")
    if len(name) > 255:
        raise InvalidDefinition(f"migration_name has {len(name)} characters; at most 255 can be stored.")
    return name


def _check_sql(sql: str, atomic: bool) -> None:
    if not isinstance(sql, str) or not sql.strip():
        raise InvalidDefinition("make_sql_migration needs SQL for both directions; SELECT 1 does nothing.")
    statements.parse(sql, atomic=atomic)


def _durations(**given: timedelta | float | None) -> dict[str, float]:
    return {key: _seconds(key, value) for key, value in given.items() if value is not None}


def _numbers(max_attempts: int | None, priority: int) -> dict[str, int]:
    if max_attempts is not None and max_attempts < 1:
        raise InvalidDefinition(f"max_attempts is {max_attempts!r}: give at least 1.")
    if not -(2**15) <= priority < 2**15:
        raise InvalidDefinition(f"priority is {priority!r}: give -32768 to 32767.")
    return {key: value for key, value in (("max_attempts", max_attempts), ("priority", priority)) if value}


def _guard(mode: str) -> dict[str, str]:
    modes = [mode.value for mode in Mode]
    if mode not in modes:
        raise InvalidDefinition(f"guard is {mode!r}: say one of {', '.join(modes)}.")
    return {} if mode == Mode.REPORT.value else {"guard": mode}


def _seconds(key: str, value: timedelta | float) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0 < seconds < 2**31 / 1000:  # PostgreSQL keeps it as milliseconds in 32 bits.
        raise InvalidDefinition(f"{key} is {value!r}: give a timedelta or a number of seconds, above 0.")
    return seconds


def _show(request: Request, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Show under `sqlmigrate` what a worker would run."""
    sql = request.sql_backwards if request.operation == "rollback" else request.sql_forwards
    lines = [
        f"-- async migration {request.name}, carried out by a worker:",
        *(f"-- {line}" for line in sql.splitlines()),
    ]
    schema_editor.collected_sql.extend(lines)


def _hand_over(request: Request, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Write the request in the transaction of the migration file: it is there when the file is, and not otherwise."""
    _require_tables(request.database)
    _require_tables(conf.control_database)
    lifecycle.check_request(request)
    if request.operation != "schedule":
        key = advisory_key(request.name)
        session.hold_lock(schema_editor.connection, key)
        _held.setdefault(request.database, set()).add(key)
    if request.database == conf.control_database:
        lifecycle.take_over(request)
    else:
        lifecycle.leave_request(request)


def _carry_out_in_place(request: Request, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Run the SQL within `migrate`, on a database that no worker serves; row and SQL commit together."""
    _require_tables(conf.control_database)
    row = lifecycle.take_over(request if request.operation != "schedule" else _now(request))
    lease = None if row.status != Status.STARTED else lifecycle.claim(row.pk, "migrate")
    if lease is None:
        return
    sql = request.sql_backwards if request.operation == "rollback" else request.sql_forwards
    for statement in statements.parse(sql):
        schema_editor.execute(statement.text, None)
    lifecycle.succeed(lease)


def _now(request: Request) -> Request:
    return Request("run", request.name, request.database, request.sql_forwards, request.sql_backwards, request.options)


def _require_tables(alias: str) -> None:
    if _missing_tables(alias):
        raise TablesMissing(
            f"The tables of async_migrations are not in the database {alias!r} yet. Add this to the migration file, so "
            'that they are made first: dependencies = [..., ("async_migrations", "0001_initial")]'
            + (f" and run `migrate --database={alias} async_migrations`." if alias != "default" else "")
        )


def _missing_tables(alias: str) -> bool:
    wanted = {AsyncMigrationCheckpoint._meta.db_table}
    if alias == conf.control_database:
        wanted.add(AsyncMigrationStatus._meta.db_table)
    return not wanted <= set(connections[alias].introspection.table_names())
