"""Errors outside of the API's own views: problem+json below /api and for whoever asks for no HTML, else a page.

Django calls the four handlers. `unknown_api` stands at the end of the addresses below /api, because with DEBUG on
Django would show its own page for an unknown one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import ItemsView, Mapping
from types import FrameType, MappingProxyType
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.debug import SafeExceptionReporterFilter
from django.views.decorators.csrf import csrf_exempt

from async_migrations.rest.codes import PROBLEMS
from async_migrations.rest.problems import Problem, problem_of, respond


class Discreet(SafeExceptionReporterFilter):
    """What the page of DEBUG leaves out: variables of frames, for the driver's hold the password, and URLs with one."""

    hidden_settings = re.compile(f"{SafeExceptionReporterFilter.hidden_settings.pattern}|_URL|BROKER", re.IGNORECASE)

    def get_traceback_frame_variables(self, request: HttpRequest | None, tb_frame: FrameType) -> ItemsView[str, Any]:
        """Return no variable of any frame."""
        return {}.items()


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler400: a wrong Host header, too large a form, and the like."""
    return _tell(request, problem_of(exception))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler403."""
    return _tell(request, problem_of(exception))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler404."""
    return _tell(request, problem_of(exception))


def server_error(request: HttpRequest) -> HttpResponse:
    """handler500: Django has logged the exception, and gives it to nobody but `sys`."""
    return _tell(request, problem_of(sys.exc_info()[1] or Exception()))


@csrf_exempt
def unknown_api(request: HttpRequest, rest: str = "") -> HttpResponse:
    """Answer 404 for what is below /api and is no address of it."""
    return respond(request, problem_of(Http404()))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """CSRF_FAILURE_VIEW: outside of the API, which looks after that itself."""
    if _wants_problem(request):
        return respond(request, Problem("csrf_failed", f"{reason} This address changes something for browsers only."))
    text = (
        "The form is out of date: since its page was loaded you logged in or out in another tab, or the browser keeps "
        "no cookies of this address. Load the page again and press the button once more. If that is refused as well, "
        f"tell whoever runs this service: {reason}"
    )
    return _page(403, "Nothing was done", text, again=_came_from(request))


def _tell(request: HttpRequest, problem: Problem) -> HttpResponse:
    if _wants_problem(request):
        return respond(request, problem)
    kind = PROBLEMS[problem.code]
    return _page(kind.status, kind.title, problem.detail, headers=problem.headers)


def _page(
    status: int, title: str, text: str, *, again: str = "", headers: Mapping[str, str] = MappingProxyType({})
) -> HttpResponse:
    """Answer with a page in the dashboard's look.

    It is made without the request, and so without the user, whom only the database knows: that may be what is away.

    again: address of a page that is to be loaded again.
    """
    context = {"title": title, "text": text, "again": again, "known": True}
    html = render_to_string("async_migrations/dashboard/sorry.html", context)
    return HttpResponse(html, status=status, headers={**headers, "Cache-Control": "no-store"})


def _came_from(request: HttpRequest) -> str:
    """Return the page of ours that a form was sent from, nothing where the browser does not say."""
    said = request.headers.get("Referer", "")
    return said if url_has_allowed_host_and_scheme(said, {request.get_host()}) else ""


def _wants_problem(request: HttpRequest) -> bool:
    """Browsers name text/html; `*/*`, which would accept it as well, is what a script's client sends."""
    in_api = request.path == "/api" or request.path.startswith("/api/")
    return in_api or "text/html" not in request.headers.get("Accept", "")
