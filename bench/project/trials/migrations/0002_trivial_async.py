"""As many migrations as the bench runs; one operation, since Django copies the project's whole state for each."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration
from bench.project.trials.statements import COUNT, NAME, say_when

MIGRATIONS = [
    make_sql_migration(
        say_when(number), f"DELETE FROM bench_trial WHERE number = {number}", migration_name=NAME.format(number)
    )
    for number in range(COUNT)
]


def forwards(apps, schema_editor):
    for ask, _ in MIGRATIONS:
        ask(apps, schema_editor)


def backwards(apps, schema_editor):
    for _, ask in MIGRATIONS:
        ask(apps, schema_editor)


def schedule_jobs(apps, schema_editor):
    job_status = apps.get_model("trials", "JobStatus")
    job_status.objects.bulk_create(job_status(name=NAME.format(number), status="SCHEDULED") for number in range(COUNT))


class Migration(migrations.Migration):
    dependencies = [("trials", "0001_initial"), ("async_migrations", "0001_initial")]

    operations = [
        migrations.RunPython(forwards, backwards),
        migrations.RunPython(schedule_jobs, migrations.RunPython.noop),
    ]
