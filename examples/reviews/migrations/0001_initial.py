import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("tasks", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Review",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("reviewer", models.CharField(max_length=50)),
                ("comment", models.TextField()),
                ("said", models.CharField(help_text="The rating as it was typed.", max_length=10)),
                ("rating", models.SmallIntegerField(help_text="The same as a number.", null=True)),
                ("language", models.CharField(help_text="Of the comment.", max_length=2, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "task",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        help_text="Nothing in the database holds it yet.",
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="tasks.task",
                    ),
                ),
            ],
            options={
                "db_table": "review",
            },
        ),
    ]
