from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.RunSQL(
            "CREATE TABLE bench_trial (number int NOT NULL, at timestamptz NOT NULL)", "DROP TABLE bench_trial"
        ),
        migrations.CreateModel(
            name="JobStatus",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=255, unique=True)),
                ("status", models.CharField(max_length=16)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={"db_table": "bench_job_status"},
        ),
    ]
