"""Alive: this process answers. Ready: what it needs answers too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from async_migrations.rest.problems import Problem, respond

log = logging.getLogger(__name__)


def _get_only(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Answer what is neither GET nor HEAD with a problem, without asking for a browser's CSRF token first."""

    @never_cache
    @csrf_exempt
    @wraps(view)
    def answer(request: HttpRequest) -> HttpResponse:
        if request.method in ("GET", "HEAD"):
            return view(request)
        refusal = respond(request, Problem("method_not_allowed", f"{request.method} is not possible here; use GET."))
        refusal["Allow"] = "GET, HEAD"
        return refusal

    return answer


@_get_only
def alive(request: HttpRequest) -> JsonResponse:
    """Answer 200 as long as this process can answer at all; a database that is away is no reason to restart it."""
    return JsonResponse({"status": "alive"})


@_get_only
def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 when every part is `ok`, else 503 with the reason beside the part that fails."""
    parts = {name: _state(name, look) for name, look in PARTS.items()}
    well = all(state in ("ok", INLINE) for state in parts.values())
    return JsonResponse({"status": "ready" if well else "not ready", "parts": parts}, status=200 if well else 503)


def _state(name: str, look: Callable[[], str]) -> str:
    """Return what the look says. An error becomes its class alone: its text may hold a host, a user or a password."""
    try:
        return look()
    except Exception as exc:
        log.warning("%s is not ready", name, exc_info=exc)
        return f"does not answer ({type(exc).__name__})"


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "ok"


def _migrations() -> str:
    """Look whether `migrate` has anything to do; asked anew each time, since a database can be restored under us."""
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not missing:
        return "ok"
    first = missing[0][0]
    return f"{len(missing)} not applied, {first.app_label}.{first.name} first: run manage.py migrate"


def _broker() -> str:
    if not hasattr(settings, "DRAMATIQ_BROKER"):
        return INLINE
    import dramatiq

    broker: Any = dramatiq.get_broker()
    if hasattr(broker, "client"):
        broker.client.ping()
    elif not broker.connection.is_open:
        return "does not answer"
    return "ok"


INLINE = "none, migrations are carried out inline"
PARTS: dict[str, Callable[[], str]] = {"database": _database, "migrations": _migrations, "broker": _broker}
