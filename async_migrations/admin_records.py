"""The pages of the admin beside the migrations: the holds, the audit, and all events."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html

from . import lifecycle
from .admin_parts import ReadOnlyAdmin, json_block, may, moment, note, refuse_permission
from .asking import lift
from .lifecycle import Channel
from .models import AsyncMigrationAudit, AsyncMigrationEvent, AsyncMigrationHold
from .rest.origin import origin_of


def _databases() -> list[tuple[str, str]]:
    return [("", "All databases"), *((alias, alias) for alias in lifecycle.databases())]


class HoldForm(forms.ModelForm):  # type: ignore[type-arg]
    """Why nothing may go on, where, and until when."""

    database = forms.ChoiceField(required=False, choices=_databases, help_text="Which target is held.")
    reason = forms.CharField(
        max_length=1000, widget=forms.Textarea(attrs={"rows": 2}), help_text="For those who wonder why nothing moves."
    )

    class Meta:
        model = AsyncMigrationHold
        fields = ("database", "reason", "expires_at")

    def clean(self) -> dict[str, Any]:
        """Leave out Django's look for a hold of the same database: `set_hold` replaces it."""
        return self.cleaned_data

    def clean_expires_at(self) -> datetime | None:
        time: datetime | None = self.cleaned_data["expires_at"]
        if time is not None and time <= timezone.now():
            raise forms.ValidationError("This time is over: the hold would never be in force.")
        return time


@admin.register(AsyncMigrationHold)
class AsyncMigrationHoldAdmin(ReadOnlyAdmin):
    """Who keeps which migrations from going on, and who did. Whoever may look at migrations may look here."""

    form = HoldForm
    actions = ("lift_selected",)
    list_display = ("what", "reason", "by", "since", "until", "ended", "lifted_by")
    list_per_page = 50
    ordering = ("-id",)

    class Media:
        css: ClassVar = {"all": ("async_migrations/admin.css",)}

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "view")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may(request, "view")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return may(request, "hold")

    def has_hold_permission(self, request: HttpRequest) -> bool:
        return may(request, "hold")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        asked = ("database", "reason", "expires_at")
        return (*asked, "by", "request_id", "created_at", "lifted_at", "lifted_by") if obj else asked

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.get_fields(request, obj) if obj else ()

    @admin.display(description="held", ordering="database")
    def what(self, hold: AsyncMigrationHold) -> str:
        return hold.database or "all databases"

    @admin.display(description="since", ordering="created_at")
    def since(self, hold: AsyncMigrationHold) -> str:
        return moment(hold.created_at)

    @admin.display(description="until", ordering="expires_at")
    def until(self, hold: AsyncMigrationHold) -> str:
        return moment(hold.expires_at)

    @admin.display(description="ended", ordering="lifted_at")
    def ended(self, hold: AsyncMigrationHold) -> str:
        return moment(hold.lifted_at)

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method == "POST" and not self.has_add_permission(request):
            refuse_permission(request, "hold")
        return super().add_view(request, form_url, extra_context)

    def save_model(self, request: HttpRequest, obj: AsyncMigrationHold, form: Any, change: bool) -> None:
        """Set the hold; one that is in force there is replaced."""
        origin = origin_of(request, Channel.ADMIN)
        made = lifecycle.set_hold(obj.database, obj.reason, origin, expires_at=obj.expires_at)
        obj.__dict__.update(made.__dict__)

    @admin.action(permissions=["hold"], description="Lift the selected holds")
    def lift_selected(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationHold]) -> None:
        origin = origin_of(request, Channel.ADMIN)
        in_force = lifecycle.holds_in_force().filter(pk__in=queryset.values("pk"))
        databases = list(in_force.values_list("database", flat=True))
        for database in databases:
            if lift(database, origin) is not None:
                messages.success(request, f"Lifted: {database or 'all databases'}. What was held goes on.")
        if not databases:
            messages.info(request, "Nothing to do: none of these is in force any more.")


@admin.register(AsyncMigrationAudit)
class AsyncMigrationAuditAdmin(ReadOnlyAdmin):
    """Who asked for what, newest first; with a permission of its own."""

    list_display = ("when", "by", "channel", "address", "action", "subject", "outcome", "code")
    list_filter = ("outcome", "action", "channel", "at")
    list_per_page = 100
    search_fields = ("by", "name", "address", "token", "request_id")
    search_help_text = "Who, name of the migration, address, token's digest, or id of the request"
    ordering = ("-at", "-id")
    fields = (
        *("at", "by", "channel", "address", "token", "request_id", "action"),
        *("migration_id", "name", "database", "was", "becomes", "said", "outcome", "code"),
    )
    readonly_fields = fields

    class Media:
        css: ClassVar = {"all": ("async_migrations/admin.css",)}

    @admin.display(description="when", ordering="at")
    def when(self, entry: AsyncMigrationAudit) -> str:
        return moment(entry.at)

    @admin.display(description="of what", ordering="name")
    def subject(self, entry: AsyncMigrationAudit) -> str:
        return format_html("{}{}", entry.name or "-", note(f"on {entry.database}" if entry.database else ""))

    @admin.display(description="before")
    def was(self, entry: AsyncMigrationAudit) -> str:
        return json_block(entry.before)

    @admin.display(description="after")
    def becomes(self, entry: AsyncMigrationAudit) -> str:
        return json_block(entry.after)

    @admin.display(description="detail")
    def said(self, entry: AsyncMigrationAudit) -> str:
        return json_block(entry.detail)


@admin.register(AsyncMigrationEvent)
class AsyncMigrationEventAdmin(ReadOnlyAdmin):
    """The history of all migrations, newest first."""

    list_display = ("when", "migration_name", "kind", "change", "attempt", "by")
    list_filter = ("kind", "created_at")
    list_select_related = ("migration",)
    list_per_page = 100
    search_fields = ("migration__name", "by", "request_id")
    search_help_text = "Name of the migration, who did it, or id of the request"
    ordering = ("-id",)
    fields = ("created_at", "migration", "kind", "from_status", "to_status", "attempt", "by", "request_id", "text")
    readonly_fields = fields

    class Media:
        css: ClassVar = {"all": ("async_migrations/admin.css",)}

    @admin.display(description="when", ordering="id")
    def when(self, event: AsyncMigrationEvent) -> str:
        return moment(event.created_at)

    @admin.display(description="migration", ordering="migration__name")
    def migration_name(self, event: AsyncMigrationEvent) -> str:
        return format_html("{}{}", event.migration.name, note(f"on {event.migration.database}"))

    @admin.display(description="status", ordering="to_status")
    def change(self, event: AsyncMigrationEvent) -> str:
        return " → ".join(filter(None, (event.from_status, event.to_status))) or "-"

    @admin.display(description="detail")
    def text(self, event: AsyncMigrationEvent) -> str:
        return json_block(event.detail)
