"""What the OpenAPI document of this service says about addresses that are no views of the API: health and docs page."""

from __future__ import annotations

from typing import Any

from async_migrations.states import Direction, Kind, Status, StopRequest

DESCRIPTION = """\
Look after long PostgreSQL migrations: list, run, watch, cancel and roll back.

Every error is `application/problem+json` (RFC 9457) with a stable `code`. Every request may be repeated: asking twice
changes nothing. Every answer carries `X-Request-ID`. Unknown query parameters and fields are errors.
"""


def _probe(operation_id: str, summary: str, answers: dict[str, Any]) -> dict[str, Any]:
    for answer in answers.values():
        answer["headers"] = {"X-Request-ID": {"schema": {"type": "string"}, "description": "The request's id."}}
    return {
        "get": {
            "operationId": operation_id,
            "summary": summary,
            "tags": ["health"],
            "security": [],
            "responses": answers,
        }
    }


def _state(description: str, name: str, example: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


_READY = {"status": "ready", "parts": {"database": "ok", "migrations": "ok", "broker": "ok"}}
_NOT_READY = {"status": "not ready", "parts": {**_READY["parts"], "broker": "does not answer (ConnectionError)"}}  # type: ignore[dict-item]

PATHS: dict[str, Any] = {
    "/healthz": _probe(
        "alive", "Whether this process answers", {"200": _state("It does", "Alive", {"status": "alive"})}
    ),
    "/readyz": _probe(
        "ready",
        "Whether everything that is needed answers",
        {
            "200": _state("It does", "Readiness", _READY),
            "503": _state("It does not; the failing part says why", "Readiness", _NOT_READY),
        },
    ),
    "/api/docs": _probe(
        "docs",
        "This document as a page",
        {"200": {"description": "The page", "content": {"text/html": {"schema": {"type": "string"}}}}},
    ),
}

SCHEMAS: dict[str, Any] = {
    "Alive": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
    "Readiness": {
        "type": "object",
        "required": ["status", "parts"],
        "properties": {
            "status": {"type": "string", "description": "`ready` or `not ready`"},
            "parts": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
}

SETTINGS: dict[str, Any] = {
    "TITLE": "django-async-migrations",
    "DESCRIPTION": DESCRIPTION,
    "LICENSE": {"name": "Apache-2.0"},
    "TAGS": [
        {"name": "async-migrations", "description": "Migrations: look at them, and ask for something."},
        {"name": "health", "description": "For probes; no credentials."},
        {"name": "document", "description": "This document."},
    ],
    "ENUM_NAME_OVERRIDES": {
        "Status": Status.choices,
        "Direction": Direction.choices,
        "Kind": Kind.choices,
        "StopRequest": StopRequest.choices,
    },
    "APPEND_PATHS": PATHS,
    "APPEND_COMPONENTS": {"schemas": SCHEMAS},
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}
