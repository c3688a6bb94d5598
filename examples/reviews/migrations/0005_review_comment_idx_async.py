"""An index for the words of the comments."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

sql_forwards = """
CREATE INDEX CONCURRENTLY review_comment_idx
    ON review USING gin (to_tsvector('english', comment))
"""

sql_backwards = "DROP INDEX CONCURRENTLY IF EXISTS review_comment_idx"


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0004_review_language_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*make_sql_migration(sql_forwards, sql_backwards, migration_name=__name__)),
    ]
