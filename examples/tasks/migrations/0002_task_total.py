from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tasks", "0001_initial")]

    # Columns that may be NULL or have a constant default: the database adds them without rewriting the table.
    operations = [
        migrations.AddField(
            model_name="task",
            name="total",
            field=models.PositiveIntegerField(help_text="Size of the document in bytes.", null=True),
        ),
        migrations.AddField(
            model_name="task",
            name="revision",
            field=models.PositiveIntegerField(default=0, help_text="How often total was computed."),
        ),
        migrations.AddField(
            model_name="task",
            name="checksum",
            field=models.CharField(help_text="MD5 of the document.", max_length=32, null=True),
        ),
        migrations.AddField(
            model_name="task",
            name="checked",
            field=models.PositiveIntegerField(default=0, help_text="How often checksum was computed."),
        ),
    ]
