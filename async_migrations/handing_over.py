"""How a migration file hands a request over: within `migrate`, in the transaction of the file."""

from __future__ import annotations

from typing import Any

from django.db import NotSupportedError, connections
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from . import lifecycle
from .conf import conf
from .errors import TablesMissing
from .execution import definition, fitting, session, statements
from .execution.attempt import advisory_key
from .lifecycle import Request
from .models import AsyncMigrationCheckpoint, AsyncMigrationStatus
from .states import Kind

# The advisory locks that this process holds until its `migrate` is through, by alias. They keep a worker that hears of
# a migration too early from meeting the files that `migrate` has yet to apply (they may touch the same tables).
_held: dict[str, set[str]] = {}


def hand_over(request: Request, schema_editor: BaseDatabaseSchemaEditor, *, apply_on_sqlite: bool) -> None:
    """Do with a request what the database calls for: leave it to a worker, show it, or carry it out in place.

    Raises TablesMissing, TransitionRefused, and Django's NotSupportedError for other databases.
    """
    vendor = schema_editor.connection.vendor
    if schema_editor.collect_sql:
        _show(request, schema_editor)
    elif vendor == "postgresql":
        _leave_to_worker(request, schema_editor)
    elif vendor != "sqlite":
        raise NotSupportedError(
            f"async_migrations carries SQL out on PostgreSQL; {request.database!r} is another database."
        )
    elif apply_on_sqlite:
        _carry_out_in_place(request, schema_editor)


def let_go(using: str) -> None:
    """Let what this `migrate` has handed over so far begin before it is through. Raises TablesMissing.

    Everything, not only what is needed: what is first in line on a database is carried out first.
    """
    require_tables(using)
    require_tables(conf.control_database)
    for key in _held.pop(using, set()):
        session.drop_lock(connections[using], key)


def collect(using: str) -> None:
    """Take over what this `migrate` left in the target, and send the messages."""
    if using != conf.control_database:
        lifecycle.collect_requests(using)
    from . import tasks  # Not before: importing it binds the actor to the broker, which other apps may set when ready.

    for pk in lifecycle.in_line(using).filter(dispatched_at=None, attempt=0).values_list("pk", flat=True):
        tasks.send_soon(pk)


def after_migrate(using: str, **kwargs: Any) -> None:
    """When `migrate` is through (`post_migrate`): take over what it left in the target, and send the messages."""
    connection = connections[using]
    for key in _held.pop(using, set()):
        session.drop_lock(connection, key)
    if not (_missing_tables(using) or _missing_tables(conf.control_database)):
        collect(using)


def _show(request: Request, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Show under `sqlmigrate` what a worker would run."""
    sql = request.sql_backwards if request.operation == "rollback" else request.sql_forwards
    lines = [
        f"-- async migration {request.name}, carried out by a worker:",
        *(f"-- {line}" for line in sql.splitlines()),
    ]
    schema_editor.collected_sql.extend(lines)


def _leave_to_worker(request: Request, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Write the request in the transaction of the migration file: it is there when the file is, and not otherwise."""
    require_tables(request.database)
    require_tables(conf.control_database)
    lifecycle.check_request(request)
    if request.kind == Kind.BACKFILL:
        fitting.check(session.Shared(schema_editor.connection), request)
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
    require_tables(conf.control_database)
    lifecycle.check_request(request)
    text = request.sql_backwards if request.operation == "rollback" else request.sql_forwards
    if not lifecycle.write_done(request) or text == definition.NOOP:
        return
    for statement in statements.parse(definition.whole(text)):
        schema_editor.execute(statement.text, None)


def require_tables(alias: str) -> None:
    """Raise TablesMissing where the tables of this app are not in a database yet."""
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
