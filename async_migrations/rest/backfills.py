"""The doors of what backfills have besides: live tuning, and the rows that were set aside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.utils.connection import ConnectionDoesNotExist
from drf_spectacular.utils import OpenApiExample
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from .. import lifecycle
from ..errors import ExecutionError
from ..execution import session
from ..models import AsyncMigrationBadRow
from . import examples, pagination, permissions, schema
from .bodies import TuningBody
from .door import Door, headers_of, if_unchanged
from .serializers import BadRowSerializer, MigrationDetailSerializer


class TuningDoor(Door):
    http_method_names = ["patch"]
    scoped_by = "migration"
    has_tag = True
    permission = permissions.TUNE
    actions = {"PATCH": "tune"}

    @schema.documented(
        "async_migrations_tune",
        "Tune a migration",
        "Set values that win over the options of the file, also while a worker carries it out: it looks at them before "
        "each batch. What is left out stays as it is; null takes back what was set. An SQL migration has a priority "
        "only. What has ended cannot be tuned, unless in ERROR. The event `tuned` has the values before and after.",
        request=TuningBody,
        answers={200: MigrationDetailSerializer},
        problems=schema.OF_A_VERB,
        parameters=(
            schema.IF_MATCH,
            schema.header("ETag", schema.ETAG, [200]),
            schema.header("Retry-After", schema.RETRY_AFTER, [200], int),
        ),
        examples=(
            schema.example("Tuned", examples.TUNED, 200),
            OpenApiExample("Gentler", {"batch_size": 500, "batch_delay_seconds": 0.2}, request_only=True),
            OpenApiExample("As the file says", {"batch_size": None, "throttle": None}, request_only=True),
        ),
    )
    def patch(self, request: Request, id: int) -> Response:
        body = TuningBody(data=request.data)
        body.is_valid(raise_exception=True)
        with if_unchanged(request, id):
            row = lifecycle.tune(id, self.origin, body.validated_data).migration
        return Response(MigrationDetailSerializer(row).data, headers=headers_of(row))


class QuarantineDoor(Door, GenericAPIView[AsyncMigrationBadRow]):
    scoped_by = "migration"
    pagination_class = pagination.Pages
    serializer_class = BadRowSerializer
    queryset = AsyncMigrationBadRow.objects.all()
    filter_backends = ()
    parameters = pagination.PARAMETERS

    @schema.documented(
        "async_migrations_quarantine_list",
        "List the rows that were set aside",
        "A page of the rows that a backfill could not change, oldest first, read from its target at this moment. "
        "`run` on a backfill that is FINISHED tries them again.",
        answers={200: BadRowSerializer(many=True)},
        problems=schema.OF_A_TARGET,
        examples=(schema.example("A value that does not fit", examples.BAD_ROW, 200),),
    )
    def get(self, request: Request, id: int) -> Response:
        row = lifecycle.get(id)
        with asking_the_target(row.database):
            # The name is what the target has an index on.
            bad = AsyncMigrationBadRow.objects.using(row.database).filter(name=row.name, migration_id=id)
            page = self.paginate_queryset(bad.order_by("id"))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


@contextmanager
def asking_the_target(alias: str) -> Iterator[None]:
    """Tell a target that does not answer from a control database that does not.

    Raises ExecutionError, also for an alias that is not configured here.
    """
    try:
        with session.translated_by_django():
            yield
    except ConnectionDoesNotExist as exc:
        raise ExecutionError(code="unknown_database", message=f"{alias!r} is not in DATABASES here.") from exc
