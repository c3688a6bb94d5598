"""An index for "the largest tasks of a project first", built while the application goes on."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

sql_forwards = """
CREATE INDEX CONCURRENTLY task_proj_octlen_idx
    ON task (project_id, octet_length(data::text) DESC) INCLUDE (id)
"""

sql_backwards = "DROP INDEX CONCURRENTLY IF EXISTS task_proj_octlen_idx"


class Migration(migrations.Migration):
    # No `atomic = False`: `migrate` only records what is to be done, and that belongs in the file's transaction.
    dependencies = [
        ("tasks", "0002_task_total"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*make_sql_migration(sql_forwards, sql_backwards, migration_name=__name__)),
    ]
