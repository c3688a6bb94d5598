"""What the OpenAPI document says beyond what the code shows by itself: credentials, headers, errors, examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from .. import limits
from . import examples
from .answers import ProblemSerializer
from .codes import PROBLEMS
from .filters import TEXT
from .problems import MEDIA_TYPE

F = TypeVar("F", bound=Callable[..., Any])

TAG = "async-migrations"

#: Where every door can fail, and where those that read a body or look at one migration can besides.
EVERYWHERE = (
    "bad_request",
    "validation_error",
    "not_authenticated",
    "invalid_token",
    "token_expired",
    "permission_denied",
    "method_not_allowed",
    "not_acceptable",
    "body_too_large",
    "rate_limited",
    "internal_error",
    "database_unavailable",
)
OF_A_KEY = ("idempotency_key_in_use", "idempotency_key_reused")
OF_ONE = ("not_found",)
OF_A_TARGET = ("not_found", "target_unavailable")
OF_A_VERB = (
    "not_found",
    "malformed_json",
    "csrf_failed",
    "invalid_transition",
    "length_required",
    "precondition_failed",
    "unsupported_media_type",
)
OF_A_BODY = ("malformed_json", "csrf_failed", "length_required", "unsupported_media_type")
OF_A_HOLD = (*OF_A_BODY, "precondition_failed")
OF_BULK = (*OF_A_BODY, "too_many_items")
OF_A_RUN = (*OF_A_VERB, "preflight_failed")
OF_A_DROP = (
    "malformed_json",
    "csrf_failed",
    "not_a_leftover",
    "length_required",
    "unsupported_media_type",
    "target_unavailable",
    "broker_unavailable",
)


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "async_migrations.rest.authentication.ApiTokenAuthentication"
    name = "bearerAuth"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of `manage.py create_api_token`. `Authorization: Token ...` works as well.",
        }


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "async_migrations.rest.authentication.BrowserAuthentication"
    name = "sessionAuth"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": settings.SESSION_COOKIE_NAME,
            "description": "The session of the admin. What changes something needs the header X-CSRFToken too.",
        }


class StrictBody(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Unknown fields and texts without a word are refused, and the document says so."""

    target_class = "async_migrations.rest.bodies.Strict"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        body: dict[str, Any] = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        for field in body.get("properties", {}).values():
            if field.get("type") == "string" and not {"format", "enum"} & set(field):
                field.update(TEXT)
        return {**body, "additionalProperties": False}


