"""An index that nobody needs once ratings are numbers."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

sql_forwards = "CREATE INDEX CONCURRENTLY review_said_idx ON review (said)"

sql_backwards = "DROP INDEX CONCURRENTLY IF EXISTS review_said_idx"


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0006_review_task_fk_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*make_sql_migration(sql_forwards, sql_backwards, migration_name=__name__)),
    ]
