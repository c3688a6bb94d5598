"""Let nobody review a task twice."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

sql_forwards = "CREATE UNIQUE INDEX CONCURRENTLY review_once_uniq ON review (task_id, reviewer)"

sql_backwards = "DROP INDEX CONCURRENTLY IF EXISTS review_once_uniq"


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0007_review_said_idx_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*make_sql_migration(sql_forwards, sql_backwards, migration_name=__name__)),
    ]
