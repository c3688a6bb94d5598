"""Every error as application/problem+json (RFC 9457), with a stable machine-readable `code`.

`problem_of` turns an exception into a Problem, `respond` turns a Problem into an answer, and `exception_handler` does
both for the views. No text of an unforeseen exception ever leaves the server.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, RawPostDataException, UnreadablePostError
from django.utils.encoding import escape_uri_path
from rest_framework import exceptions
from rest_framework.settings import api_settings
from rest_framework.views import set_rollback

from ..errors import BrokerAway, ExecutionError, NotALeftover, NotAllTried, PreflightFailed, TransitionRefused
from ..limits import OutOfLimits
from .codes import PROBLEMS
from .request_id import current_request_id

logger = logging.getLogger("async_migrations")

MEDIA_TYPE = "application/problem+json"
DATABASE_RETRY_SECONDS = 5

# REST framework's own codes, where ours are other words.
_RENAMED = {"parse_error": "malformed_json", "authentication_failed": "invalid_token"}

# What a refused request still sends is read and dropped up to here. Who has sent a little too much gets the answer; who
# sends more may find the connection closed instead, and keeps no thread busy with what nobody looks at.
_DRAIN_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Problem:
    """What went wrong, before it is an answer.

    code: a key of PROBLEMS.
    detail: what happened, what it means, what to do next.
    members: further members of the JSON object. headers: further headers of the answer.
    """

    code: str
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def respond(request: HttpRequest, problem: Problem) -> HttpResponse:
    """Return the problem as an answer."""
    kind = PROBLEMS[problem.code]
    content = {
        "type": f"urn:problem-type:async-migrations:{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        "instance": escape_uri_path(request.path),
        "code": problem.code,
        **problem.members,
        "request_id": current_request_id(),
    }
    _drain(request)
    # Plain ASCII: an error may repeat what the client sent, lone surrogates included, which UTF-8 cannot carry.
    response = HttpResponse(
        json.dumps(content), status=kind.status, content_type=MEDIA_TYPE, headers=dict(problem.headers)
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """Answer any exception of a view; REST framework's EXCEPTION_HANDLER."""
    set_rollback()
    problem = problem_of(exc)
    if PROBLEMS[problem.code].status >= 500:
        logger.error(problem.code, exc_info=exc, extra={"request_id": current_request_id()})
    request: HttpRequest = context["request"]
    return respond(getattr(request, "_request", request), problem)


def _drain(request: HttpRequest) -> None:
    """Read and drop what the client still sends: a server that hangs up resets the connection under the answer."""
    left = _DRAIN_BYTES
    try:
        while left > 0 and (chunk := request.read(min(left, 64 * 1024))):
            left -= len(chunk)
    except (UnreadablePostError, RawPostDataException, ValueError):
        return


# --- from an exception to a problem ----------------------------------------------------------------------------------


@singledispatch
def problem_of(exc: BaseException) -> Problem:
    """Say what an exception means to a client. What nobody foresaw is `internal_error`, without its text."""
    return Problem(
        "internal_error",
        f"It is not the request's fault. The server's log has the reason under the id {current_request_id()}; "
        "tell it to whoever runs this service.",
    )


@problem_of.register(OperationalError)
@problem_of.register(InterfaceError)
def _(exc: Exception) -> Problem:
    return Problem(
        "database_unavailable",
        "The control database does not answer or gave up. Ask again: every request here may be repeated.",
        headers={"Retry-After": str(DATABASE_RETRY_SECONDS)},
    )


@problem_of.register
def _(exc: NotAllTried) -> Problem:
    return Problem(exc.code, str(exc), {"done": exc.done}, {"Retry-After": str(DATABASE_RETRY_SECONDS)})


@problem_of.register
def _(exc: TransitionRefused) -> Problem:
    return Problem("invalid_transition", str(exc), {"status_now": exc.status, "allowed": list(exc.allowed)})


@problem_of.register
def _(exc: PreflightFailed) -> Problem:
    return Problem("preflight_failed", str(exc), {"findings": exc.findings})


@problem_of.register
def _(exc: OutOfLimits) -> Problem:
    return problem_of(exceptions.ValidationError(exc.errors))


@problem_of.register
def _(exc: NotALeftover) -> Problem:
    return Problem("not_a_leftover", str(exc))


