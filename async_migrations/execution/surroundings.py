"""What goes on around the tables of a migration, in the target as it is now; written as `obstacles` is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db.migrations.loader import MigrationLoader

from ..conf import conf
from ..states import Direction
from .findings import INFO, WARNING, Finding
from .look import Look, unseen
from .statements import Effect, Lock

# With what a session may begin that would end a statement early, for the worker's sets each to 0.
_TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")

# What a session goes by, for the worker leaves it as it finds it.
_IN_FORCE = ("maintenance_work_mem", "search_path")
_READ_ONLY = "default_transaction_read_only"
_ON = {"on", "true", "yes", "1"}

_STATISTICS = "Grant pg_read_all_stats to the role of this process, or go without."


def busy(look: Look) -> Iterator[Finding]:
    """Who builds, vacuums or alters the tables."""
    sessions = look.session.all("preflight_busy", tables=list(look.tables.values()), own=look.own)
    if sessions:
        yield Finding(
            "table_busy",
            WARNING,
            "Somebody is building an index on a table of this migration, vacuums it or has locked it.",
            {"sessions": sessions},
            "The migration waits for them. Run it later, or look whether they are stuck.",
        )


def old_transactions(look: Look) -> Iterator[Finding]:
    """Which transactions a build would wait for, or an ALTER TABLE in line would make all others wait for."""
    if all(statement.lock is Lock.ROWS for statement in look.statements):
        return
    tables, seconds = list(look.tables.values()), conf.preflight_old_transaction_seconds
    snapshots = any(statement.effect is Effect.CATALOGUE for statement in look.statements)
    waited_for = look.session.all(
        "preflight_old_transactions", tables=tables, seconds=seconds, snapshots=snapshots, own=look.own
    )
    if waited_for:
        yield Finding(
            "old_transaction",
            WARNING,
            f"Transactions older than {seconds:g} s: {len(waited_for)}; "
            f"the oldest has lasted {waited_for[0]['seconds']} s. "
            "A concurrent build ends only when they have.",
            {"sessions": waited_for, "threshold_seconds": seconds},
            "Let them end, or end them (pg_terminate_backend), or the migration waits until they do.",
        )
    if not look.session.one("throttle_abilities")["reads_statistics"]:
        yield unseen(
            "old_transactions", "the role may not see how old the transactions of others are", hint=_STATISTICS
        )


def prepared_transactions(look: Look) -> Iterator[Finding]:
    """Which prepared transactions have locked the tables."""
    blocking = any(statement.lock is Lock.BLOCKING for statement in look.statements)
    prepared = look.session.all("preflight_prepared", tables=list(look.tables.values()), blocking=blocking)
    if prepared:
        yield Finding(
            "prepared_transaction",
            WARNING,
            f"Prepared transactions that hold locks of a table of this migration: {len(prepared)}.",
            {"transactions": prepared},
            "Nothing ends them by itself: COMMIT PREPARED or ROLLBACK PREPARED them, or the migration waits for ever.",
        )


def replicas(look: Look) -> Iterator[Finding]:
    """Whether a standby is behind already."""
    limit = conf.throttle_replica_lag_seconds
    if limit is None:
        return
    if not look.session.one("throttle_abilities")["reads_statistics"]:
        yield unseen("replicas", "the role may not see how far the standbys are", hint=_STATISTICS)
        return
    behind = look.session.one("throttle_signals", relation="", patience=0)["behind"]
    if (lag := max(behind.values(), default=0.0)) > limit:
        yield Finding(
            "replica_lag",
            WARNING,
            f"A standby is {lag:.1f} s behind; more than {limit:g} s is too much.",
            {"seconds": round(lag, 1), "limit": limit},
            "A backfill waits for it; SQL does not, and makes it worse. Look what keeps the standby.",
        )


def role_settings(look: Look) -> Iterator[Finding]:
    """What the roles that may do the work begin their sessions with, as far as it matters to the work."""
    rows = look.session.all(
        "preflight_settings",
        names=[*_TIMEOUTS, *_IN_FORCE, _READ_ONLY],
        timeouts=list(_TIMEOUTS),
        tables=list(look.tables.values()),
        role=conf.preflight_role,
    )
    if overridden := [row for row in rows if row["name"] in _TIMEOUTS and row["value"] != "0"]:
        message = f"Role, database or server set {_in_words(overridden)}; the worker's session overrides that."
        yield Finding("settings_overridden", INFO, message, {"settings": overridden})
    if in_force := [row for row in rows if row["name"] in _IN_FORCE]:
        message = f"Role or database set {_in_words(in_force)}; the work goes by it, unless the migration sets its own."
        yield Finding("settings_in_force", INFO, message, {"settings": in_force})
    if read_only := [row for row in rows if row["name"] == _READ_ONLY and row["value"].lower() in _ON]:
        yield Finding(
            "read_only",
            WARNING,
            f"Role or database set {_in_words(read_only)}: a worker with such a role is refused every change.",
            {"settings": read_only},
            f"ALTER ROLE ... SET {_READ_ONLY} = off for the role that the workers connect as.",
        )


def _in_words(settings: list[dict[str, Any]]) -> str:
    named = (f"{row['name']} = {row['value']} ({', '.join(row['roles'] or ['all roles'])})" for row in settings)
    return "; ".join(named)


def django_migration(look: Look) -> Iterator[Finding]:
    """Whether the migration file is recorded as applied in the target."""
    if look.direction == Direction.BACKWARDS:
        return
    app, name = _file_of(look.migration.name)
    if not app:
        message = "This process does not know the migration file, so it cannot look whether that is applied."
        yield Finding("migration_unknown", INFO, message, {"name": look.migration.name})
    elif not look.session.one("preflight_applied", app=app, name=name)["applied"]:
        yield Finding(
            "migration_not_applied",
            WARNING,
            f"The migration file {app}.{name} is not recorded as applied in this database.",
            {"app": app, "name": name},
            "Let `migrate` end, or look why it did not.",
        )


def _file_of(dotted: str) -> tuple[str, str]:
    """Return the app's label and the name of the file that a migration comes from; empty where no app has it."""
    for app in apps.get_app_configs():
        package, _ = MigrationLoader.migrations_module(app.label)
        if package and dotted.startswith(f"{package}."):
            # A file with two calls gives each a name of its own, behind the name of the file.
            return app.label, dotted.removeprefix(f"{package}.").split(".")[0]
    return "", ""
