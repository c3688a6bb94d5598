"""The doors that let pass or keep back: the gate that waits for migrations, and the hold on all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from .. import asking, lifecycle
from ..lifecycle import Wanted, gate
from . import examples, permissions, schema
from .answers import HoldsSerializer, VerdictSerializer
from .bodies import HoldBody
from .door import LATER, SOON, Door, names
from .filters import TEXT
from .refusals import PreconditionFailed
from .scopes import scope_of

_RETRY_AFTER = {gate.PENDING: SOON, gate.BLOCKED: LATER}
_HISTORY = 20
_DATABASE = "Django alias of the target."


def _named(name: str, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, {"type": "array", "items": TEXT}, description=description)


class GateDoor(Door):
    scoped_by = "door"
    parameters = frozenset({"name", "prefix", "app", "database"})
    repeatable = frozenset({"name", "prefix", "app"})

    @schema.documented(
        "async_migrations_gate",
        "Ask whether migrations are through",
        "Whether everything that depends on these migrations may go on. 200 whatever the answer is: look at `state`. "
        "Each of `name`, `prefix` and `app` may be repeated, and at least one is needed; all migrations that match any "
        "of them count, on all databases unless `database` names one. What is not there keeps the gate shut.",
        answers={200: VerdictSerializer},
        parameters=(
            _named("name", "A migration, by its whole name."),
            _named("prefix", "Every migration whose name begins so."),
            _named("app", "Every migration of the Django app with this label."),
            schema.text("database", "Only on this target, by its Django alias."),
            schema.header(
                "Retry-After", "Seconds after which to look again; absent with `pass` and `failed`.", [200], int
            ),
        ),
        examples=(
            schema.example("Open", examples.GATE_OPEN, 200),
            schema.example("One is in progress", examples.GATE_PENDING, 200),
        ),
    )
    def get(self, request: Request) -> Response:
        wanted = _wanted(request)
        verdict = lifecycle.judge(wanted)
        again = _RETRY_AFTER.get(verdict.state)
        return Response(VerdictSerializer(verdict).data, headers={"Retry-After": str(again)} if again else None)


def _wanted(request: Request) -> Wanted:
    asked = request.query_params
    named = {name: asked.getlist(name) for name in ("name", "prefix", "app")}
    count = sum(map(len, named.values()))
    if not count:
        raise ValidationError({"name": ["Say which migrations: name, prefix or app; each may be repeated."]})
    if count > gate.MOST:
        raise ValidationError({"name": [f"These are {count}; at most {gate.MOST} can be asked for at once."]})
    known = scope_of(request).databases
    return Wanted(named["name"], named["prefix"], named["app"], asked.get("database"), known)


_CONDITIONAL = (schema.IF_MATCH, schema.header("ETag", schema.ETAG, [200]))


class HoldDoor(Door):
    """Whoever may look sees who holds what; setting and lifting has a permission of its own."""

    http_method_names = ["get", "head", "put", "delete"]
    scoped_by = "door"
    has_tag = True
    parameters = frozenset({"database"})
    actions = {"PUT": "hold", "DELETE": "lift"}

    def permission_for(self, method: str) -> str:
        return permissions.VIEW if method in {"GET", "HEAD"} else permissions.HOLD

    @schema.documented(
        "async_migrations_hold_retrieve",
        "Look whether migrations are held",
        "The holds that are in force, and the last that were. With `database` only what applies to that target.",
        answers={200: HoldsSerializer, 304: None},
        parameters=(
            schema.text("database", _DATABASE),
            schema.IF_NONE_MATCH,
            schema.header("ETag", schema.ETAG, [200, 304]),
        ),
        examples=(schema.example("All is held", examples.HELD, 200),),
    )
    def get(self, request: Request) -> Response:
        answer = _state(request)
        if names(request.headers.get("If-None-Match", ""), answer["ETag"]):
            return Response(status=304, headers={"ETag": answer["ETag"]})
        return answer

    @schema.documented(
        "async_migrations_hold",
        "Hold all migrations",
        "Keep every migration from going on: on the target that `database` names, or on all of them. Nothing in line "
        "is begun; what is in progress stops where it can go on later, behind a batch or between two statements, and "
        "is given back without counting the attempt; a statement under way is not interrupted. `run` is accepted and "
        "waits. It lasts until it is lifted or `expires_at`, whatever is restarted. It replaces the one that was set "
        "for the same `database`; the same once more changes nothing.",
        request=HoldBody,
        answers={200: HoldsSerializer},
        problems=schema.OF_A_HOLD,
        parameters=(schema.text("database", f"{_DATABASE} Without it: all of them."), *_CONDITIONAL),
        examples=(
            schema.example("All is held", examples.HELD, 200),
            OpenApiExample("Until tomorrow", examples.HOLD_REQUEST, request_only=True),
        ),
    )
    def put(self, request: Request) -> Response:
        database = request.query_params.get("database")
        _refuse_unknown_database(request)
        body = HoldBody(data=request.data)
        body.is_valid(raise_exception=True)
        with _if_unchanged(request):
            lifecycle.set_hold(database or "", origin=self.origin, **body.validated_data)
        return _state(request)

    @schema.documented(
        "async_migrations_hold_lift",
        "Lift a hold",
        "End the hold that was set for exactly this `database`, or, without it, the one for all of them; what was held "
        "goes on at once. Nothing happens if there is none. What still is held, by another hold, is in the answer.",
        answers={200: HoldsSerializer},
        problems=("csrf_failed", "precondition_failed"),
        parameters=(schema.text("database", f"{_DATABASE} Without it: the hold on all of them."), *_CONDITIONAL),
        examples=(schema.example("Nothing is held", {**examples.HELD, "held": False, "holds": []}, 200),),
    )
    def delete(self, request: Request) -> Response:
        database = request.query_params.get("database")
        if scope_of(request).databases is not None:
            _refuse_unknown_database(request)
        with _if_unchanged(request):
            asking.lift(database or "", self.origin)
        return _state(request)


def _state(request: Request) -> Response:
    """Answer what is held for who asks: a hold on all databases is everybody's."""
    database, known = request.query_params.get("database"), scope_of(request).databases
    in_force, past = lifecycle.holds_in_force(database), lifecycle.holds()
    if database is not None:
        past = past.filter(database__in=("", database))
    if known is not None:
        in_force, past = (found.filter(database__in=("", *known)) for found in (in_force, past))
    holds = list(in_force)
    state: dict[str, Any] = {"held": bool(holds), "holds": holds, "history": past[:_HISTORY]}
    data = HoldsSerializer(state).data
    return Response(data, headers={"ETag": f'"{hashlib.sha256(repr(data).encode()).hexdigest()[:16]}"'})


@contextmanager
def _if_unchanged(request: Request) -> Iterator[None]:
    """Let the block write only if what is held at this address is what If-Match names, where it is sent.

    Raises PreconditionFailed.
    """
    if (wanted := request.headers.get("If-Match")) is None:
        yield
        return
    with lifecycle.changing_holds():
        if not names(wanted, _state(request)["ETag"]):
            raise PreconditionFailed
        yield


def _refuse_unknown_database(request: Request) -> None:
    """Raise ValidationError for a target that is not there for who asks, OutOfScope where all would be meant."""
    alias, scope = request.query_params.get("database"), scope_of(request)
    if alias is None and scope.databases is not None:
        raise permissions.OutOfScope(request, "all databases at once; name one with ?database=")
    there = list(filter(scope.covers, lifecycle.databases()))
    if alias is not None and alias not in there:
        raise ValidationError({"database": [f"There is no such target. There are: {', '.join(there)}."]})
