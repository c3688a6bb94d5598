"""Webhooks in the admin: made and switched there, and the log of what was sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from .. import lifecycle
from ..admin_parts import ReadOnlyAdmin, moment
from ..conf import conf
from ..errors import WebhookRefused
from ..lifecycle import Channel
from ..models import AsyncMigrationDelivery, AsyncMigrationWebhook
from ..rest.origin import origin_of
from ..states import NOTABLE
from . import deliveries, endpoints


class WebhookForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a person says of a webhook; refused for what `endpoints.check` refuses."""

    events = forms.MultipleChoiceField(
        choices=[(event, event) for event in endpoints.EVENTS],
        initial=NOTABLE,
        help_text="Statuses that are reached, or kinds of events.",
    )
    databases = forms.MultipleChoiceField(required=False, help_text="None: all.")

    class Meta:
        model = AsyncMigrationWebhook
        fields = ("name", "url", "events", "databases", "active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["databases"]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = [(alias, alias) for alias in lifecycle.databases()]

    def clean(self) -> dict[str, Any]:
        said: dict[str, Any] = super().clean() or {}
        if not self.errors:
            try:
                endpoints.check(said["name"], said["url"], said["events"], said["databases"])
            except WebhookRefused as exc:
                raise forms.ValidationError(str(exc)) from exc
        return said


@admin.register(AsyncMigrationWebhook)
class AsyncMigrationWebhookAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Where events are sent to."""

    form = WebhookForm
    actions = ("show_secret",)
    list_display = ("name", "url", "state", "failing_since", "problem")
    list_filter = ("active",)
    readonly_fields = ("state", "failing_since", "problem", "created_at", "created_by")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).using(conf.control_database)

    def save_model(self, request: HttpRequest, obj: AsyncMigrationWebhook, form: Any, change: bool) -> None:
        if not change:
            endpoints.draw_secret(obj)
            obj.created_by = request.user.get_username()
        with transaction.atomic(using=conf.control_database):
            obj.save(using=conf.control_database)
            if not obj.active:
                endpoints.set_active(obj, False)
            endpoints.enter("change" if change else "add", obj, origin_of(request, Channel.ADMIN))

    def response_add(self, request: HttpRequest, obj: AsyncMigrationWebhook, post_url_continue: Any = None) -> Any:
        return self._secrets(request, [obj])

    def delete_model(self, request: HttpRequest, obj: AsyncMigrationWebhook) -> None:
        with transaction.atomic(using=conf.control_database):
            endpoints.enter("remove", obj, origin_of(request, Channel.ADMIN))
            endpoints.remove(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationWebhook]) -> None:
        for webhook in queryset:
            self.delete_model(request, webhook)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Let the log go with its webhook, though nobody removes anything from it by hand."""
        shown, counts, _, protected = super().get_deleted_objects(objs, request)
        return shown, counts, set(), protected

    @admin.action(permissions=["change"], description="Show the signing secrets of the selected webhooks")
    def show_secret(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationWebhook]) -> HttpResponse:
        return self._secrets(request, queryset)

    def _secrets(self, request: HttpRequest, webhooks: Iterable[AsyncMigrationWebhook]) -> HttpResponse:
        """Answer with a page: a message would travel in a cookie, or lie in the table of the sessions."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Signing secrets, for the receivers",
            "opts": self.opts,
            "secrets": [(webhook.name, _shown(webhook)) for webhook in webhooks],
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "async_migrations/webhook_secrets.html", context)


def _shown(webhook: AsyncMigrationWebhook) -> str:
    try:
        return endpoints.shown(endpoints.secret_of(webhook))
    except WebhookRefused as exc:
        return str(exc)


@admin.register(AsyncMigrationDelivery)
class AsyncMigrationDeliveryAdmin(ReadOnlyAdmin):
    """What was sent, or is to be sent, newest first."""

    actions = ("resend_selected",)
    list_display = ("when", "webhook", "event", "migration", "status", "attempts", "answer", "error")
    list_filter = ("status", "webhook", "created_at")
    list_select_related = ("webhook", "event__migration")
    list_per_page = 100
    search_fields = ("event__migration__name", "webhook__name")
    fields = (
        "header",
        "webhook",
        "event",
        "migration",
        "status",
        "attempts",
        "next_attempt_at",
        "answer",
        "error",
        "created_at",
        "delivered_at",
    )
    readonly_fields = fields

    class Media:
        css: ClassVar = {"all": ("async_migrations/admin.css",)}

    def has_resend_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("async_migrations.change_asyncmigrationwebhook")

    @admin.display(description="when", ordering="id")
    def when(self, delivery: AsyncMigrationDelivery) -> str:
        return moment(delivery.created_at)

    @admin.display(description="migration")
    def migration(self, delivery: AsyncMigrationDelivery) -> str:
        return delivery.event.migration.name if delivery.event else "-"

    @admin.action(permissions=["resend"], description="Send the selected deliveries again")
    def resend_selected(self, request: HttpRequest, queryset: QuerySet[AsyncMigrationDelivery]) -> None:
        for delivery in queryset.select_related("webhook"):
            try:
                deliveries.resend(delivery)
            except WebhookRefused as exc:
                messages.error(request, str(exc))
            else:
                messages.success(request, f"To be sent again: {delivery.pk} to {delivery.webhook.name}.")
