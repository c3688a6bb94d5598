"""Backfills that can be run again and again: a rollback leaves the rows alone, and the bench makes the tables anew."""

from django.db import migrations, models

from async_migrations.migration_helpers import make_backfill_migration
from bench.project.trials.backfills import COPY, DEFAULTS, INCREMENT, NARROW, UNTHROTTLED, UPDATE, WHERE


class Migration(migrations.Migration):
    dependencies = [("trials", "0002_trivial_async"), ("async_migrations", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Copy",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("project_id", models.IntegerField()),
                ("title", models.TextField()),
                ("data", models.JSONField()),
                ("updated_at", models.DateTimeField()),
                ("total", models.IntegerField(null=True)),
            ],
            options={"db_table": COPY, "managed": False},
        ),
        migrations.RunPython(
            *make_backfill_migration(table=COPY, update=UPDATE, where=WHERE, rollback="noop", migration_name=DEFAULTS)
        ),
        migrations.RunPython(
            *make_backfill_migration(
                table=COPY,
                update=UPDATE,
                where=WHERE,
                rollback="noop",
                throttle=False,
                duty_cycle=1,
                migration_name=UNTHROTTLED,
            )
        ),
        migrations.RunPython(
            *make_backfill_migration(table=NARROW, update="n = n + 1", rollback="noop", migration_name=INCREMENT)
        ),
    ]
