"""Pages of a list: `page` and `page_size`, nonsense refused instead of ignored."""

from __future__ import annotations

from typing import Any, cast

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request

PARAMETERS = frozenset({"page", "page_size"})


class ByKey(Paginator):  # type: ignore[type-arg]  # it cannot be, before Django is patched
    """Finds out first whose page it is, which an index says by itself, and reads those rows alone.

    Else what is not in the order of an index would be sorted by reading all rows in full. All of them by id are.
    """

    def page(self, number: int | str) -> Page[Any]:
        page, rows = super().page(number), cast("QuerySet[Any]", self.object_list)
        if not rows.query.where and rows.query.order_by[0] in {"id", "-id"}:
            return page
        page.object_list = rows.filter(pk__in=cast("QuerySet[Any]", page.object_list).values("pk"))
        return page


class Pages(PageNumberPagination):
    page_size = 50
    max_page_size = 500
    max_page = 2**31 - 1
    page_query_param = "page"
    page_query_description = "Number of the page, from 1."
    page_size_query_param = "page_size"
    page_size_query_description = f"Results per page, 1 to {max_page_size}; default {page_size}."
    last_page_strings = ()

    def get_page_size(self, request: Request) -> int:
        return _count(request, "page_size", self.page_size, self.max_page_size)

    def get_page_number(self, request: Request, paginator: Any) -> int:
        number = _count(request, "page", 1, self.max_page)
        if number > paginator.num_pages:
            raise NotFound(f"There is no page {number}; the last one is {paginator.num_pages}.")
        return number

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return REST framework's description of a page, with addresses of ours as examples."""
        page: dict[str, Any] = super().get_paginated_response_schema(schema)
        for name, number in (("next", 4), ("previous", 2)):
            page["properties"][name]["example"] = f"https://migrations.example.com/api/async-migrations?page={number}"
        return page

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return REST framework's description of the parameters, with the limits that hold."""
        limits = {
            "page": {"minimum": 1, "maximum": self.max_page},
            "page_size": {"minimum": 1, "maximum": self.max_page_size, "default": 50},
        }
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        return [{**each, "schema": {**each["schema"], **limits[each["name"]]}} for each in parameters]


def _count(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    # `isdecimal` accepts other scripts' digits; more than 18 digits is no page, and int() refuses very many.
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else 0
    if not 1 <= number <= most:
        raise ValidationError({name: [f"This is no whole number from 1 to {most}."]})
    return number


class MigrationPages(Pages):
    django_paginator_class = ByKey