@problem_of.register
def _(exc: ExecutionError) -> Problem:
    return Problem(
        "target_unavailable",
        f"The target could not be looked at ({exc.code}): {exc.message} Nothing was done; ask again.",
        headers={"Retry-After": str(DATABASE_RETRY_SECONDS)},
    )


@problem_of.register
def _(exc: BrokerAway) -> Problem:
    return Problem("broker_unavailable", str(exc), headers={"Retry-After": str(DATABASE_RETRY_SECONDS)})


@problem_of.register(ObjectDoesNotExist)
@problem_of.register(Http404)
def _(exc: Exception) -> Problem:
    return Problem("not_found", "There is nothing at this address. The list of migrations has the ids that exist.")


@problem_of.register
def _(exc: PermissionDenied) -> Problem:
    return Problem(
        "permission_denied", "This is not allowed with these credentials: ask for the permission, or use others."
    )


@problem_of.register
def _(exc: RequestDataTooBig) -> Problem:
    return too_large()


@problem_of.register(SuspiciousOperation)
@problem_of.register(UnreadablePostError)
def _(exc: Exception) -> Problem:
    return Problem(
        "bad_request",
        "The request was refused before it was looked at: host, headers, parameters or body. Nothing was done; what is "
        "wrong with it is in the server's log.",
    )


@problem_of.register
def _(exc: exceptions.APIException) -> Problem:
    code = getattr(exc.detail, "code", exc.default_code)
    code = _RENAMED.get(code, code)
    if code not in PROBLEMS or code == "internal_error":
        return _unknown_api_error(exc)
    return Problem(code, str(exc.detail), getattr(exc, "members", {}), _headers(exc, code))


@problem_of.register
def _(exc: exceptions.ValidationError) -> Problem:
    errors = _by_field(exc.detail)
    name, messages = next(iter(errors.items()))
    return Problem("validation_error", f"{name}: {messages[0]}", {"errors": errors})


@problem_of.register
def _(exc: exceptions.Throttled) -> Problem:
    seconds = max(1, math.ceil(getattr(exc, "wait", None) or 0))
    return Problem(
        "rate_limited",
        "There were more requests with these credentials than the service takes in a minute. This one was not looked "
        f"at. Ask again in {seconds} s, and less often from then on: Retry-After says when, Prefer: wait saves asking.",
        headers={"Retry-After": str(seconds)},
    )


@problem_of.register
def _(exc: exceptions.UnsupportedMediaType) -> Problem:
    return Problem(
        "unsupported_media_type",
        "Only a JSON body in UTF-8 is read here. Send it with the header Content-Type: application/json, "
        "or send no body at all.",
    )


@problem_of.register
def _(exc: exceptions.NotAcceptable) -> Problem:
    return Problem("not_acceptable", "Answers are application/json only. Send Accept: application/json, or none.")


def too_large() -> Problem:
    return Problem("body_too_large", "The body is larger than any request here can be. It was not looked at.")


def _unknown_api_error(exc: exceptions.APIException) -> Problem:
    by_status = {kind.status: code for code, kind in reversed(PROBLEMS.items())}
    code = by_status.get(exc.status_code, "internal_error")
    if code == "internal_error":
        return problem_of(Exception())
    return Problem(code, str(exc.detail), headers=_headers(exc, code))


def _headers(exc: exceptions.APIException, code: str) -> dict[str, str]:
    if not (challenge := getattr(exc, "auth_header", None)):
        return dict(getattr(exc, "headers", {}))
    bad = code in {"invalid_token", "token_expired"}
    return {"WWW-Authenticate": f'{challenge}, error="invalid_token"' if bad else challenge}


def _by_field(detail: Any, prefix: str = "") -> dict[str, list[str]]:
    """Flatten REST framework's nested errors into field -> messages; what is wrong with the whole is under `body`."""
    if not isinstance(detail, dict):
        return {prefix or "body": [str(message) for message in (detail if isinstance(detail, list) else [detail])]}
    flat: dict[str, list[str]] = {}
    for name, inner in detail.items():
        whole = name == api_settings.NON_FIELD_ERRORS_KEY
        flat |= _by_field(inner, prefix if whole else f"{prefix}.{name}" if prefix else str(name))
    return flat
