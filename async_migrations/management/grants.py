"""The least that the roles of API, worker and `migrate` need in a database, as SQL for whoever administers it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from async_migrations.conf import conf
from async_migrations.models import AsyncMigrationStatus

# What a row says is to be done: who could write that could have the worker do anything.
_FIXED = frozenset(
    {
        "id",
        "name",
        "database",
        "kind",
        "sql_forwards",
        "sql_backwards",
        "sql_digest",
        "options",
        "outbox_id",
        "created_at",
    }
)
_ALL = "SELECT, INSERT, UPDATE, DELETE"

#: Model to what the roles of API and worker need in the control database.
CONTROL: Mapping[str, tuple[str, str]] = {
    "async_migrations.AsyncMigrationStatus": ("SELECT, UPDATE {columns}", "SELECT, INSERT, UPDATE"),
    "async_migrations.AsyncMigrationEvent": ("SELECT, INSERT", "SELECT, INSERT"),
    "async_migrations.AsyncMigrationSample": ("SELECT", "SELECT, INSERT"),
    "async_migrations.AsyncMigrationHold": ("SELECT, INSERT, UPDATE", "SELECT"),
    # A worker enters what `migrate` asked for in a target.
    "async_migrations.AsyncMigrationAudit": ("SELECT, INSERT", "SELECT, INSERT"),
    # Whoever writes an event writes its deliveries; the workers send them. The admin looks after webhooks.
    "async_migrations.AsyncMigrationWebhook": (_ALL, "SELECT, UPDATE"),
    "async_migrations.AsyncMigrationDelivery": (_ALL, _ALL),
    "async_migrations.AsyncMigrationKey": (_ALL, ""),
    "async_migrations.AsyncMigrationRate": ("SELECT, INSERT, UPDATE", ""),
    "async_migrations.AsyncMigrationTokenScope": ("SELECT", ""),
    # Tokens are made where manage.py runs, as the role of `migrate`. The admin deletes those of a deleted user.
    "knox.AuthToken": ("SELECT, DELETE", ""),
    "auth.Group": (_ALL, ""),
    "auth.Permission": ("SELECT", ""),
    "contenttypes.ContentType": ("SELECT", ""),
    "sessions.Session": (_ALL, ""),
    "admin.LogEntry": ("SELECT, INSERT, DELETE", ""),
}

#: The same in a target.
TARGET: Mapping[str, tuple[str, str]] = {
    "async_migrations.AsyncMigrationCheckpoint": ("SELECT", _ALL),
    "async_migrations.AsyncMigrationLane": ("", _ALL),
    "async_migrations.AsyncMigrationBadRow": ("SELECT", _ALL),
}


@dataclass(frozen=True)
class Roles:
    """Names of PostgreSQL's roles. owner: of the tables that migrations work on, in this database; None: of none."""

    api: str
    worker: str
    migrate: str
    owner: str | None = None


def sql(alias: str, roles: Roles) -> str:
    """Return the statements for one database, which may be repeated and take back what they do not give."""
    return "\n".join(_lines(alias, roles))


def _lines(alias: str, roles: Roles) -> Iterator[str]:
    control = alias == conf.control_database
    database, (api, worker, migrate) = connections[alias].settings_dict["NAME"], _quoted(roles)
    yield f"-- What async_migrations needs in the database {_name(database)} (alias {alias}), and no more."
    yield "-- Apply it behind every `migrate`, as a superuser or as the owner of the database and of its tables."
    yield "BEGIN;"
    yield f"GRANT CONNECT ON DATABASE {_name(database)} TO {api}, {worker}, {migrate};"
    yield f"GRANT USAGE ON SCHEMA public TO {api}, {worker}, {migrate};"
    yield f"GRANT CREATE ON SCHEMA public TO {migrate};"
    for table, of_api, of_worker in _tables(control):
        yield f"REVOKE ALL ON {_name(table)} FROM {api}, {worker};"
        yield from (
            f"GRANT {may} ON {_name(table)} TO {role};" for role, may in ((api, of_api), (worker, of_worker)) if may
        )
    if roles.owner is not None:
        yield "-- Nobody but the owner of a table can build an index of it: the worker may do whatever that role may."
        yield f"GRANT {_name(roles.owner)} TO {worker};"
        yield "-- What an index was asked to be is compared on an empty temporary copy of its table."
        yield f"GRANT TEMPORARY ON DATABASE {_name(database)} TO {worker};"
    yield "COMMIT;"
    if control and roles.owner is None:
        yield "-- For migrations of this database itself the worker has to be the owner of their tables: --owner ROLE."
    yield "-- By a superuser, where the rows are to say what blocks a migration:"
    yield f"--   GRANT pg_read_all_stats TO {api}, {worker};"
    yield f'-- and where guard="protect" is to cancel sessions of others: GRANT pg_signal_backend TO {worker};'
    yield "-- So that the API's preflight asks for the worker's privileges and not for its own, which are none:"
    yield f"--   ASYNC_MIGRATIONS_PREFLIGHT_ROLE={roles.worker}"


def _tables(control: bool) -> Iterator[tuple[str, str, str]]:
    """Yield each table with what API and worker may do with it."""
    models = {**(CONTROL if control else {}), **TARGET}
    for label, (of_api, of_worker) in models.items():
        if label.split(".")[0] in apps.app_configs:
            yield apps.get_model(label)._meta.db_table, of_api.format(columns=_columns()), of_worker
    if control:
        yield MigrationRecorder.Migration._meta.db_table, "SELECT", ""
        # The admin looks after users and groups.
        yield get_user_model()._meta.db_table, _ALL, ""
        for model in (get_user_model(), apps.get_model("auth.Group")):
            for field in model._meta.many_to_many:
                through: Any = field.remote_field.through
                yield through._meta.db_table, _ALL, ""


def _columns() -> str:
    """Return the columns of a migration's row that the verbs write."""
    names = [str(field.column) for field in AsyncMigrationStatus._meta.concrete_fields if field.name not in _FIXED]
    return f"({', '.join(names)})"


def _quoted(roles: Roles) -> tuple[str, str, str]:
    return _name(roles.api), _name(roles.worker), _name(roles.migrate)


def _name(name: str) -> str:
    doubled = str(name).replace('"', '""')
    return f'"{doubled}"'
