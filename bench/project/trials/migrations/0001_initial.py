from django.db import migrations


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.RunSQL(
            "CREATE TABLE bench_trial (number int NOT NULL, at timestamptz NOT NULL)", "DROP TABLE bench_trial"
        ),
    ]
