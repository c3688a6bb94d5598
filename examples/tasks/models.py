"""Tasks of annotation projects: a table of many rows with a JSON document in each."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Project(models.Model):
    """What tasks belong to."""

    name = models.CharField(max_length=200)

    class Meta:
        db_table = "project"

    def __str__(self) -> str:
        return self.name


class Task(models.Model):
    """One document to be annotated."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tasks")
    number = models.PositiveIntegerField(help_text="Counts within the project; nothing keeps it unique yet.")
    title = models.CharField(max_length=200)
    data = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    closed_at = models.DateTimeField(null=True, blank=True, help_text="Nobody works on it any more.")
    total = models.PositiveIntegerField(null=True, help_text="Size of the document in bytes.")
    revision = models.PositiveIntegerField(default=0, help_text="How often total was computed.")
    checksum = models.CharField(max_length=32, null=True, help_text="MD5 of the document.")  # noqa: DJ001
    checked = models.PositiveIntegerField(default=0, help_text="How often checksum was computed.")

    class Meta:
        db_table = "task"
        ordering: ClassVar = ["id"]

    def __str__(self) -> str:
        return self.title
