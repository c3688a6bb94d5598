"""What all doors have in common: credentials, formats, limits, the request's id, errors, and a row's headers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import RequestDataTooBig
from django.db import connections, transaction
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.utils.http import parse_etags
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.openapi import AutoSchema
from rest_framework.exceptions import MethodNotAllowed, ValidationError
from rest_framework.request import Request
from rest_framework.views import APIView

from .. import lifecycle
from ..conf import conf
from ..execution import preflight
from ..lifecycle import Channel, Origin, audit
from ..models import AsyncMigrationStatus
from ..states import Status
from . import idempotency, permissions
from .authentication import ApiTokenAuthentication, BrowserAuthentication
from .codes import PROBLEMS
from .filters import refuse_unknown
from .idempotency import Replay, Reservation
from .observing import observed
from .origin import origin_of
from .parsers import JSONOnly, PlainJSONRenderer, StrictJSONParser
from .permissions import HasPermissionOfDoor
from .problems import exception_handler, problem_of, respond
from .rates import RateLimit
from .refusals import LengthRequired, PreconditionFailed
from .request_id import HEADER, bound
from .scopes import scope_of

MAX_BODY_BYTES = 64 * 1024  # the largest body that means anything here has a hundred

#: The fields of a row that its ETag is made of, besides the id.
OF_THE_TAG = ("status", "direction", "attempt", "stop_requested", "updated_at")

_NO_TAG = (
    "What this door changes has no ETag that it could be compared with. Nothing was done. Send it to the door of one "
    "migration, or leave it out."
)

# Seconds until the next look makes sense: somebody works on it, or nobody does until somebody asks.
SOON, LATER = 2, 30


class Door(APIView):
    """What all doors have in common; nothing of it is left to the project's REST_FRAMEWORK setting."""

    authentication_classes = (ApiTokenAuthentication, BrowserAuthentication)
    permission_classes = (HasPermissionOfDoor,)
    parser_classes = (StrictJSONParser,)
    renderer_classes = (PlainJSONRenderer,)
    content_negotiation_class = JSONOnly
    throttle_classes = (RateLimit,)
    versioning_class = None
    metadata_class = None
    schema = AutoSchema()
    http_method_names = ["get", "head"]

    permission: ClassVar[str] = permissions.VIEW
    #: What a method that changes something asks for, as the audit calls it.
    actions: ClassVar[Mapping[str, str]] = {}
    origin = Origin()
    parameters: ClassVar[frozenset[str]] = frozenset()
    repeatable: ClassVar[frozenset[str]] = frozenset()
    #: How a token for some databases is kept to them: by the migration in the address, or by the door itself.
    #: A door that does not say is not for such a token.
    scoped_by: ClassVar[Literal["migration", "door"] | None] = None
    #: Whether what it changes has an ETag, which If-Match is compared with.
    has_tag: ClassVar[bool] = False
    reservation: Reservation | None = None

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Keep ATOMIC_REQUESTS of the project out: others must see a reserved key, and who waits holds nothing open."""
        view = super().as_view(**initkwargs)
        for alias in connections:
            view = transaction.non_atomic_requests(alias)(view)
        return view

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        with bound(request) as request_id, observed(request) as seen:
            try:
                response = super().dispatch(request, *args, **kwargs)
            finally:  # Whatever it ended with: nobody is at work any more.
                if self.reservation is not None:
                    self.reservation.end()
            seen(response)
        response.headers[HEADER] = request_id
        # What one user may see is not for a shared cache; the user's own may keep it and ask with If-None-Match.
        response.headers.setdefault("Cache-Control", "private, no-cache")
        return response

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        _refuse_unreadable(request)
        super().initial(request, *args, **kwargs)
        # Before a key is looked up, or reserved for what cannot be done.
        if request.method not in self.allowed_methods:
            raise MethodNotAllowed(str(request.method))
        self._refuse_other_databases(request, kwargs)
        refuse_unknown(request, self.parameters, self.repeatable)
        self._refuse_if_match(request)
        self.reservation = idempotency.reserve(request)

    def perform_authentication(self, request: Request) -> None:
        super().perform_authentication(request)
        user: Any = request.user
        if user is None:  # The project's UNAUTHENTICATED_USER says so.
            request.user = AnonymousUser()
        self.origin = origin_of(request, Channel.API)

    def check_permissions(self, request: Request) -> None:
        # Before what one may do: a refusal is entered in the audit, and who is not limited could fill that.
        if request.user.is_authenticated:
            super().check_throttles(request)
        super().check_permissions(request)

    def check_throttles(self, request: Request) -> None:
        """Leave it: `check_permissions` has done so."""

    def handle_exception(self, exc: Exception) -> Any:
        answer = exc.response() if isinstance(exc, Replay) else super().handle_exception(exc)
        action = self.actions.get(str(self.request.method))
        # Who is not known could fill the table, and so could who asks too often.
        if action and self.origin.by and answer.status_code != 429:
            self._enter_refusal(action, exc)
        return answer

    def _enter_refusal(self, action: str, exc: Exception) -> None:
        """Enter in the audit that the request changed nothing: here its transaction is over, whichever it had."""
        pk = self.kwargs.get("id")
        row = lifecycle.rows().filter(pk=pk).first() if pk else None
        database = self.request.query_params.get("database", "")
        detail = {"id": pk} if pk and row is None else {}
        if isinstance(exc, Replay):
            code, reason, outcome = "", "", audit.Outcome.REPLAYED
        else:
            problem = problem_of(exc)
            code, reason = problem.code, problem.detail
            outcome = audit.Outcome.FAILED if PROBLEMS[code].status >= 500 else audit.Outcome.REFUSED
        audit.refuse(action, self.origin, code, reason, row=row, database=database, outcome=outcome, **detail)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        answer = super().finalize_response(request, response, *args, **kwargs)
        if self.reservation is not None:
            self.reservation.keep(answer)
        return answer

    def permission_for(self, method: str) -> str:
        """Return the permission that a request with this method needs."""
        return self.permission

    def _refuse_other_databases(self, request: Request, address: dict[str, Any]) -> None:
        """Let a token for some databases see no migration of another one. Raises Http404 and OutOfScope."""
        scope = scope_of(request)
        if scope.databases is None:
            return
        if self.scoped_by is None:
            raise permissions.OutOfScope(request, "what concerns all databases")
        if self.scoped_by == "migration" and not scope.among(lifecycle.rows()).filter(pk=address["id"]).exists():
            raise Http404

    def _refuse_if_match(self, request: Request) -> None:
        """Ignore no condition of a request that changes something. Raises ValidationError."""
        if request.method in self.actions and not self.has_tag and "If-Match" in request.headers:
            raise ValidationError({"If-Match": [_NO_TAG]})

    def get_exception_handler(self) -> Callable[..., Any]:
        return exception_handler


def _refuse_unreadable(request: Request) -> None:
    limit = min(MAX_BODY_BYTES, settings.DATA_UPLOAD_MAX_MEMORY_SIZE or MAX_BODY_BYTES)
    length = request.META.get("CONTENT_LENGTH") or ""
    if not length and request.META.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired
    if length.isdecimal() and int(length) > limit:
        raise RequestDataTooBig


def entity_tag(row: AsyncMigrationStatus) -> str:
    """Return the row's ETag: every write of `lifecycle` sets `updated_at`."""
    state = (row.pk, *(getattr(row, name) for name in OF_THE_TAG))
    return f'"{row.pk}-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"'


