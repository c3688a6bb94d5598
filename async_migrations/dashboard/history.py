"""What happened to a migration, newest first, by attempts; what is older is asked for part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .. import lifecycle
from ..conf import conf
from ..models import AsyncMigrationEvent
from ..states import CLAIM, Status
from .door import door, is_poll, page

#: How many events are shown at once.
SHOWN = 100

#: So many, at most, are renewed on a page that shows older ones below them.
MOST = 1_000


@dataclass(frozen=True)
class Stretch:
    """Events of one attempt, newest first, or of the time between two: `began` is None then.

    ended: the event that ended the attempt, None as long as it goes on or where another part has it.
    """

    events: Sequence[AsyncMigrationEvent]
    began: AsyncMigrationEvent | None
    ended: AsyncMigrationEvent | None


@dataclass(frozen=True)
class Part:
    """Some events.

    oldest: id of the last one. further: whether there are older ones. since: what they were asked to reach down to.
    """

    stretches: Sequence[Stretch]
    oldest: int | None
    further: bool
    since: int | None = None


@door("GET", "HEAD")
def events(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the events before one that the address names, without it the newest; to a script alone, else as a page."""
    row = lifecycle.get(pk)
    before = place(request.GET.get("before"))
    context = {"row": row, "part": _part(_events(pk, before)), "before": before}
    if is_poll(request):
        return render(request, "async_migrations/dashboard/older.html", context)
    return page(request, "events", context)


def newest(pk: int, since: int | None = None) -> Part:
    """Return the newest events of a migration.

    since: id down to which they are shown, because older ones are shown below; None, and where that would be more than
    MOST, as many as are shown at once.
    """
    every = _events(pk)
    kept = list(every.filter(pk__gte=since)[: MOST + 1]) if since else []
    if kept and len(kept) <= MOST:
        return Part(_stretches(kept, _under_way(every, kept)), since, further=False, since=since)
    return _part(every)


def place(text: str | None) -> int | None:
    """Return the id of an event that an address names; None where that makes no sense."""
    return int(text) if text and text.isdecimal() and len(text) < 19 else None


def _events(pk: int, before: int | None = None) -> QuerySet[AsyncMigrationEvent]:
    found = AsyncMigrationEvent.objects.using(conf.control_database).filter(migration_id=pk).order_by("-id")
    return found.filter(pk__lt=before) if before else found


def _part(every: QuerySet[AsyncMigrationEvent]) -> Part:
    found = list(every[: SHOWN + 1])
    shown, further = found[:SHOWN], len(found) > SHOWN
    under_way = _under_way(every, shown) if further else None
    return Part(_stretches(shown, under_way), shown[-1].pk if shown else None, further)


def _under_way(
    every: QuerySet[AsyncMigrationEvent], shown: Sequence[AsyncMigrationEvent]
) -> AsyncMigrationEvent | None:
    """Return the event with which the attempt began that the oldest of these belongs to, None if it belongs to none."""
    edges = Q(kind=CLAIM.name) | Q(from_status=Status.IN_PROGRESS)
    edge = every.filter(edges, pk__lt=shown[-1].pk).first()
    return edge if edge and edge.kind == CLAIM.name else None


def _stretches(shown: Sequence[AsyncMigrationEvent], began: AsyncMigrationEvent | None) -> list[Stretch]:
    """Return events by attempts. shown: newest first. began: the event with which the attempt of the oldest began."""
    stretches: list[Stretch] = []
    together: list[AsyncMigrationEvent] = []

    def close(ended: AsyncMigrationEvent | None = None) -> None:
        if together:
            stretches.insert(0, Stretch(together[::-1], began, ended))
            together.clear()

    for event in reversed(shown):
        if event.kind == CLAIM.name:
            close()
            began = event
        together.append(event)
        if event.from_status == Status.IN_PROGRESS:
            close(event)
            began = None
    close()
    return stretches
