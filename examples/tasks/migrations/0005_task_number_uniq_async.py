"""Keep a task's number unique within its project. Rows that have the same one make it fail, and name themselves."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

sql_forwards = "CREATE UNIQUE INDEX CONCURRENTLY task_project_number_uniq ON task (project_id, number)"

sql_backwards = "DROP INDEX CONCURRENTLY IF EXISTS task_project_number_uniq"


class Migration(migrations.Migration):
    dependencies = [
        ("tasks", "0004_task_total_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*make_sql_migration(sql_forwards, sql_backwards, migration_name=__name__)),
    ]
