"""Lines and cards that many pages show, and timelines, each made once for what it shows.

While something is in progress each open page is renewed every second or two, and nearly all of it is as it was.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.safestring import SafeString

from ..models import AsyncMigrationStatus
from . import history, watch

#: How many lines and cards are kept, of one or two kilobytes each, and how many timelines, of up to some hundred.
KEPT, TIMELINES_KEPT = 2_000, 50

# By all that they are made of. Neither a user nor a form is in them: what depends on rights is in what they are given.
_MADE: dict[Hashable, SafeString] = {}
_TIMELINES: dict[Hashable, SafeString] = {}


def rendered(request: HttpRequest, template: str, tags: Sequence[watch.Tag], *, pick: bool = False) -> list[SafeString]:
    """Return the rows with these tags, in their order, as the template shows them; one that is gone is left out.

    template: its name. pick: whether they can be chosen.
    """
    around = (template, pick, *_around(request))
    shown = {tag[0]: made for tag in tags if (made := _MADE.get((around, tag)))}
    for row in watch.in_full(tag for tag in tags if tag[0] not in shown):
        shown[row.pk] = _render(request, template, {"row": row, "pick": pick})
        if len(_MADE) >= KEPT:
            _MADE.clear()
        # By the tag of what was read: it may be newer than the one that was asked for.
        _MADE[around, watch.tag_of_row(row)] = shown[row.pk]
    return [shown[pk] for pk, *_ in tags if pk in shown]


def timeline(request: HttpRequest, row: AsyncMigrationStatus, last: int | None) -> SafeString:
    """Return what happened to a migration, down to where the address says; no heartbeat changes it.

    last: id of its last event.
    """
    since = history.place(request.GET.get("since"))
    key = (row.pk, row.created_at, last, since, *_around(request))
    made = _TIMELINES.get(key)
    if made is None:
        made = _render(request, "timeline", {"row": row, "part": history.newest(row.pk, since)})
        if len(_TIMELINES) >= TIMELINES_KEPT:
            _TIMELINES.clear()
        _TIMELINES[key] = made
    return made


def _around(request: HttpRequest) -> tuple[str, ...]:
    """Return what all of them depend on. The path says under which prefix the links in them lead."""
    return request.path, timezone.get_current_timezone_name(), translation.get_language()


def _render(request: HttpRequest, template: str, context: dict[str, Any]) -> SafeString:
    return render_to_string(f"async_migrations/dashboard/{template}.html", context, request)
