"""What RQ calls in the original's way of doing it."""

from __future__ import annotations

from django.db import connection

from .models import JobStatus


def execute_sql_job(*, migration_name: str, sql: str) -> None:
    """Carry the SQL out over Django's connection; a status before and one behind is all that is kept of it."""
    job = JobStatus.objects.get(name=migration_name)
    job.status = "IN PROGRESS"
    job.save()
    with connection.cursor() as cursor:
        cursor.execute(sql)
    job.status = "FINISHED"
    job.save()
