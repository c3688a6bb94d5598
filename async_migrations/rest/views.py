"""The doors. Each asks `lifecycle` and says what became of it; what may happen is decided there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.http import Http404
from django_filters.rest_framework import DjangoFilterBackend  # type: ignore[import-untyped]
from drf_spectacular.utils import OpenApiExample
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from .. import lifecycle
from ..asking import ask
from ..conf import conf
from ..models import AsyncMigrationEvent, AsyncMigrationStatus
from ..states import RUN, TERMINAL, Status
from . import examples, pagination, permissions, schema, waiting
from .bodies import EmptyBody, RunBody
from .door import OF_THE_TAG, Door, headers_of, if_unchanged, matches
from .filters import ORDERABLE, MigrationFilter
from .scopes import Scope, scope_of
from .serializers import EventSerializer, MigrationDetailSerializer, MigrationSerializer, SummarySerializer

# --- reading ---------------------------------------------------------------------------------------------------------


class ListDoor(Door, GenericAPIView[AsyncMigrationStatus]):
    scoped_by = "door"
    filter_backends = (DjangoFilterBackend,)
    filterset_class = MigrationFilter
    pagination_class = pagination.MigrationPages
    serializer_class = MigrationSerializer
    queryset = AsyncMigrationStatus.objects.all()
    parameters = frozenset(MigrationFilter.base_filters) | pagination.PARAMETERS
    repeatable = frozenset({"status", "ordering"})

    def get_queryset(self) -> QuerySet[AsyncMigrationStatus]:
        rows = scope_of(self.request).among(lifecycle.rows())
        return rows.defer("sql_forwards", "sql_backwards", "sql_digest", "options").order_by("-id")

    @schema.documented(
        "async_migrations_list",
        "List migrations",
        "A page of the migrations that match all filters, newest first unless ordered otherwise. "
        "An unknown, empty or doubled parameter is an error.",
        answers={200: MigrationSerializer(many=True)},
        problems=schema.OF_ONE,
        parameters=(schema.ordering(ORDERABLE),),
        examples=(schema.example("In progress", examples.ROW, 200),),
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class DetailDoor(Door):
    scoped_by = "migration"

    @schema.documented(
        "async_migrations_retrieve",
        "Look at a migration",
        "The migration with its SQL, 200 whatever became of it. Poll it until `terminal` is true; with `Prefer: wait` "
        "the answer is held until there is news.",
        answers={200: MigrationDetailSerializer, 304: None},
        problems=schema.OF_ONE,
        parameters=(
            schema.IF_NONE_MATCH,
            schema.PREFER,
            schema.header("Preference-Applied", schema.PREFERENCE_APPLIED, [200, 304]),
            schema.header("ETag", schema.ETAG, [200, 304]),
            schema.header("Retry-After", schema.RETRY_AFTER, [200, 304], int),
        ),
        examples=(schema.example("In progress", examples.DETAIL, 200),),
    )
    def get(self, request: Request, id: int) -> Response:
        known = request.headers.get("If-None-Match", "")
        applied = waiting.until(lambda: _has_news(id, known), request)
        # Of the row that a poller knows already nothing else is read.
        if known and matches(known, row := lifecycle.rows().only(*OF_THE_TAG).get(pk=id)):
            return Response(status=304, headers=waiting.spread(headers_of(row), applied, request))
        row = lifecycle.get(id)
        headers = waiting.spread(headers_of(row), applied, request)
        return Response(MigrationDetailSerializer(row).data, headers=headers)


def _has_news(pk: int, known: str) -> bool:
    """Whether whoever knows the row by these tags need not wait any longer."""
    row = lifecycle.rows().only(*OF_THE_TAG).get(pk=pk)
    return row.terminal or (bool(known) and not matches(known, row))


class EventsDoor(Door, GenericAPIView[AsyncMigrationEvent]):
    scoped_by = "migration"
    pagination_class = pagination.Pages
    serializer_class = EventSerializer
    queryset = AsyncMigrationEvent.objects.all()
    filter_backends = ()
    parameters = pagination.PARAMETERS

    @schema.documented(
        "async_migrations_events_list",
        "History of a migration",
        "A page of its events, oldest first: transitions, who asked, attempts, errors.",
        answers={200: EventSerializer(many=True)},
        problems=schema.OF_ONE,
        examples=(schema.example("Run by ci", examples.EVENT, 200),),
    )
    def get(self, request: Request, id: int) -> Response:
        if not lifecycle.rows().filter(pk=id).exists():
            raise Http404
        events = AsyncMigrationEvent.objects.using(conf.control_database).filter(migration_id=id).order_by("id")
        page = self.paginate_queryset(events)
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class SummaryDoor(Door):
    scoped_by = "door"

    @schema.documented(
        "async_migrations_summary",
        "Count migrations",
        "How many there are by status and database, and how long the first in line has waited.",
        answers={200: SummarySerializer},
        examples=(schema.example("One runs, one waits", examples.SUMMARY, 200),),
    )
    def get(self, request: Request) -> Response:
        return Response(SummarySerializer(_summary(scope_of(request))).data)


def _summary(scope: Scope) -> dict[str, Any]:
    by_status = dict.fromkeys(Status.values, 0)
    by_database: dict[str, dict[str, int]] = {}
    waits = lifecycle.waits()
    for database, status, count in lifecycle.counts():
        if not scope.covers(database):
            continue
        by_status[status] += count
        by_database.setdefault(database, {})[status] = count
    return {
        "total": sum(by_status.values()),
        "by_status": by_status,
        "by_database": by_database,
        "oldest_in_line_seconds": max(map(waits.__getitem__, filter(scope.covers, waits)), default=None),
    }


# --- asking ----------------------------------------------------------------------------------------------------------


class VerbDoor(Door):
    """POST a wish. Asking again is harmless; what a lost answer said can be had by asking once more."""

    http_method_names = ["post"]
    scoped_by = "migration"
    has_tag = True
    body: ClassVar[type[RunBody | EmptyBody]] = EmptyBody
    goals: ClassVar[frozenset[Status]]

    def answer(self, request: Request, pk: int) -> Response:
        body = self.body(data=request.data)
        body.is_valid(raise_exception=True)
        if force := body.validated_data.get("force"):
            permissions.require(request, permissions.FORCE)
        verb = self.actions["POST"]
        with if_unchanged(request, pk, look=verb == RUN.name and not force) as looked:
            answer = ask(verb, pk, self.origin, **body.validated_data, looked=looked)
        row = answer.migration
        reached = row.status in self.goals and not answer.changed
        headers = {"Location": request.path.rpartition("/")[0], **headers_of(row)}
        return Response(MigrationSerializer(row).data, status=200 if reached else 202, headers=headers)


def _verb(
    operation: str,
    summary: str,
    description: str,
    request: Any,
    bodies: tuple[OpenApiExample, ...] = (),
    problems: tuple[str, ...] = schema.OF_A_VERB,
    accepted: OpenApiExample = schema.example("In line", examples.STARTED, 202),  # noqa: B008
) -> Callable[[schema.F], schema.F]:
    return schema.documented(
        f"async_migrations_{operation}",
        summary,
        description,
        request=request,
        answers={200: MigrationSerializer, 202: MigrationSerializer},
        problems=problems,
        parameters=(
            schema.IF_MATCH,
            schema.header("Location", "Path of the migration.", [200, 202]),
            schema.header("ETag", schema.ETAG, [200, 202]),
            schema.header("Retry-After", schema.RETRY_AFTER, [200, 202], int),
        ),
        examples=(accepted, *bodies),
    )


class RunDoor(VerbDoor):
    permission = permissions.RUN
    body = RunBody
    actions = {"POST": "run"}
    goals = frozenset({Status.FINISHED})

    @_verb(
        "run",
        "Run a migration",
        "Put it in line for a worker, at once or from `run_at` on. 202: it is in line or in progress; if it was so "
        "before, nothing was done, whatever the body says. "
        "200: it was FINISHED before, nothing was done. A backfill that is FINISHED but has set rows aside "
        "(`quarantined`) tries those again. What would fail for sure, as the preflight sees it in a moment, is 409 "
        "`preflight_failed`, with the findings; `force` runs it all the same.",
        RunBody,
        (
            OpenApiExample("At once", {}, request_only=True),
            OpenApiExample(
                "Tonight, before others", {"run_at": "2026-11-22T23:00:00+01:00", "priority": 10}, request_only=True
            ),
            OpenApiExample("All the same", {"force": True}, request_only=True),
        ),
        schema.OF_A_RUN,
    )
    def post(self, request: Request, id: int) -> Response:
        return self.answer(request, id)


class PauseDoor(VerbDoor):
    """Whoever may run migrations may: a pause loses nothing, and `run` would take it back."""

    permission = permissions.RUN
    actions = {"POST": "pause"}
    goals = frozenset({Status.PAUSED})

    @_verb(
        "pause",
        "Pause a migration",
        "Stop it where it can go on later: at once if no worker has begun it, else the worker is asked "
        "(`stop_requested`) and stops at the next checkpoint, behind a batch or between two statements; a statement "
        "is not interrupted. 202: it is paused now, or will be. 200: it was PAUSED before, nothing was done.",
        EmptyBody,
        accepted=schema.example("Asked to pause", {**examples.ROW, "stop_requested": "pause"}, 202),
    )
    def post(self, request: Request, id: int) -> Response:
        return self.answer(request, id)


class ResumeDoor(VerbDoor):
    """Whoever may run migrations may, as with `pause`."""

    permission = permissions.RUN
    actions = {"POST": "resume"}
    goals = TERMINAL

    @_verb(
        "resume",
        "Go on with a paused migration",
        "Put it in line for a worker, in the direction that it had; it goes on where it stopped. A pause that no "
        "worker has obeyed yet is taken back. 202: it is in line or in progress. 200: it was FINISHED or ROLLED BACK "
        "before, nothing was done.",
        EmptyBody,
    )
    def post(self, request: Request, id: int) -> Response:
        return self.answer(request, id)


class CancelDoor(VerbDoor):
    permission = permissions.CANCEL
    actions = {"POST": "cancel"}
    goals = frozenset({Status.CANCELLED})

    @_verb(
        "cancel",
        "Cancel a migration",
        "Stop it for good: at once if no worker has begun it, else the worker is asked (`stop_requested`) and cleans "
        "up first. 202: it is cancelled now, or will be. 200: it was CANCELLED before, nothing was done.",
        EmptyBody,
        accepted=schema.example("Asked to stop", {**examples.ROW, "stop_requested": "cancel"}, 202),
    )
    def post(self, request: Request, id: int) -> Response:
        return self.answer(request, id)


class RollbackDoor(VerbDoor):
    permission = permissions.ROLLBACK
    actions = {"POST": "rollback"}
    goals = frozenset({Status.ROLLED_BACK})

    @_verb(
        "rollback",
        "Roll a migration back",
        "Put it in line for a worker, with its backward SQL. 202: it is in line, or it is ROLLED BACK now because "
        "nothing of it ever ran. 200: it was ROLLED BACK before, nothing was done.",
        EmptyBody,
    )
    def post(self, request: Request, id: int) -> Response:
        return self.answer(request, id)
