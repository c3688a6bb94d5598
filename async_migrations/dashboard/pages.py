"""What is looked at: the overview, the list, one migration, its preflight, and the rows it has set aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from .. import asking, lifecycle
from ..conf import conf
from ..errors import ExecutionError
from ..execution import preflight
from ..execution.findings import ERROR
from ..limits import NUMBERS
from ..models import AsyncMigrationBadRow, AsyncMigrationStatus
from ..rest.backfills import asking_the_target
from ..states import TERMINAL, Direction, Kind, Status
from . import watch
from .door import door, live, may, page, sorry
from .filters import PageFilter
from .fragments import rendered

#: What can be asked of several at once.
OF_MANY = ("run", "cancel", "rollback")

#: How many are shown of a migration: events, and rows set aside.
EVENTS, SET_ASIDE = 100, 50


@door("GET", "HEAD")
def overview(request: HttpRequest) -> HttpResponse:
    """Show how many there are, what wants a person, what goes on, and what waits."""
    counts = lifecycle.counts_up_to(watch.MOST)
    parts = watch.overview()

    def context() -> dict[str, Any]:
        cards = {name: rendered(request, "card", tags) for name, tags in parts.items()}
        holds = list(lifecycle.holds_in_force())
        return {**cards, "holds": holds, "counts": counts, "few": watch.FEW, "most": watch.MOST}

    return live(request, "overview", (counts, watch.holds(), parts), context)


@door("GET", "HEAD")
def listing(request: HttpRequest) -> HttpResponse:
    """Show a page of the migrations that match what the address says."""

    def rows() -> QuerySet[AsyncMigrationStatus]:
        every = lifecycle.rows().order_by("-id")
        if not request.GET:
            return every
        found = PageFilter(request.GET, queryset=every)
        return found.qs if found.form.is_valid() else every.none()

    shown = watch.listing(rows, request.GET)

    def context() -> dict[str, Any]:
        many = [verb for verb in OF_MANY if verb in may(request)]
        return {
            "found": PageFilter(request.GET),
            "lines": rendered(request, "line", shown.tags, pick=bool(many)),
            "page_of": shown,
            "most": max(watch.MOST, shown.last),
            "holds": list(lifecycle.holds_in_force()),
            "filtered": any(request.GET.get(name) for name in PageFilter.base_filters if name != "ordering"),
            "columns": list(_columns(request)),
            "many": many,
        }

    return live(request, "list", (shown, watch.holds()), context)


@door("GET", "HEAD")
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Show all that is known of one migration."""
    database, tag = watch.one(pk)

    def context() -> dict[str, Any]:
        row = lifecycle.get(pk)
        holds = list(lifecycle.holds_in_force(database))
        events = list(row.events.using(conf.control_database).order_by("-id")[: EVENTS + 1])
        return {
            "row": row,
            "holds": holds,
            "events": events[:EVENTS],
            "more": len(events) > EVENTS,
            "verbs": [verb for verb in asking.offered(row) if verb in may(request)],
            "tunables": list(tunables(row)) if "tune" in may(request) else [],
        }

    return live(request, "detail", (tag, watch.holds(database)), context)


@door("GET", "HEAD")
def findings(request: HttpRequest, pk: int) -> HttpResponse:
    """Look now what stands in the way of a migration, in the direction that the address asks for."""
    row = lifecycle.get(pk)
    direction = request.GET.get("direction")
    if direction not in (None, *Direction.values):
        return sorry(request, 400, "There is no such direction", f"Say one of: {', '.join(Direction.values)}.")
    found = [asdict(finding) for finding in preflight.look(row, direction)]
    backwards = direction == Direction.BACKWARDS
    forcible = {"run", "force"} <= may(request) and "run" in asking.offered(row) and not backwards
    stopped = any(finding["level"] == ERROR for finding in found)
    context = {"row": row, "findings": found, "may_force": forcible and stopped, "backwards": backwards}
    return page(request, "preflight", context)


@door("GET", "HEAD")
def set_aside(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the rows that a backfill could not change, read from its target at this moment."""
    row = lifecycle.get(pk)
    bad = AsyncMigrationBadRow.objects.using(row.database).filter(name=row.name, migration_id=pk).order_by("id")
    context: dict[str, Any] = {"row": row}
    try:
        with asking_the_target(row.database):
            context["rows"] = Paginator(bad, SET_ASIDE).get_page(request.GET.get("page"))
            context["rows"].object_list = list(context["rows"].object_list)
    except ExecutionError as exc:
        context["problem"] = exc
    return page(request, "set_aside", context)


def tunables(row: AsyncMigrationStatus) -> Iterator[dict[str, Any]]:
    """Yield the numbers that can be set live now, each with what is set."""
    if row.status in TERMINAL - {Status.ERROR}:
        return
    for name, limit in NUMBERS.items():
        if name == "priority" or row.kind == Kind.BACKFILL:
            value = row.priority if name == "priority" else row.tuning.get(name)
            label = name.replace("_", " ").capitalize()
            yield {"name": name, "label": label, "limit": limit, "value": value, "file": row.options.get(name)}


def _columns(request: HttpRequest) -> Iterator[dict[str, str]]:
    """Yield the headings of the list, each with the order that a click on it asks for."""
    ordered = request.GET.get("ordering", "")
    for name, label in (("name", "Migration"), ("status", "Status"), ("", "Progress"), ("updated_at", "Changed")):
        now = {name: "ascending", f"-{name}": "descending"}.get(ordered, "") if name else ""
        yield {"label": label, "wanted": (f"-{name}" if now == "ascending" else name), "now": now}
