"""Ratings become numbers. What somebody typed that is none is set aside, for a person to look at."""

from django.db import migrations

from async_migrations.migration_helpers import make_backfill_migration

fill = make_backfill_migration(
    table="review",
    update="rating = said::smallint",
    where="rating IS NULL",
    rollback_update="rating = NULL",
    on_bad_row="quarantine",
    max_bad_rows=10,
    migration_name=__name__,
)


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0002_review_reviewer_idx_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*fill),
    ]
