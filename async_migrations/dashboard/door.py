"""Who comes in, and how a page that is looked at again and again is answered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.utils.http import parse_etags

from ..lifecycle import Channel, audit, holds_in_force
from ..models import AsyncMigrationStatus
from ..rest import granted, permissions
from ..rest.origin import origin_of

#: What each thing that can be asked for needs, as over HTTP.
NEEDS = {
    "run": permissions.RUN,
    "force": permissions.FORCE,
    "pause": permissions.RUN,
    "resume": permissions.RUN,
    "cancel": permissions.CANCEL,
    "rollback": permissions.ROLLBACK,
    "tune": permissions.TUNE,
    "hold": permissions.HOLD,
    "lift": permissions.HOLD,
    "drop_leftover": permissions.RUN,
}

View = Callable[..., HttpResponse]


def door(*methods: str) -> Callable[[View], View]:
    """Let a view be asked with these methods, by people who are logged in and may look at migrations."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            response = _to_login(request) if not request.user.is_authenticated else _answer(view, request, args, kwargs)
            patch_cache_control(response, private=True, no_store=True)
            patch_vary_headers(response, ["HX-Request", "Cookie"])
            return response

        # A project's ATOMIC_REQUESTS would hide from the workers what was asked for.
        for alias in connections:
            guarded = transaction.non_atomic_requests(alias)(guarded)
        return only(*methods)(guarded)

    return decorate


def only(*methods: str) -> Callable[[View], View]:
    """Answer what is asked by another method with a page that says so: Django's own answer shows nothing at all."""

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if request.method in methods:
                return view(request, *args, **kwargs)
            text = "This address does something when a button is pressed, and shows nothing. Press it where it is."
            refusal = sorry(request, 405, "Nothing was done", text)
            refusal.headers["Allow"] = ", ".join(methods)
            return refusal

        return checked

    return decorate


def require(request: HttpRequest, verb: str, row: AsyncMigrationStatus | None = None, database: str = "") -> None:
    """Raise PermissionMissing, and enter it in the audit, where the user may not do what is asked for."""
    if not request.user.has_perm(NEEDS[verb]):
        origin = origin_of(request, Channel.DASHBOARD)
        audit.refuse(verb, origin, "permission_denied", "", row=row, database=database)
        raise permissions.PermissionMissing(request.user.get_username(), NEEDS[verb])


def may(request: HttpRequest) -> frozenset[str]:
    """Return all that the user may ask for."""
    return frozenset(verb for verb, permission in NEEDS.items() if request.user.has_perm(permission))


def is_poll(request: HttpRequest) -> bool:
    """Whether a page that is open asks whether it still is what it shows."""
    return request.headers.get("HX-Request") == "true"


def live(request: HttpRequest, page: str, state: Any, context: Callable[[], Mapping[str, Any]]) -> HttpResponse:
    """Answer with a page, to a poll with its live part alone, and with 304 to one that knows that part.

    page: name of the template, and of that of the live part in `live/`. state: all that the live part is made of.
    context: makes what the templates are given; not called for a 304.
    """
    tag = tag_of((request.user.pk, sorted(may(request)), state))
    poll = is_poll(request)
    if poll and knows(request, tag):
        return HttpResponse(status=304, headers={"ETag": tag})
    template = f"async_migrations/dashboard/{'live/' if poll else ''}{page}.html"
    response = render(request, template, {**context(), "page": page, "may": may(request), "etag": tag})
    response.headers["ETag"] = tag
    return response


def page(request: HttpRequest, name: str, context: Mapping[str, Any], status: int = 200) -> HttpResponse:
    """Answer with a page that is as it was when it was asked for, with the holds of its `row`, of all without one.

    name: of its template.
    """
    row = context.get("row")
    around = {"holds": list(holds_in_force(row.database if row else None)), "may": may(request)}
    return render(request, f"async_migrations/dashboard/{name}.html", {**around, **context}, status=status)


def tag_of(state: Any) -> str:
    """Return the ETag of what is made of this."""
    return f'"{hashlib.sha256(repr(state).encode()).hexdigest()[:24]}"'


def knows(request: HttpRequest, tag: str) -> bool:
    """Whether whoever asks has what this ETag names. Weakly: a proxy that compresses makes ours weak."""
    return tag in {sent.removeprefix("W/") for sent in parse_etags(request.headers.get("If-None-Match", ""))}


def _to_login(request: HttpRequest) -> HttpResponse:
    """Lead to the login and from there back; where a login has ended under somebody's hands, that is told there."""
    login = reverse("dashboard:login")
    ended = f"{login}?ended=1"
    if is_poll(request):
        # The page around it has to go as well, not only the part that was asked for.
        there = redirect_to_login(request.get_full_path(), ended).headers["Location"]
        return HttpResponse(status=204, headers={"HX-Redirect": there})
    if request.method == "POST":
        return redirect_to_login("", ended)
    return redirect_to_login(request.get_full_path(), login)


def _answer(view: View, request: HttpRequest, args: Any, kwargs: Any) -> HttpResponse:
    granted.look_up(request.user)
    try:
        if not request.user.has_perm(permissions.VIEW):
            raise permissions.PermissionMissing(request.user.get_username(), permissions.VIEW)
        return view(request, *args, **kwargs)
    except permissions.PermissionMissing as exc:
        return sorry(request, 403, "This is not for you", str(exc.detail))
    except AsyncMigrationStatus.DoesNotExist:
        return sorry(
            request, 404, "There is no such migration", "It may have been removed. The list has all there are."
        )


def sorry(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    """Answer with a page that says what was not done, and why."""
    context = {"title": title, "text": text, "known": request.user.has_perm(permissions.VIEW)}
    return render(request, "async_migrations/dashboard/sorry.html", context, status=status)
