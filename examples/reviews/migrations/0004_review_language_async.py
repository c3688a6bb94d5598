"""Fill the new column for the language of a comment."""

from django.db import migrations

from async_migrations.migration_helpers import make_backfill_migration

fill = make_backfill_migration(
    table="review",
    update="language = CASE WHEN comment ~ '[äöüß]' THEN 'de' ELSE 'en' END",
    where="language IS NULL",
    rollback_update="language = NULL",
    count="exact",
    migration_name=__name__,
)


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0003_review_rating_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*fill),
    ]
