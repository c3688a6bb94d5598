"""Fill the new checksum of every task, batch by batch, while people work on the open ones."""

from django.db import migrations

from async_migrations.migration_helpers import make_backfill_migration

# A batch keeps its rows locked until it commits. Somebody who writes one of them waits for about a twentieth of a
# second at most, and not for the end of it all.
fill = make_backfill_migration(
    table="task",
    update="checksum = md5(data::text), checked = checked + 1",
    where="checksum IS NULL",
    rollback_update="checksum = NULL, checked = 0",
    target_batch_seconds=0.05,
    count="exact",
    migration_name=__name__,
)


class Migration(migrations.Migration):
    dependencies = [
        ("tasks", "0005_task_number_uniq_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*fill),
    ]
