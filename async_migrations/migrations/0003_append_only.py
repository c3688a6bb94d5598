"""What PostgreSQL holds about the audit entries and the events, whatever a program tries: they are only added to."""

from __future__ import annotations

from typing import Any

from django.core import mail
from django.db import migrations, router

AUDIT = "async_migrations_asyncmigrationaudit"
EVENT = "async_migrations_asyncmigrationevent"

# An entry goes by `manage.py async_migrations audit --prune` alone, and only when it is old enough.
AUDIT_FUNCTION = """
CREATE FUNCTION async_migrations_keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF current_setting('async_migrations.prune', true) = 'on'
            AND OLD.at < statement_timestamp() - interval '30 days'
        THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION '% on % refused: audit entries are only added', TG_OP, TG_TABLE_NAME USING
        ERRCODE = 'insufficient_privilege',
        HINT = 'manage.py async_migrations audit --prune --older-than 365d removes what is old.';
END
$$
"""

# An event goes with its migration: at the end of the transaction that one has to be gone as well.
EVENT_FUNCTION = """
CREATE FUNCTION async_migrations_keep_events() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kept boolean := true;
BEGIN
    IF TG_OP = 'DELETE' THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.async_migrations_asyncmigrationstatus WHERE id = $1)',
                       TG_TABLE_SCHEMA) INTO kept USING OLD.migration_id;
    END IF;
    IF kept THEN
        RAISE EXCEPTION '% on % refused: events are only added', TG_OP, TG_TABLE_NAME USING
            ERRCODE = 'insufficient_privilege',
            HINT = 'An event goes only together with its migration.';
    END IF;
    RETURN NULL;
END
$$
"""

TRIGGERS = (
    f"CREATE TRIGGER async_migrations_keep_audit BEFORE UPDATE OR DELETE ON {AUDIT} "
    "FOR EACH ROW EXECUTE FUNCTION async_migrations_keep_audit()",
    f"CREATE TRIGGER async_migrations_keep_events BEFORE UPDATE ON {EVENT} "
    "FOR EACH ROW EXECUTE FUNCTION async_migrations_keep_events()",
    f"CREATE CONSTRAINT TRIGGER async_migrations_keep_deleted_events AFTER DELETE ON {EVENT} "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION async_migrations_keep_events()",
)
AGAINST_TRUNCATE = (
    f"CREATE TRIGGER async_migrations_keep_all_audit BEFORE TRUNCATE ON {AUDIT} "
    "FOR EACH STATEMENT EXECUTE FUNCTION async_migrations_keep_audit()",
    f"CREATE TRIGGER async_migrations_keep_all_events BEFORE TRUNCATE ON {EVENT} "
    "FOR EACH STATEMENT EXECUTE FUNCTION async_migrations_keep_events()",
)
DROP = (
    "DROP FUNCTION IF EXISTS async_migrations_keep_audit() CASCADE",
    "DROP FUNCTION IF EXISTS async_migrations_keep_events() CASCADE",
)


def protect(apps: Any, schema_editor: Any) -> None:
    if not _tables_live_here(apps, schema_editor.connection):
        return
    for statement in (AUDIT_FUNCTION, EVENT_FUNCTION, *TRIGGERS):
        schema_editor.execute(statement, params=None)
    if not _under_test():
        for statement in AGAINST_TRUNCATE:
            schema_editor.execute(statement, params=None)


def release(apps: Any, schema_editor: Any) -> None:
    if _tables_live_here(apps, schema_editor.connection):
        for statement in DROP:
            schema_editor.execute(statement, params=None)


def _tables_live_here(apps: Any, connection: Any) -> bool:
    model = apps.get_model("async_migrations", "AsyncMigrationAudit")
    return connection.vendor == "postgresql" and router.allow_migrate_model(connection.alias, model)


def _under_test() -> bool:
    """Whether Django's test runner, or pytest's, has set this process up.

    Every TransactionTestCase of every project ends with a TRUNCATE of all tables; databases made for tests allow that.
    """
    return hasattr(mail, "outbox")


class Migration(migrations.Migration):
    dependencies = [("async_migrations", "0002_groups")]

    operations = [migrations.RunPython(protect, release, elidable=False)]
