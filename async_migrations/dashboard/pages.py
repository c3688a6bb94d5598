"""What is looked at: the overview, the list, one migration, its preflight, and the rows it has set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject

from .. import asking, lifecycle
from ..errors import ExecutionError
from ..execution import preflight
from ..execution.findings import ERROR
from ..models import AsyncMigrationBadRow, AsyncMigrationHold, AsyncMigrationStatus
from ..rest.backfills import asking_the_target
from ..states import Direction, Status
from . import tuning, watch
from .door import door, is_poll, live, may, page, sorry
from .filters import PageFilter, chips, kept
from .fragments import rendered, timeline

#: What can be asked of several at once.
OF_MANY = ("run", "cancel", "rollback")

# What there may be more of than the overview shows: in words, the filters of the list that have all of it, and the
# status that counts it.
_KINDS: dict[str, tuple[str, str, Status | None]] = {
    "blocked": ("that others block", "status=IN+PROGRESS", None),
    "queue": ("with sessions queued behind them", "status=IN+PROGRESS", None),
    "failed": ("that ended with an error", "status=ERROR", Status.ERROR),
    "set_aside": ("with rows set aside", "status=FINISHED&set_aside=yes", None),
    "late": ("that have been in line for long", "status=STARTED&ordering=updated_at", None),
    "going": ("in progress", "status=IN+PROGRESS", Status.IN_PROGRESS),
    "waiting": ("in line", "status=STARTED", Status.STARTED),
}

#: How many rows that were set aside are on a page.
SET_ASIDE = 50


@door("GET", "HEAD")
def overview(request: HttpRequest) -> HttpResponse:
    """Show how many there are, what wants a person, what goes on, and what waits."""
    counts = lifecycle.counts_up_to(watch.MOST)
    parts, kinds = watch.overview()
    held = watch.holds()

    def context() -> dict[str, Any]:
        cards = {name: rendered(request, "card", tags) for name, tags in parts.items()}
        more = _more(counts, kinds)
        return {**cards, "holds": _holds(held), "counts": counts, "most": watch.MOST, "more": more}

    return live(request, "overview", (counts, held, parts, kinds), context)


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
    held = watch.holds()

    def context() -> dict[str, Any]:
        many = [verb for verb in OF_MANY if verb in may(request)]
        return {
            # Of a poll that finds something nobody asks for it.
            "found": SimpleLazyObject(lambda: PageFilter(request.GET)),
            "lines": rendered(request, "line", shown.tags, pick=bool(many)),
            "page_of": shown,
            "most": max(watch.MOST, shown.last),
            "holds": _holds(held),
            "chips": chips(request.GET),
            "kept": kept(request.GET),
            "several": any(chip.name == "status" for chip in chips(request.GET)),
            "filtered": any(request.GET.get(name) for name in PageFilter.base_filters if name != "ordering"),
            "columns": list(_columns(request)),
            "many": many,
        }

    return live(request, "list", (shown, held), context)


@door("GET", "HEAD")
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Show all that is known of one migration."""
    database, tag = watch.one(pk)
    held = watch.holds(database)

    def context() -> dict[str, Any]:
        row = lifecycle.get(pk)
        return {
            "row": row,
            "holds": _holds(held, database),
            "timeline": timeline(request, row, last=tag[-1]),
            "verbs": [verb for verb in asking.offered(row) if verb in may(request)],
            # The form is not in the part that is renewed: it would take away what is being typed.
            "tuning": tuning.form(row) if "tune" in may(request) and not is_poll(request) else {},
        }

    return live(request, "detail", (tag, held), context)


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


def _holds(held: Sequence[int], database: str | None = None) -> list[AsyncMigrationHold]:
    """Return the holds in force, with `database` those that apply there. held: the ids of those seen just now."""
    return list(lifecycle.holds_in_force(database)) if held else []


def _more(counts: dict[str, int], kinds: dict[str, tuple[int, int]]) -> dict[str, list[tuple[str, str]]]:
    """Return what each part of the overview has no room for: in words, and the filters that have it in the list.

    kinds: of each, how many were found, and how many of these are shown.
    """
    more: dict[str, list[tuple[str, str]]] = {"troubled": [], "going": [], "waiting": []}
    for kind, (what, query, status) in _KINDS.items():
        found, shown = kinds[kind]
        total = counts[status] if status else found
        is_all = total <= watch.MOST if status else found < watch.FEW
        if total > shown or not is_all:
            said = f"{total - shown:,} more {what}" if is_all else f"more {what}"
            more[kind if kind in more else "troubled"].append((said, query))
    return more


def _columns(request: HttpRequest) -> Iterator[dict[str, str]]:
    """Yield the headings of the list, each with the order that a click on it asks for."""
    ordered = request.GET.get("ordering", "")
    for name, label in (("name", "Migration"), ("status", "Status"), ("", "Progress"), ("updated_at", "Changed")):
        now = {name: "ascending", f"-{name}": "descending"}.get(ordered, "") if name else ""
        yield {"label": label, "wanted": (f"-{name}" if now == "ascending" else name), "now": now}
