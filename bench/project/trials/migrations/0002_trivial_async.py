"""Statements that do nothing but say when they ran, by the database's clock."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

COUNT = 50


def say_when(number):
    """Return one migration, with a name of its own."""
    return migrations.RunPython(
        *make_sql_migration(
            f"INSERT INTO bench_trial (number, at) VALUES ({number}, clock_timestamp())",
            f"DELETE FROM bench_trial WHERE number = {number}",
            migration_name=f"{__name__}_{number:02}",
        )
    )


class Migration(migrations.Migration):
    dependencies = [("trials", "0001_initial"), ("async_migrations", "0001_initial")]

    operations = [say_when(number) for number in range(COUNT)]
