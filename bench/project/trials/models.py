"""The row in which a job of the original's kind says how far it is, and the row that a naive loop changes."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from .backfills import COPY


class JobStatus(models.Model):
    """One job: what the original keeps of one, and no more."""

    name = models.CharField(max_length=255, unique=True)
    status = models.CharField(max_length=16)
    updated_at = models.DateTimeField(auto_now=True)

    # The app is not among the type checker's, so this is not found by itself.
    objects: ClassVar[models.Manager[JobStatus]] = models.Manager()

    class Meta:
        db_table = "bench_job_status"

    def __str__(self) -> str:
        return f"{self.name}: {self.status}"


class Copy(models.Model):
    """One row of the table that is backfilled; the bench makes the table."""

    project_id = models.IntegerField()
    title = models.TextField()
    data = models.JSONField()
    updated_at = models.DateTimeField()
    total = models.IntegerField(null=True)

    objects: ClassVar[models.Manager[Copy]] = models.Manager()

    class Meta:
        db_table = COPY
        managed = False

    def __str__(self) -> str:
        return self.title
