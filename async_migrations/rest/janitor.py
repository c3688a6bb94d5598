"""The doors of the janitor: what builds have left behind in the targets, and the wish to have it dropped.

Looking reads the catalogue of each target from here, through `execution.janitor`: it is a matter of milliseconds, and a
list that a worker had made some time ago would name what is gone or valid by now. Dropping waits for whoever uses the
table, so that is a worker's.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.utils import OpenApiExample
from rest_framework.request import Request
from rest_framework.response import Response

from .. import asking, tasks
from ..errors import ExecutionError
from ..execution import janitor
from . import examples, permissions, schema
from .answers import DropSerializer, LeftoversSerializer
from .bodies import DropBody
from .door import Door
from .scopes import scope_of


class JanitorDoor(Door):
    scoped_by = "door"

    @schema.documented(
        "async_migrations_janitor_list",
        "List what builds have left behind",
        "For each PostgreSQL target its INVALID indexes, `_ccnew` and `_ccold` among them, that nobody is building or "
        "dropping. They cost every write and are of no use to any query. The catalogues are read at this moment.",
        answers={200: LeftoversSerializer(many=True)},
        examples=(schema.example("One leftover", examples.LEFTOVERS, 200),),
    )
    def get(self, request: Request) -> Response:
        targets = filter(scope_of(request).covers, janitor.databases())
        return Response(LeftoversSerializer([look_at(alias) for alias in targets], many=True).data)


def look_at(alias: str) -> dict[str, Any]:
    """Return what is left over in a target; one that does not answer must not hide the others."""
    try:
        found = [asdict(leftover) for leftover in janitor.leftovers(alias)]
    except ExecutionError as error:
        return {"database": alias, "leftovers": [], "error": {"code": error.code, "message": error.message}}
    return {"database": alias, "leftovers": found, "error": None}


class JanitorDropDoor(Door):
    """Whoever may run migrations may: the same DROP could be asked for as a migration, and nothing of use is lost."""

    http_method_names = ["post"]
    scoped_by = "door"
    permission = permissions.RUN
    actions = {"POST": "drop_leftover"}

    @schema.documented(
        "async_migrations_janitor_drop",
        "Drop what a build has left behind",
        "Have a worker drop one index of the list, concurrently, after it has looked again. 202: a worker has been "
        "asked; the index is gone from the list when it is done, and the migration that made it has an event "
        "`leftover_dropped`. 200: there is no such index any more. An index that is valid, that somebody is at work "
        "on, or whose migration is in progress is 409 and stays.",
        request=DropBody,
        answers={200: DropSerializer, 202: DropSerializer},
        problems=schema.OF_A_DROP,
        examples=(
            OpenApiExample("The index of a build that failed", examples.DROP, request_only=True),
            schema.example("A worker has been asked", {**examples.DROP, "dropped": False}, 202),
        ),
    )
    def post(self, request: Request) -> Response:
        targets = list(filter(scope_of(request).covers, janitor.databases()))
        body = DropBody(data=request.data, context={"targets": targets})
        body.is_valid(raise_exception=True)
        database, schema_name, name = (body.validated_data[field] for field in ("database", "schema", "name"))
        dropped = asking.drop(database, schema_name, name, self.origin, tasks.ask_to_drop)
        answer = {**body.validated_data, "dropped": dropped}
        return Response(DropSerializer(answer).data, status=200 if dropped else 202)
