"""What is looked at: the overview, the list, one migration, its preflight, and the rows it has set aside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.paginator import Paginator
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce, Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .. import asking, lifecycle
from ..conf import conf
from ..errors import ExecutionError
from ..execution import preflight, session
from ..execution.findings import ERROR
from ..limits import NUMBERS
from ..models import AsyncMigrationBadRow, AsyncMigrationHold, AsyncMigrationStatus
from ..rest.door import OF_THE_TAG
from ..states import TERMINAL, Kind, Status
from .door import door, live, may
from .filters import PageFilter

#: How many are shown: migrations on a page of the list, of each kind in the overview, events and rows set aside.
LISTED, FEW, EVENTS, SET_ASIDE = 50, 12, 100, 50

#: A migration that could have begun this long ago, and has not, wants somebody to look.
LONG_IN_LINE = timedelta(minutes=15)


@door("GET", "HEAD")
def overview(request: HttpRequest) -> HttpResponse:
    """Show how many there are, what wants a person, what goes on, and what waits."""
    holds = list(lifecycle.holds_in_force())
    counts = dict.fromkeys(Status.values, 0)
    for _, status, count in lifecycle.counts():
        counts[status] += count
    late = Q(status=Status.STARTED) & Q(wanted_at__lt=Now() - LONG_IN_LINE)
    queue = Q(status=Status.IN_PROGRESS) & ~Q(queued_behind=[])
    troubled = Q(status=Status.ERROR) | Q(status=Status.FINISHED, quarantined__gt=0) | late | queue
    parts = {
        "troubled": _few(lifecycle.rows().alias(wanted_at=Coalesce("run_at", "requested_at")).filter(troubled)),
        "going": _few(lifecycle.rows().filter(status=Status.IN_PROGRESS)),
        "waiting": _few(lifecycle.rows().filter(status=Status.STARTED), "-priority", "requested_at", "pk"),
    }
    state = (counts, _tags(holds), {name: _tags(rows) for name, rows in parts.items()})
    return live(request, "overview", state, lambda: {**parts, "holds": holds, "counts": counts, "few": FEW})


@door("GET", "HEAD")
def listing(request: HttpRequest) -> HttpResponse:
    """Show a page of the migrations that match what the address says."""
    found = PageFilter(request.GET, queryset=_light(lifecycle.rows()).order_by("-id"))
    rows = found.qs if found.form.is_valid() else found.queryset.none()
    page = Paginator(rows, LISTED).get_page(request.GET.get("page"))
    holds = list(lifecycle.holds_in_force())
    filtered = any(request.GET.get(name) for name in PageFilter.base_filters if name != "ordering")
    state = (page.number, page.paginator.count, _tags(page.object_list), _tags(holds))
    return live(
        request,
        "list",
        state,
        lambda: {
            "found": found,
            "rows": page,
            "holds": holds,
            "filtered": filtered,
            "columns": list(_columns(request)),
        },
    )


@door("GET", "HEAD")
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Show all that is known of one migration."""
    row = lifecycle.get(pk)
    holds = list(lifecycle.holds_in_force(row.database))
    last = row.events.using(conf.control_database).order_by("-id")
    newest = last.values_list("pk", flat=True).first()

    def context() -> dict[str, Any]:
        events = list(last[: EVENTS + 1])
        return {
            "row": row,
            "holds": holds,
            "events": events[:EVENTS],
            "more": len(events) > EVENTS,
            "verbs": [verb for verb in asking.offered(row) if verb in may(request)],
            "tunables": list(tunables(row)) if "tune" in may(request) else [],
        }

    return live(request, "detail", (_tags([row]), newest, _tags(holds)), context)


@door("GET", "HEAD")
def findings(request: HttpRequest, pk: int) -> HttpResponse:
    """Look now what stands in the way of a migration."""
    row = lifecycle.get(pk)
    found = [asdict(finding) for finding in preflight.look(row)]
    forcible = {"run", "force"} <= may(request) and "run" in asking.offered(row)
    stopped = any(finding["level"] == ERROR for finding in found)
    context = {"row": row, "findings": found, "may_force": forcible and stopped}
    return render(request, "async_migrations/dashboard/preflight.html", context)


@door("GET", "HEAD")
def set_aside(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the rows that a backfill could not change, read from its target at this moment."""
    row = lifecycle.get(pk)
    bad = AsyncMigrationBadRow.objects.using(row.database).filter(name=row.name, migration_id=pk).order_by("id")
    context: dict[str, Any] = {"row": row}
    try:
        with session.translated_by_django():
            context["rows"] = Paginator(bad, SET_ASIDE).get_page(request.GET.get("page"))
    except ExecutionError as exc:
        context["problem"] = exc
    return render(request, "async_migrations/dashboard/set_aside.html", context)


def tunables(row: AsyncMigrationStatus) -> Iterator[dict[str, Any]]:
    """Yield the numbers that can be set live now, each with what is set."""
    if row.status in TERMINAL - {Status.ERROR}:
        return
    for name, limit in NUMBERS.items():
        if name == "priority" or row.kind == Kind.BACKFILL:
            value = row.priority if name == "priority" else row.tuning.get(name)
            label = name.replace("_", " ").capitalize()
            yield {"name": name, "label": label, "limit": limit, "value": value, "file": row.options.get(name)}


def _light(rows: QuerySet[AsyncMigrationStatus]) -> QuerySet[AsyncMigrationStatus]:
    return rows.defer("sql_forwards", "sql_backwards", "sql_digest", "options")


def _few(rows: QuerySet[AsyncMigrationStatus], *order: str) -> list[AsyncMigrationStatus]:
    return list(_light(rows).order_by(*(order or (F("updated_at").desc(), "pk")))[:FEW])


def _tags(rows: Iterable[AsyncMigrationStatus | AsyncMigrationHold]) -> list[Any]:
    """Return what tells that a row is no longer as it was: every write of `lifecycle` sets `updated_at`."""
    return [(row.pk, *(getattr(row, name, None) for name in OF_THE_TAG)) for row in rows]


def _columns(request: HttpRequest) -> Iterator[dict[str, str]]:
    """Yield the headings of the list, each with the order that a click on it asks for."""
    ordered = request.GET.get("ordering", "")
    for name, label in (("name", "Migration"), ("status", "Status"), ("", "Progress"), ("updated_at", "Changed")):
        now = {name: "ascending", f"-{name}": "descending"}.get(ordered, "") if name else ""
        yield {"label": label, "wanted": (f"-{name}" if now == "ascending" else name), "now": now}