def matches(wanted: str, row: AsyncMigrationStatus) -> bool:
    """Say whether one of the tags that are wanted is the row's."""
    return names(wanted, entity_tag(row))


def names(wanted: str, tag: str) -> bool:
    """Compare weakly, also for If-Match: a proxy that compresses makes our ETag weak, and it still names one state."""
    tags = {tag.removeprefix("W/") for tag in parse_etags(wanted)}
    return "*" in tags or tag in tags


@contextmanager
def if_unchanged(request: Request, pk: int, *, look: bool = False) -> Iterator[bool]:
    """Let the block write only if the migration is what If-Match names, where it is sent; else PreconditionFailed.

    look: before the row is locked, for it may take seconds, look what stands in the way: raises PreflightFailed. Yields
    whether that was done.
    """
    if (wanted := request.headers.get("If-Match")) is None:
        yield False
        return
    if look:
        if not matches(wanted, row := lifecycle.get(pk)):
            raise PreconditionFailed
        preflight.require(row)
    with transaction.atomic(using=conf.control_database):
        # The lock keeps the row as it was compared until the answer is written.
        if not matches(wanted, lifecycle.rows().select_for_update().get(pk=pk)):
            raise PreconditionFailed
        yield look


def headers_of(row: AsyncMigrationStatus) -> dict[str, str]:
    headers = {"ETag": entity_tag(row)}
    if not row.terminal:
        idle = row.status in {Status.SCHEDULED, Status.PAUSED}
        headers["Retry-After"] = str(LATER if idle else SOON)
    return headers


@csrf_exempt
def no_door(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Answer whatever else is below our prefix: 404 in our words, in every project."""
    with bound(request) as request_id:
        response = respond(request, problem_of(Http404()))
    response.headers[HEADER] = request_id
    return response
