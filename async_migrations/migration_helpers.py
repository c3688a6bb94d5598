"""What migration files call."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from . import limits
from .conf import conf
from .errors import InvalidDefinition
from .execution import definition, statements
from .execution.guard import Mode
from .execution.window import Window
from .handing_over import hand_over
from .lifecycle import Request
from .requiring import RequireFinished
from .states import Kind

Operation = Callable[[StateApps, BaseDatabaseSchemaEditor], None]

# More than this share the time of a server's cores rather than add to it.
_MOST_LANES = 64


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
    window: str | None = None,
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
    window: times of day in which a statement may begin, e.g. "22:00-06:00 Europe/Berlin"; one under way is not ended.
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
        **_window(window),
    }

    return _operations(
        Request("", name, "", sql_forwards, sql_backwards, options),
        apply_on_sqlite=apply_on_sqlite,
        execute_immediately=execute_immediately,
    )


def make_backfill_migration(
    *,
    migration_name: str | None = None,
    table: str | None = None,
    model: str | None = None,
    update: str | None = None,
    sql: str | None = None,
    process: str | None = None,
    where: str = "",
    rollback_update: str | None = None,
    rollback_sql: str | None = None,
    rollback: str = "refuse",
    key: str | Sequence[str] = (),
    lanes: int = 1,
    batch_size: int | None = None,
    target_batch_seconds: float | None = None,
    batch_delay_seconds: float | None = None,
    duty_cycle: float | None = None,
    max_rows_per_second: float | None = None,
    throttle: bool | Mapping[str, float | None] | None = None,
    window: str | None = None,
    on_bad_row: str = "stop",
    max_bad_rows: int = 0,
    verify: str = "take",
    count: str = "estimate",
    analyze: bool = False,
    lock_timeout: timedelta | float | None = None,
    max_attempts: int | None = None,
    settings: dict[str, str] | None = None,
    priority: int = 0,
    apply_on_sqlite: bool = False,
    execute_immediately: bool = False,
) -> tuple[Operation, Operation]:
    """Return (forwards, backwards) for `migrations.RunPython`: a change of many rows, in batches, that a worker makes.

    migration_name: as for `make_sql_migration`.
    table, model: whose rows are walked: a table's name as SQL, or a model's label, e.g. "tasks.Task".
    update: what stands behind SET in an UPDATE of the table. sql: instead any INSERT, UPDATE, DELETE or MERGE with
        `{batch}` in its WHERE, or `{batch:t}` where the table has the alias t. process: instead of both the dotted path
        of a function that gets the rows of a batch (with `model` a queryset, otherwise a list of dicts) in the batch's
        transaction and may return how many it changed; the worker then needs the project's code.
    where: which rows are meant, as SQL; without it each row up to the last one of the start is visited once.
    rollback_update, rollback_sql: the same for the way back, for all rows. Without them `rollback` says what happens
        then: "refuse", or "noop", which leaves the rows as they are.
    key: columns of a unique B-tree index to walk by, in its order; the primary key by itself. An update that sets one
        of them is refused, unless `where` tells which rows are done.
    lanes: ranges of the key that several workers may carry out at once.
    batch_size: rows of the largest batch (setting, 4,000). target_batch_seconds: that a batch is to take (0.5).
    batch_delay_seconds: rest after each batch (0). duty_cycle: share of the time at work, up to 1 (0.8).
    max_rows_per_second: bound for all lanes together.
    throttle: False does not look at the health of the database; a dict has thresholds that win over the settings.
    window: times of day in which it works, e.g. "22:00-06:00 Europe/Berlin".
    on_bad_row: "stop" ends in ERROR over a row that cannot be changed, "quarantine" sets it aside and goes on; more of
        them than max_bad_rows end in ERROR after all others are done.
    verify: with `where`, what is done at the end about rows that meet it still, written meanwhile: "take" them along,
        "report" them in an event, or "off".
    count: "estimate" the rows from the statistics, or "exact", which reads them all first.
    analyze: ANALYZE the table at the end.
    lock_timeout: seconds or timedelta that a batch waits for a row that others have locked (0.2), before it is tried
        again later.
    max_attempts, settings, priority, apply_on_sqlite, execute_immediately: as for `make_sql_migration`.

    Raises InvalidDefinition, a ValueError, for what cannot be carried out; what only the database can tell, such as a
    table without a key, is refused by `migrate`, or when it starts if there is no such table yet.
    """
    name = _checked_name(migration_name)
    _require_one(table=table, model=model)
    _require_one(update=update, sql=sql, process=process)
    numbers: dict[str, Any] = {
        "batch_size": batch_size,
        "target_batch_seconds": target_batch_seconds,
        "batch_delay_seconds": batch_delay_seconds,
        "duty_cycle": duty_cycle,
        "max_rows_per_second": max_rows_per_second,
        "throttle": dict(throttle) if isinstance(throttle, Mapping) else throttle,
    }
    limits.check(numbers)
    _require_word("on_bad_row", on_bad_row, ("stop", "quarantine"))
    _require_word("verify", verify, ("take", "report", "off"))
    _require_word("count", count, ("estimate", "exact"))
    _require_word("rollback", rollback, ("refuse", "noop"))
    if process and apply_on_sqlite:
        raise InvalidDefinition("apply_on_sqlite carries SQL out; a function is called by workers, on PostgreSQL.")
    if not 1 <= lanes <= _MOST_LANES:
        raise InvalidDefinition(f"lanes is {lanes!r}: give 1 to {_MOST_LANES}.")
    options = {
        **{option: value for option, value in numbers.items() if value is not None},
        **_durations(lock_timeout=lock_timeout),
        **_numbers(max_attempts, priority),
        **_window(window),
        **_given(
            table=table,
            model=model,
            where=where.strip(),
            key=[key] if isinstance(key, str) else list(key),
            update=bool(update),
            rollback_update=bool(rollback_update),
            settings=dict(settings or {}),
            analyze=analyze,
            max_bad_rows=max_bad_rows,
        ),
        **{
            option: value
            for option, value, default in (
                ("lanes", lanes, 1),
                ("on_bad_row", on_bad_row, "stop"),
                ("verify", verify, "take"),
                ("count", count, "estimate"),
            )
            if value != default
        },
    }

    def texts(relation: str) -> tuple[str, str]:
        forwards = (
            definition.process_text(process)
            if process
            else sql or definition.update_text(relation, update or "", where.strip())
        )
        backwards = rollback_sql or (definition.update_text(relation, rollback_update) if rollback_update else "")
        return forwards, backwards or (definition.NOOP if rollback == "noop" else "")

    for text in texts(table or "x"):
        if text and text != definition.NOOP and not text.startswith(definition.PROCESS):
            definition.check_text(text)

    def request(apps: StateApps) -> Request:
        relation = table or _table_of(apps, model or "")
        return Request("", name, "", *texts(relation), {**options, "table": relation}, Kind.BACKFILL.value)

    return _operations(request, apply_on_sqlite=apply_on_sqlite, execute_immediately=execute_immediately)


def _operations(
    wanted: Request | Callable[[StateApps], Request], *, apply_on_sqlite: bool, execute_immediately: bool
) -> tuple[Operation, Operation]:
    """Return the two functions for RunPython. wanted: what is asked for, but for operation and database."""

    def ask(operation: str, apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        base = wanted if isinstance(wanted, Request) else wanted(apps)
        request = replace(base, operation=operation, database=schema_editor.connection.alias, id=str(uuid.uuid4()))
        hand_over(request, schema_editor, apply_on_sqlite=apply_on_sqlite)

    def forwards(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        wait = conf.allow_scheduled_migrations and not execute_immediately
        ask("schedule" if wait else "run", apps, schema_editor)

    def backwards(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        ask("rollback", apps, schema_editor)

    # For those who read files without applying them. A backfill drops and renames nothing.
    forwards.async_migration = wanted.sql_forwards if isinstance(wanted, Request) else ""  # type: ignore[attr-defined]
    return forwards, backwards


def require_finished(*names: str, wait: timedelta | float = 0) -> RequireFinished:
    """Return an operation for a later migration file: `migrate` stops at it until these migrations are FINISHED.

    On the database that is being migrated; backwards, and on SQLite, it does nothing. Put it first in its file.

    names: of the migrations, as `migration_name` gave them.
    wait: seconds or timedelta that `migrate` waits for what is not FINISHED yet, before it stops with an error that
        says what to do. Where ALLOW_SCHEDULED_MIGRATIONS is off, what is in line is carried out by `migrate` itself.

    Raises InvalidDefinition, a ValueError, without a name or for a time below 0.
    """
    seconds = _in_seconds("wait", wait)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InvalidDefinition("require_finished needs the names of the migrations that have to be FINISHED.")
    if not 0 <= seconds < float("inf"):
        raise InvalidDefinition(f"wait is {wait!r}: give a timedelta or a number of seconds, 0 or more.")
    return RequireFinished(list(names), seconds)


def is_async_migration(operation: object) -> bool:
    """Whether a function that RunPython would call was made here."""
    return hasattr(operation, "async_migration")


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


def _window(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    Window.parse(text)
    return {"window": text}


def _in_seconds(key: str, value: timedelta | float) -> float:
    try:
        return value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError) as exc:
        raise InvalidDefinition(f"{key} is {value!r}: give a timedelta or a number of seconds.") from exc


def _seconds(key: str, value: timedelta | float) -> float:
    seconds = _in_seconds(key, value)
    if not 0 < seconds < 2**31 / 1000:  # PostgreSQL keeps it as milliseconds in 32 bits.
        raise InvalidDefinition(f"{key} is {value!r}: give a timedelta or a number of seconds, above 0.")
    return seconds


def _require_one(**given: str | None) -> None:
    named = [name for name, value in given.items() if value]
    if len(named) != 1:
        instead = f"here are {' and '.join(named)}" if named else "here is none"
        raise InvalidDefinition(f"make_backfill_migration takes one of {', '.join(given)}; {instead}.")


def _require_word(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise InvalidDefinition(f"{name} is {value!r}: say one of {', '.join(words)}.")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def _table_of(apps: StateApps, label: str) -> str:
    try:
        table: str = apps.get_model(label)._meta.db_table
    except (LookupError, ValueError) as exc:
        raise InvalidDefinition(
            f"There is no model {label!r} at this point of the migrations; name the migration that makes it in "
            "dependencies."
        ) from exc
    return table if table.startswith('"') else '"' + table.replace('"', '""') + '"'
