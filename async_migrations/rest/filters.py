"""Query parameters: which there are, and that every other one is refused.

A parameter that is ignored is a trap: `?name=` with an empty variable in a script would give every migration there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import django_filters  # type: ignore[import-untyped]
from django import forms
from django.db.models import QuerySet
from django.http import QueryDict
from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import extend_schema_field
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from ..lifecycle.gate import prefix_of_app
from ..models import AsyncMigrationStatus
from ..states import Kind, Status

#: How the document describes a text that `refuse_unknown` lets pass, and that PostgreSQL can hold.
TEXT = {"type": "string", "minLength": 1, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}

ORDERABLE = ("id", "created_at", "updated_at", "name", "status")


def parse_aware(text: object) -> datetime:
    """Read an ISO 8601 time with its offset, as UTC; ValueError with a reason for anything else."""
    # Python's parser stops at a NUL character and says nothing of what follows.
    readable = isinstance(text, str) and text.isascii() and text.isprintable()
    try:
        parsed = parse_datetime(str(text)) if readable else None
        if parsed is not None and parsed.tzinfo is not None:
            return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        parsed = None
    if parsed is not None:
        raise ValueError("The time has no offset. Write it like 2026-11-22T10:30:00Z or 2026-11-22T10:30:00+01:00.")
    raise ValueError("This is no ISO 8601 time. Write it like 2026-11-22T10:30:00Z; in a URL a + is written %2B.")


class AwareTimeField(forms.Field):
    def to_python(self, value: Any) -> datetime | None:
        if not value:
            return None
        try:
            return parse_aware(value)
        except ValueError as exc:
            raise forms.ValidationError("%(reason)s", "invalid", {"reason": str(exc)}) from exc


class AwareTimeFilter(django_filters.IsoDateTimeFilter):  # type: ignore[misc]
    field_class = AwareTimeField


class StableOrdering(django_filters.OrderingFilter):  # type: ignore[misc]
    """Order as asked, then by id, so that no row is on two pages or on none."""

    def filter(self, qs: QuerySet[Any], value: Any) -> QuerySet[Any]:
        ordered: QuerySet[Any] = super().filter(qs, value)
        return ordered.order_by(*ordered.query.order_by, "-id") if value else ordered


def _text(description: str, **options: Any) -> django_filters.CharFilter:
    """Return a filter by a text that is not empty, see `refuse_unknown`."""
    return extend_schema_field({**TEXT, "description": description})(django_filters.CharFilter(**options))


class MigrationFilter(django_filters.FilterSet):  # type: ignore[misc]
    # distinct would compare all columns of all rows, the SQL included, to remove duplicates that cannot be.
    status = django_filters.MultipleChoiceFilter(
        choices=Status.choices, distinct=False, help_text="One of these; repeat the parameter for several."
    )
    name = _text("Exactly this name.")
    search = _text("Part of the name, in any case.", field_name="name", lookup_expr="icontains")
    database = _text("Django alias of the target.")
    app = _text("Those of the Django app with this label.", method="of_app")
    kind = django_filters.ChoiceFilter(choices=Kind.choices, help_text="Kind of work.")
    created_after = AwareTimeFilter("created_at", "gte", help_text="Recorded at this time or later.")
    created_before = AwareTimeFilter("created_at", "lt", help_text="Recorded before this time.")
    ordering = StableOrdering(
        fields=[(name, name) for name in ORDERABLE], help_text="Repeat it or use commas; `-` for descending."
    )

    class Meta:
        model = AsyncMigrationStatus
        fields: tuple[str, ...] = ()

    def of_app(self, queryset: QuerySet[Any], name: str, label: str) -> QuerySet[Any]:
        """Return the migrations whose files an app has."""
        return queryset.filter(name__startswith=prefix_of_app(label))

    def __init__(self, data: QueryDict | None = None, *args: Any, **options: Any) -> None:
        # Generated clients repeat a parameter that is a list, people write commas.
        if data and len(keys := data.getlist("ordering")) > 1:
            data = data.copy()
            data["ordering"] = ",".join(keys)
        super().__init__(data, *args, **options)


def refuse_unknown(request: Request, known: Iterable[str], repeatable: Iterable[str] = ()) -> None:
    """Raise ValidationError that names every query parameter that is unknown, empty, no text, or given twice."""
    errors = {}
    for name, values in request.query_params.lists():
        if name not in known:
            offered = ", ".join(sorted(known)) or "none"
            errors[name] = [f"There is no such query parameter here. There are: {offered}."]
        elif not all(value.strip() for value in values):
            errors[name] = ["The value is empty. Leave the parameter out, or say what is meant."]
        elif any("\0" in value for value in values):
            errors[name] = ["The value has a NUL character in it, which no text here can have."]
        elif len(values) > 1 and name not in repeatable:
            errors[name] = ["This parameter is given more than once."]
    if errors:
        raise ValidationError(errors)
