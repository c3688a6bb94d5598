"""Errors outside of the API's own views: problem+json below /api and for whoever asks for no HTML, else Django's page.

Django calls the four handlers. `unknown_api` stands at the end of the addresses below /api, because with DEBUG on
Django would show its own page for an unknown one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import ItemsView
from types import FrameType
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.views import csrf, defaults
from django.views.debug import SafeExceptionReporterFilter
from django.views.decorators.csrf import csrf_exempt

from async_migrations.rest.problems import Problem, problem_of, respond


class Discreet(SafeExceptionReporterFilter):
    """What the page of DEBUG leaves out: variables of frames, for the driver's hold the password, and URLs with one."""

    hidden_settings = re.compile(f"{SafeExceptionReporterFilter.hidden_settings.pattern}|_URL|BROKER", re.IGNORECASE)

    def get_traceback_frame_variables(self, request: HttpRequest | None, tb_frame: FrameType) -> ItemsView[str, Any]:
        """Return no variable of any frame."""
        return {}.items()


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """handler400: a wrong Host header, too large a form, and the like."""
    return _problem(request, exception) if _wants_problem(request) else defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """handler403."""
    return _problem(request, exception) if _wants_problem(request) else defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """handler404."""
    return _problem(request, exception) if _wants_problem(request) else defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponseBase:
    """handler500: Django has logged the exception, and gives it to nobody but `sys`."""
    exception = sys.exc_info()[1] or Exception()
    return _problem(request, exception) if _wants_problem(request) else defaults.server_error(request)


@csrf_exempt
def unknown_api(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Answer 404 for what is below /api and is no address of it."""
    return _problem(request, Http404())


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """CSRF_FAILURE_VIEW: outside of the API, which looks after that itself."""
    if not _wants_problem(request):
        return csrf.csrf_failure(request, reason)
    return respond(request, Problem("csrf_failed", f"{reason} This address changes something for browsers only."))


def _problem(request: HttpRequest, exception: BaseException) -> HttpResponse:
    return respond(request, problem_of(exception))


def _wants_problem(request: HttpRequest) -> bool:
    """Browsers name text/html; `*/*`, which would accept it as well, is what a script's client sends."""
    in_api = request.path == "/api" or request.path.startswith("/api/")
    return in_api or "text/html" not in request.headers.get("Accept", "")
