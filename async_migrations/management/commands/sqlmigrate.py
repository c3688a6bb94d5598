"""Django's `sqlmigrate`, which also shows the SQL that a migration file hands over to a worker."""

from __future__ import annotations

from typing import Any

from django.core.management.commands import sqlmigrate
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import RunPython

from ...migration_helpers import is_async_migration


class _Loader(MigrationLoader):
    def collect_sql(self, plan: Any) -> list[str]:
        """Let our operations speak: under `sqlmigrate` Django passes over every RunPython without calling it."""
        for migration, _ in plan:
            for operation in migration.operations:
                if isinstance(operation, RunPython) and is_async_migration(operation.code):
                    operation.reduces_to_sql = True  # type: ignore[misc]
        return super().collect_sql(plan)


class Command(sqlmigrate.Command):
    def handle(self, *args: Any, **options: Any) -> str | None:
        """Run Django's command with the loader above in place of its own."""
        sqlmigrate.MigrationLoader = _Loader  # type: ignore[attr-defined]
        try:
            return super().handle(*args, **options)
        finally:
            sqlmigrate.MigrationLoader = MigrationLoader  # type: ignore[attr-defined]
