"""The doors that ask for the same of many migrations: each is its own transition, and has its own answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.http import QueryDict
from drf_spectacular.utils import OpenApiExample
from rest_framework.request import Request
from rest_framework.response import Response

from .. import lifecycle
from ..asking import MOST, OUTCOMES, Item, ask_each
from ..models import AsyncMigrationStatus
from . import examples, permissions, schema
from .answers import BulkSerializer
from .bodies import BulkBody
from .door import Door
from .filters import MigrationFilter
from .problems import problem_of
from .refusals import TooManyItems
from .scopes import scope_of


class BulkDoor(Door):
    http_method_names = ["post"]
    scoped_by = "door"

    def answer(self, request: Request) -> Response:
        body = BulkBody(data=request.data)
        body.is_valid(raise_exception=True)
        dry_run = body.validated_data["dry_run"]
        rows = scope_of(request).among(lifecycle.rows())
        chosen = _chosen(body.validated_data, rows)
        items = ask_each(self.actions["POST"], chosen, self.origin, among=rows, dry_run=dry_run)
        counts = Counter(item.outcome for item in items)
        answer = {
            "dry_run": dry_run,
            "counts": {outcome: counts[outcome] for outcome in OUTCOMES},
            "items": [_as_dict(item) for item in items],
        }
        return Response(BulkSerializer(answer).data)


def _chosen(asked: dict[str, Any], rows: QuerySet[AsyncMigrationStatus]) -> list[int]:
    """Return the ids that are meant, each once, a filter's out of these rows. Raises TooManyItems."""
    if "ids" in asked:
        ids = list(dict.fromkeys(asked["ids"]))
        count = len(ids)
    else:
        chosen = QueryDict(mutable=True)
        for name, value in asked["filter"].items():
            chosen.setlist(name, value if name == "status" else [value])
        found = MigrationFilter(chosen, queryset=rows).qs
        count = found.count()
        ids = list(found.order_by("id").values_list("id", flat=True)[: MOST + 1])
    if max(count, len(ids)) > MOST:
        raise TooManyItems(count, MOST)
    return ids


def _as_dict(item: Item) -> dict[str, Any]:
    row = item.migration
    problem = problem_of(item.error) if item.error else None
    return {
        "id": item.id,
        "name": row and row.name,
        "database": row and row.database,
        "outcome": item.outcome,
        "status": row and row.status,
        "code": problem and problem.code,
        "detail": problem and problem.detail,
    }


_BODIES = (
    OpenApiExample("These", {"ids": [12, 13]}, request_only=True),
    OpenApiExample("What would it do?", {"filter": {"database": "default"}, "dry_run": True}, request_only=True),
)
_EACH = (
    f"Each migration by itself, as the verb of one does it, at most {MOST} at once (else 422, and nothing is done). "
    "200 whatever became of them: look at `outcome`; one that is refused keeps nothing from the others. "
    "If the control database fails in between, 503 with `done`, the ids of those that were done before: they stay so, "
    "and workers are told of them. May be repeated: what is done already is `unchanged`."
)


def _of_many(verb: str, what: str, outcome: str) -> Callable[[Any], Any]:
    """Describe the door that asks for a verb of many. what: it does; outcome: of the first in the example."""
    return schema.documented(
        f"async_migrations_bulk_{verb}",
        f"{verb.capitalize()} many migrations",
        f"{what} {_EACH}",
        request=BulkBody,
        answers={200: BulkSerializer},
        problems=schema.OF_BULK,
        examples=(schema.example(f"One {outcome}, one refused", examples.BULK, 200), *_BODIES),
    )


class BulkRunDoor(BulkDoor):
    permission = permissions.RUN
    actions = {"POST": "run"}

    @_of_many("run", "Put them in line for a worker, in the order of the ids.", "in line")
    def post(self, request: Request) -> Response:
        return self.answer(request)


class BulkCancelDoor(BulkDoor):
    permission = permissions.CANCEL
    actions = {"POST": "cancel"}

    @_of_many("cancel", "Stop them for good.", "cancelled")
    def post(self, request: Request) -> Response:
        return self.answer(request)
