"""Fill the new column for every task that is closed; the application does so itself when it closes one."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

# One statement is one transaction: it keeps the rows that it changes locked until it commits. These are the closed
# ones, on which nobody works any more.
sql_forwards = """
UPDATE task
SET total = octet_length(data::text), revision = revision + 1
WHERE closed_at IS NOT NULL
"""

sql_backwards = """
UPDATE task
SET total = NULL, revision = revision - 1
WHERE closed_at IS NOT NULL
"""


class Migration(migrations.Migration):
    dependencies = [
        ("tasks", "0003_task_proj_octlen_idx_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*make_sql_migration(sql_forwards, sql_backwards, migration_name=__name__)),
    ]