class Tuning(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The values of live tuning with their limits."""

    target_class = "async_migrations.rest.bodies.TuningBody"
    priority = 1  # Before StrictBody, which would find no field.

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        thresholds = {name: _number(limits.THRESHOLD, "Above it the backfill waits.") for name in limits.THRESHOLDS}
        throttle = {
            "oneOf": [{"type": "boolean"}, _object(thresholds)],
            "nullable": True,
            "description": "Whether it waits for a healthier database, or above which limits; an object replaces what "
            "was set before, null in it leaves a check out.",
        }
        numbers = {name: _number(number, _TUNING[name]) for name, number in limits.NUMBERS.items()}
        return {**_object({**numbers, "throttle": throttle}), "description": self.target.__doc__}


_TUNING = {
    "batch_size": "The most rows of a batch.",
    "target_batch_seconds": "How long a batch is to take.",
    "batch_delay_seconds": "Rest behind each batch.",
    "max_rows_per_second": "The most rows a second.",
    "duty_cycle": "Share of the time at work.",
    "priority": "The highest goes first among those in line.",
}


def _number(number: limits.Number, description: str) -> dict[str, Any]:
    kind = "integer" if number.whole else "number"
    bounds = {"minimum": number.low, "maximum": number.high}
    return {"type": kind, **bounds, "nullable": True, "description": description}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def documented(
    operation_id: str,
    summary: str,
    description: str,
    *,
    answers: dict[int, Any],
    problems: tuple[str, ...] = (),
    parameters: tuple[OpenApiParameter, ...] = (),
    request: Any = None,
    examples: tuple[OpenApiExample, ...] = (),
    forms: tuple[str, ...] = ("application/json",),
) -> Callable[[F], F]:
    """Describe one operation; the errors and headers that every door has are added.

    forms: the media types of the answers.
    """
    keyed = request is not None
    codes = EVERYWHERE + (OF_A_KEY if keyed else ()) + problems
    statuses = sorted({PROBLEMS[code].status for code in codes} | set(answers))
    return extend_schema(
        operation_id=operation_id,
        summary=summary,
        description=description,
        tags=[TAG],
        request=request,
        responses={**_in_forms(answers, forms), **_problem_answers(codes)},
        parameters=[*parameters, *(_key_headers(answers) if keyed else ()), *_common_headers(statuses)],
        examples=list(examples),
    )


def _in_forms(answers: dict[int, Any], forms: tuple[str, ...]) -> dict[Any, Any]:
    # With a media type in every key the first of them is the success, by which drf-spectacular recognises a list.
    return {(status, form) if content else status: content for status, content in answers.items() for form in forms}


def header(name: str, description: str, statuses: list[int], kind: Any = OpenApiTypes.STR) -> OpenApiParameter:
    """Describe a header of the answers with these statuses."""
    return OpenApiParameter(name, kind, OpenApiParameter.HEADER, description=description, response=statuses)


def request_header(name: str, description: str, kind: Any = OpenApiTypes.STR) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.HEADER, description=description)


def text(name: str, description: str) -> OpenApiParameter:
    """Describe a query parameter that is a text, see `filters.refuse_unknown`."""
    return OpenApiParameter(name, TEXT, description=description)


def ordering(fields: Iterable[str]) -> OpenApiParameter:
    """Describe `ordering` as a parameter to be repeated, which is what generated clients do with every list."""
    return OpenApiParameter(
        "ordering",
        str,
        many=True,
        explode=True,
        style="form",
        enum=[sign + field for field in fields for sign in ("", "-")],
        description="`-` for descending. Several: repeat it, or separate them by commas. Default: `-id`.",
    )


def _key_headers(answers: dict[int, Any]) -> list[OpenApiParameter]:
    return [
        request_header(
            "Idempotency-Key", KEY, {"type": "string", "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"}
        ),
        header("Idempotency-Replayed", "`true`: the first answer to this key again.", [*answers]),
    ]


def _common_headers(statuses: list[int]) -> list[OpenApiParameter]:
    return [
        request_header("X-Request-ID", "Up to 128 visible ASCII characters; taken over into log, events and answer."),
        header("X-Request-ID", "The request's id, or a new one.", list(statuses)),
        header("WWW-Authenticate", "The scheme that is wanted.", [401]),
        header("Allow", "The methods that are allowed.", [405]),
        header("Retry-After", "Seconds after which asking again makes sense.", [429, 503], OpenApiTypes.INT),
    ]


def _problem_answers(codes: tuple[str, ...]) -> dict[Any, OpenApiResponse]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {
        (status, MEDIA_TYPE): OpenApiResponse(
            ProblemSerializer,
            description=". ".join(f"`{code}`: {PROBLEMS[code].title}" for code in found),
            examples=[_problem_example(code) for code in found],
        )
        for status, found in sorted(by_status.items())
    }


_MEMBERS: dict[str, dict[str, Any]] = {
    "validation_error": {"errors": {"page_size": ["This is no whole number from 1 to 500."]}},
    "invalid_transition": {"status_now": "FINISHED", "allowed": ["rollback"]},
    "too_many_items": {"count": 731, "most": 500},
    "preflight_failed": {"findings": [examples.OBSTACLE]},
    "permission_denied": {"missing_permission": "async_migrations.run_asyncmigrationstatus"},
}


def _problem_example(code: str) -> OpenApiExample:
    kind = PROBLEMS[code]
    value = {
        "type": f"urn:problem-type:async-migrations:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "What happened this time, and what to do next.",
        "instance": "/api/async-migrations",
        "code": code,
        **_MEMBERS.get(code, {}),
        "request_id": "4f9d2c1e-6f1c-4a63-9a40-0f1f3f6a2b77",
    }
    return OpenApiExample(code, value=value, media_type=MEDIA_TYPE, status_codes=[str(kind.status)], response_only=True)


ETAG = "Changes whenever what is answered does."
RETRY_AFTER = "Seconds after which to look again; absent when the status is terminal."
KEY = (
    "1 to 255 printable ASCII characters, a UUID for instance, new for each wish. The same request with the same key "
    "gets the first answer again, for 24 hours; 5xx answers are not kept."
)
PREFER = request_header(
    "Prefer",
    "`wait=N`: hold the answer for up to N seconds, 30 at most, until the migration is not what If-None-Match says, or "
    "is terminal. With all places to wait taken it is answered at once, without `Preference-Applied`.",
)
PREFERENCE_APPLIED = "`wait=N` with the number that was gone by; absent: the answer was not held."
IF_MATCH = request_header("If-Match", "An ETag: do it only if it still is what was read, else 412.")
IF_NONE_MATCH = request_header("If-None-Match", "An ETag: answer 304 while it still is what was read.")


def example(name: str, value: Any, *statuses: int) -> OpenApiExample:
    return OpenApiExample(
        name,
        value=value,
        media_type="application/json",
        status_codes=[str(status) for status in statuses],
        response_only=True,
    )
