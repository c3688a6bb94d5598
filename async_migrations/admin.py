"""The Django admin: what every migration is doing, and the verbs. Rows are never edited by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.text import slugify

from . import admin_records, states, words  # noqa: F401 - registers the pages beside these
from .admin_parts import ReadOnlyAdmin, json_block, may, moment, note, sql_block
from .asking import LABELS, ask, facts, offered, refused, tell
from .conf import conf
from .errors import PreflightFailed, TransitionRefused
from .execution import preflight
from .lifecycle import Channel
from .models import AsyncMigrationStatus
from .rest.origin import origin_of
from .states import Status
from .words import asked_to, blockers, duration, throttling

#: Events on the detail page; the rest is a link away.
EVENTS_SHOWN = 100


@admin.register(AsyncMigrationStatus)
class AsyncMigrationStatusAdmin(ReadOnlyAdmin):
    """The migrations, with the actions run, pause, resume, cancel and roll back."""

    actions = ("run_selected", "pause_selected", "resume_selected", "cancel_selected", "rollback_selected")
    list_display = (
        "short_name",
        "database",
        "badge",
        "progress",
        "attempts",
        "requested_by",
        "started",
        "finished",
    )
    list_filter = ("status", "database", "kind", "created_at")
    list_per_page = 50
    search_fields = ("name",)
    search_help_text = "Any part of the name"
    date_hierarchy = "created_at"
    fieldsets: ClassVar = (
        (None, {"fields": ("name", "database", "badge", "progress", "direction", "blocked_by", "throttled_by")}),
        ("SQL", {"fields": ("forwards", "backwards")}),
        ("Who and when", {"fields": ("requested_by", "requested_at", "run_at", "started_at", "finished_at")}),
        ("Attempt", {"fields": ("attempts", "worker", "heartbeat_at", "stop_requested")}),
        ("Tuning", {"fields": ("priority", "set_live", "quarantined")}),
        (
            "Under the hood",
            {
                "classes": ("collapse",),
                "fields": (
                    "id",
                    "kind",
                    "has_run",
                    "created_at",
                    "updated_at",
                    "dispatched_at",
                    "job_id",
                    "sql_digest",
                    "all_options",
                    "all_meta",
                ),
            },
        ),
    )

    class Media:
        css: ClassVar = {"all": ("async_migrations/admin.css",)}

    # --- who may do what -------------------------------------------------------------------------------------------

    def has_run_permission(self, request: HttpRequest) -> bool:
        return may(request, "run")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return may(request, "cancel")

    def has_rollback_permission(self, request: HttpRequest) -> bool:
        return may(request, "rollback")

    # --- what is shown ---------------------------------------------------------------------------------------------

    @admin.display(description="name", ordering="name")
    def short_name(self, row: AsyncMigrationStatus) -> str:
        package, _, module = row.name.rpartition(".")
        return format_html("{}{}", module, note(package))

    @admin.display(description="started", ordering="started_at")
    def started(self, row: AsyncMigrationStatus) -> str:
        return moment(row.started_at)

    @admin.display(description="finished", ordering="finished_at")
    def finished(self, row: AsyncMigrationStatus) -> str:
        return moment(row.finished_at)

    @admin.display(description="status", ordering="status")
    def badge(self, row: AsyncMigrationStatus) -> str:
        asked = f"asked to {asked_to(row.stop_requested)}" if row.stop_requested else ""
        return format_html('<span class="am-badge am-{}">{}</span>{}', slugify(row.status), row.status, note(asked))

    @admin.display(description="progress", ordering="progress_percent")
    def progress(self, row: AsyncMigrationStatus) -> str:
        if row.percent is None:
            return format_html("{}", throttling(row.throttled) or row.phase or "-")
        left = f"about {duration(row.eta_seconds)} left" if row.eta_seconds and not row.terminal else ""
        return format_html(
            '<span class="am-number"><progress class="am-progress" max="100" value="{}"></progress>{} %</span>{}',
            f"{row.percent:.1f}",
            f"{row.percent:.1f}",
            note(", ".join(filter(None, (throttling(row.throttled) or row.phase, left)))),
        )

    @admin.display(description="attempt", ordering="attempt")
    def attempts(self, row: AsyncMigrationStatus) -> str:
        return f"{row.attempt} of {row.max_attempts}" if row.attempt else "-"

    @admin.display(description="blocked by")
    def blocked_by(self, row: AsyncMigrationStatus) -> str:
        return "; ".join(blockers(row.waiting_on)) or "-"

    @admin.display(description="throttled by")
    def throttled_by(self, row: AsyncMigrationStatus) -> str:
        return throttling(row.throttled).removeprefix("throttled by ") or "-"

    @admin.display(description="set live")
    def set_live(self, row: AsyncMigrationStatus) -> str:
        return json_block(row.tuning)

    @admin.display(description="forwards")
    def forwards(self, row: AsyncMigrationStatus) -> str:
        return sql_block(row.sql_forwards)

    @admin.display(description="backwards")
    def backwards(self, row: AsyncMigrationStatus) -> str:
        return sql_block(row.sql_backwards)

    @admin.display(description="job id")
    def job_id(self, row: AsyncMigrationStatus) -> str:
        return str(row.meta.get("job_id") or "-")

    @admin.display(description="meta")
    def all_meta(self, row: AsyncMigrationStatus) -> str:
        return json_block(row.meta)

    @admin.display(description="options")
    def all_options(self, row: AsyncMigrationStatus) -> str:
        return json_block(row.options)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [str(name) for _, options in self.fieldsets for name in options["fields"]]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is not None:
            extra_context = {**(extra_context or {}), **self._detail(request, row)}
        return super().change_view(request, object_id, form_url, extra_context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lead to the events: the admin's own log never sees a worker."""
        return HttpResponseRedirect(_events_url(object_id))

    def _detail(self, request: HttpRequest, row: AsyncMigrationStatus) -> dict[str, Any]:
        count = row.events.using(conf.control_database).count()
        events = list(row.events.using(conf.control_database)[:EVENTS_SHOWN])
        may_list = request.user.has_perm("async_migrations.view_asyncmigrationevent")
        return {
            "title": "Async migration",
            "verbs": list(self._verbs(request, row)),
            "error": list(words.error(row.meta.get("error"))),
            "events": [{**vars(event), "detail_text": facts(event.detail)} for event in events],
            "events_count": count,
            "events_left_off": count - len(events),
            "events_url": _events_url(row.pk) if may_list else "",
        }

    def _verbs(self, request: HttpRequest, row: AsyncMigrationStatus) -> Iterator[dict[str, Any]]:
        for verb in offered(row):
            if may(request, verb):
                yield {"action": f"{verb}_selected", "label": LABELS[verb], "dangerous": verb == "rollback"}

    # --- what people do --------------------------------------------------------------------------------------------

    @admin.action(permissions=["run"], description="Run the selected migrations")
    def run_selected(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationStatus]) -> HttpResponse | None:
        return self._ask_each(request, queryset, "run")

    @admin.action(permissions=["run"], description="Pause the selected migrations")
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationStatus]) -> HttpResponse | None:
        return self._ask_each(request, queryset, "pause")

    @admin.action(permissions=["run"], description="Go on with the selected migrations")
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationStatus]) -> HttpResponse | None:
        return self._ask_each(request, queryset, "resume")

    @admin.action(permissions=["cancel"], description="Cancel the selected migrations")
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationStatus]) -> HttpResponse | None:
        return self._ask_each(request, queryset, "cancel")

    @admin.action(permissions=["rollback"], description="Roll back the selected migrations…")
    def rollback_selected(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationStatus]) -> HttpResponse | None:
        if request.POST.get("confirmed"):
            return self._ask_each(request, queryset, "rollback")
        rows = list(queryset)
        possible = [row for row in rows if row.status in states.ROLLBACK.sources]
        context = {
            **self.admin_site.each_context(request),
            "title": "Roll back?",
            "opts": self.opts,
            "media": self.media,
            "possible": possible,
            "refused": [_why_not(row) for row in rows if row not in possible],
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "detail": request.POST.get("_detail", ""),
            "back_url": self._origin_page(request) or request.get_full_path(),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "async_migrations/confirm_rollback.html", context)

    def _ask_each(self, request: HttpRequest, rows: Iterable[AsyncMigrationStatus], verb: str) -> HttpResponse | None:
        """Ask for each one by itself, so that a refusal keeps nothing else from happening."""
        origin = origin_of(request, Channel.ADMIN)
        looks = preflight.Looks()
        for row in rows:
            try:
                answer = ask(verb, row.pk, origin, looks=looks)
            except (TransitionRefused, PreflightFailed) as exc:
                refused(verb, origin, exc, row)
                messages.error(request, str(exc))
            except AsyncMigrationStatus.DoesNotExist as exc:
                refused(verb, origin, exc, row)
                messages.error(request, f"{row.name} on {row.database} is not there any more.")
            else:
                messages.add_message(request, messages.SUCCESS if answer.changed else messages.INFO, tell(answer))
        page = self._origin_page(request)
        return HttpResponseRedirect(page) if page else None

    def _origin_page(self, request: HttpRequest) -> str:
        """Return the detail page if that is where the button was pressed, else nothing."""
        pk = request.POST.get("_detail", "")
        return reverse("admin:async_migrations_asyncmigrationstatus_change", args=[pk]) if pk.isdecimal() else ""


def _events_url(pk: object) -> str:
    return f"{reverse('admin:async_migrations_asyncmigrationevent_changelist')}?migration__id__exact={pk}"


def _why_not(row: AsyncMigrationStatus) -> str:
    allowed = ", ".join(states.verbs_from(row.status)) or "waiting until it ends"
    reason = "rolled back already" if row.status == Status.ROLLED_BACK else row.status
    return f"{row.name} on {row.database} is {reason}; what is possible now: {allowed}."


# At the end: its pages are made of what is above.
from .webhooks import admin as webhooks_admin  # noqa: E402, F401

if apps.is_installed("knox"):  # Without it there are no tokens.
    from . import admin_tokens  # noqa: F401
