"""What the pages of the admin have in common: rows that nobody edits by hand, and how values are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html

from .asking import as_json
from .conf import conf
from .lifecycle import Channel, audit
from .models import AsyncMigrationStatus
from .rest.origin import origin_of


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows rows of the control database; no page of it writes. Its actions are named `<verb>_selected`."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).using(conf.control_database)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Enter what is asked for by somebody who may not: Django itself only shows the page again."""
        wanted = request.POST.get("action", "")
        if wanted in (self.actions or ()) and wanted not in self.get_actions(request):
            pks = filter(str.isdecimal, request.POST.getlist(ACTION_CHECKBOX_NAME))
            for row in self.get_queryset(request).filter(pk__in=pks):
                refuse_permission(request, wanted.removesuffix("_selected"), row)
        return super().changelist_view(request, extra_context)


def refuse_permission(request: HttpRequest, action: str, row: Any = None) -> None:
    """Enter in the audit that somebody asked for what is not allowed to them."""
    migration = row if isinstance(row, AsyncMigrationStatus) else None
    database = getattr(row, "database", "")
    audit.refuse(action, origin_of(request, Channel.ADMIN), "permission_denied", "", row=migration, database=database)


def may(request: HttpRequest, verb: str) -> bool:
    """Whether whoever asks has the permission for a verb."""
    permission = "run" if verb in {"pause", "resume"} else verb  # As over HTTP.
    return request.user.has_perm(f"async_migrations.{permission}_asyncmigrationstatus")


def moment(value: datetime | None) -> str:
    """Return a time of day with its date below; "-" for none."""
    if value is None:
        return "-"
    local = timezone.localtime(value)
    shown = date_format(local, "H:i:s"), note(date_format(local, "Y-m-d"))
    return format_html('<time class="am-number" datetime="{}">{}{}</time>', value.isoformat(), *shown)


def note(text: str) -> str:
    """Return a text in small print; nothing for an empty one."""
    return format_html('<span class="am-note">{}</span>', text) if text else ""


def sql_block(text: str) -> str:
    """Return SQL as it is written."""
    return format_html('<pre class="am-sql">{}</pre>', text.strip())


def json_block(value: Any) -> str:
    """Return a value as indented JSON; "-" for nothing."""
    return format_html('<pre class="am-json">{}</pre>', as_json(value)) if value else "-"
