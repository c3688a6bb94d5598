"""How long each door takes, and the span of a request."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .. import counting, tracing
from .request_id import current_request_id

_VALUE = re.compile(r"<(?:[^<>:]+:)?([^<>:]+)>")


@contextmanager
def observed(request: HttpRequest) -> Iterator[Callable[[HttpResponseBase], None]]:
    """Time the block in which a door answers, within a span; it says with what. Without an answer it is a 500."""
    began, status, waited = time.perf_counter(), 500, False

    def seen(response: HttpResponseBase) -> None:
        nonlocal status, waited
        status, waited = response.status_code, "Preference-Applied" in response.headers
        failed = str(status) if status >= 500 else None
        mark({"http.response.status_code": status, tracing.ERROR: failed})

    method, door = request.method or "", _door(request.resolver_match.route if request.resolver_match else "")
    about = {"http.request.method": method, "http.route": door, "request_id": current_request_id()}
    parent = request.headers.get("traceparent", "")
    with tracing.span(f"{method} {door}", about, kind="server", parent=parent) as mark:
        try:
            yield seen
        finally:
            counting.answered(door, method, status, time.perf_counter() - began, waited=waited)


@lru_cache(maxsize=64)
def _door(route: str) -> str:
    """Return a route of Django's as the documents have it: /api/async-migrations/{id}/run."""
    return "/" + _VALUE.sub(r"{\1}", route)
