"""The id of a request: taken over when the client sends a sane one, echoed on the answer, kept with what it causes."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "X-Request-ID"

# Visible ASCII only: the id goes into headers, log lines and a column of 128 characters.
_SANE = re.compile(r"[\x21-\x7e]{1,128}")
_current: ContextVar[str] = ContextVar("async_migrations_request_id", default="")


def current_request_id() -> str:
    """Return the id of the request that is being answered; empty outside of a request."""
    return _current.get()


@contextmanager
def bound(request: HttpRequest) -> Iterator[str]:
    """Give the request its id for as long as the block lasts; within a block that has one already, it stays."""
    if outer := _current.get():
        yield outer
        return
    given = request.headers.get(HEADER, "")
    token = _current.set(given if _SANE.fullmatch(given) else str(uuid.uuid4()))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


class RequestIDMiddleware:
    """Put the id on every answer of the project, and on every log line written meanwhile. Goes first in MIDDLEWARE."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with bound(request) as request_id:
            response = self.get_response(request)
        response.headers[HEADER] = request_id
        return response
