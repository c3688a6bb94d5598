"""Lines and cards that many pages show, each made once for what it shows.

While something is in progress each open page is renewed every second or two, and nearly all of it is as it was.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.safestring import SafeString

from . import watch

#: How many are kept, of one or two kilobytes each.
KEPT = 2_000

# By all that they are made of. Neither a user nor a form is in them: what depends on rights is in what they are given.
_MADE: dict[Hashable, SafeString] = {}


def rendered(request: HttpRequest, template: str, tags: Sequence[watch.Tag], *, pick: bool = False) -> list[SafeString]:
    """Return the rows with these tags, in their order, as the template shows them; one that is gone is left out.

    template: its name. pick: whether they can be chosen.
    """
    # The path says under which prefix the links in them lead.
    around = (template, pick, request.path, timezone.get_current_timezone_name(), translation.get_language())
    shown = {tag[0]: made for tag in tags if (made := _MADE.get((around, tag)))}
    for row in watch.in_full(tag for tag in tags if tag[0] not in shown):
        file = f"async_migrations/dashboard/{template}.html"
        shown[row.pk] = render_to_string(file, {"row": row, "pick": pick}, request)
        if len(_MADE) >= KEPT:
            _MADE.clear()
        # By the tag of what was read: it may be newer than the one that was asked for.
        _MADE[around, watch.tag_of_row(row)] = shown[row.pk]
    return [shown[pk] for pk, *_ in tags if pk in shown]
