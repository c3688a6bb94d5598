"""Have the database hold the tasks of reviews: at once for new rows, then looked up for those that are there."""

from django.db import migrations

from async_migrations.migration_helpers import make_sql_migration

sql_forwards = """
ALTER TABLE review ADD CONSTRAINT review_task_fk FOREIGN KEY (task_id) REFERENCES task (id) NOT VALID;
ALTER TABLE review VALIDATE CONSTRAINT review_task_fk
"""

sql_backwards = "ALTER TABLE review DROP CONSTRAINT IF EXISTS review_task_fk"


class Migration(migrations.Migration):
    dependencies = [
        ("reviews", "0005_review_comment_idx_async"),
        ("async_migrations", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(*make_sql_migration(sql_forwards, sql_backwards, migration_name=__name__)),
    ]
