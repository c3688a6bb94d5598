"""Reviews of tasks: a table that grew before anybody thought of its indexes and constraints."""

from __future__ import annotations

from django.db import models


class Review(models.Model):
    """What one person said of a task."""

    task = models.ForeignKey(
        "tasks.Task",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        help_text="Nothing in the database holds it yet.",
    )
    reviewer = models.CharField(max_length=50)
    comment = models.TextField()
    said = models.CharField(max_length=10, help_text="The rating as it was typed.")
    rating = models.SmallIntegerField(null=True, help_text="The same as a number.")
    language = models.CharField(max_length=2, null=True, help_text="Of the comment.")  # noqa: DJ001
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "review"

    def __str__(self) -> str:
        return f"{self.reviewer}: {self.said}"
