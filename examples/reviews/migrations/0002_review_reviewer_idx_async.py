"""An index for "what has this person said lately"."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

sql_forwards = "CREATE INDEX CONCURRENTLY review_reviewer_idx ON review (reviewer, created_at DESC)"

sql_backwards = "DROP INDEX CONCURRENTLY IF EXISTS review_reviewer_idx"


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0001_initial"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*make_sql_migration(sql_forwards, sql_backwards, migration_name=__name__)),
    ]
