"""What the list can be narrowed down to, in the words of the HTTP API, and by age."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import django_filters  # type: ignore[import-untyped]
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import QueryDict

from ..rest.filters import MigrationFilter

_AGES = {"1": "the last 24 hours", "7": "the last 7 days", "30": "the last 30 days"}


class PageFilter(MigrationFilter):
    """The filters of the API, and `age` in days, so that a link says the same tomorrow.

    What is empty is left out: a form that is sent has all its fields.
    """

    age = django_filters.ChoiceFilter(choices=list(_AGES.items()), method="since")

    def __init__(self, data: QueryDict, *args: Any, **options: Any) -> None:
        said = QueryDict(mutable=True)
        for name, values in data.lists():
            if given := [value for value in values if value]:
                said.setlist(name, given)
        super().__init__(said, *args, **options)

    def since(self, rows: QuerySet[Any], name: str, days: str) -> QuerySet[Any]:
        """Keep what was recorded in the last days."""
        return rows.filter(created_at__gte=Now() - timedelta(days=int(days)))
