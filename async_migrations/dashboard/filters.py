"""What the list can be narrowed down to, in the words of the HTTP API, and by what only people ask for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any

import django_filters  # type: ignore[import-untyped]
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import QueryDict

from ..rest.filters import MigrationFilter

# What the form of the list has a field for, and what a link may say besides without narrowing anything down.
_FIELDS = ("search", "status", "database", "kind", "age")
_NOT_SHOWN = ("ordering", "page")
_AGES = {"1": "the last 24 hours", "7": "the last 7 days", "30": "the last 30 days"}


class PageFilter(MigrationFilter):
    """The filters of the API, `age` in days, so that a link says the same tomorrow, and what has rows set aside.

    What is empty is left out: a form that is sent has all its fields.
    """

    age = django_filters.ChoiceFilter(choices=list(_AGES.items()), method="since")
    set_aside = django_filters.ChoiceFilter(choices=[("yes", "yes")], method="with_rows_set_aside")

    def __init__(self, data: QueryDict, *args: Any, **options: Any) -> None:
        said = QueryDict(mutable=True)
        for name, values in data.lists():
            if given := [value for value in values if value]:
                said.setlist(name, given)
        super().__init__(said, *args, **options)

    def since(self, rows: QuerySet[Any], name: str, days: str) -> QuerySet[Any]:
        """Keep what was recorded in the last days."""
        return rows.filter(created_at__gte=Now() - timedelta(days=int(days)))

    def with_rows_set_aside(self, rows: QuerySet[Any], name: str, value: str) -> QuerySet[Any]:
        """Keep the backfills that have left out rows."""
        return rows.filter(quarantined__gt=0)


@dataclass(frozen=True)
class Chip:
    """A filter that the form has no field for. without: the address without it. known: whether there is such a one."""

    name: str
    value: str
    without: str
    known: bool

    @property
    def label(self) -> str:
        """Its name in words."""
        return self.name.replace("_", " ").capitalize()


def kept(asked: QueryDict) -> list[tuple[str, str]]:
    """Return what the form of the list sends along, besides its fields."""
    return [("ordering", value) for value in asked.getlist("ordering") if value] + [
        (chip.name, chip.value) for chip in chips(asked)
    ]


def chips(asked: QueryDict) -> list[Chip]:
    """Return the filters of an address that the form would lose; a field of it takes one value."""
    return [_chip(asked, name, value) for name, value in _given(asked) if not _fits(asked, name)]


def _given(asked: QueryDict) -> list[tuple[str, str]]:
    pairs = chain.from_iterable([(name, value) for value in values] for name, values in asked.lists())
    return [(name, value) for name, value in dict.fromkeys(pairs) if value and name not in _NOT_SHOWN]


def _fits(asked: QueryDict, name: str) -> bool:
    """Whether the field of the form has it all: of several statuses each counts, of all else the last one alone."""
    return name in _FIELDS and (name != "status" or len(set(filter(None, asked.getlist(name)))) < 2)


def _chip(asked: QueryDict, name: str, value: str) -> Chip:
    others = asked.copy()
    others.setlist(name, [other for other in asked.getlist(name) if other != value])
    others.pop("page", None)
    return Chip(name, value, f"?{others.urlencode()}", name in PageFilter.base_filters)
