"""What the doors read: nothing that is not asked for, and nothing that is left out in silence."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from .. import limits
from ..states import Kind, Status
from .fields import SwitchField, TimeField, WholeNumberField


class Strict(serializers.Serializer[Any]):
    """A body in which a field that nobody reads is an error: it would be a wish that is silently not granted."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            offered = ", ".join(self.fields) or "none"
            raise serializers.ValidationError(
                {name: [f"There is no such field here. There are: {offered}."] for name in unknown}
            )
        return super().to_internal_value(data)


@extend_schema_serializer(component_name="RunRequest")
class RunBody(Strict):
    """All of it is optional, and so is the body."""

    run_at = TimeField(
        required=False, allow_null=True, default=None, help_text="Not to begin before; null or a past time: at once."
    )
    priority = WholeNumberField(
        limits.TERMS["priority"],
        required=False,
        allow_null=True,
        help_text="The highest goes first among those in line; null: as it is.",
    )
    max_attempts = WholeNumberField(
        limits.TERMS["max_attempts"],
        required=False,
        allow_null=True,
        help_text="Attempts before an error that may pass becomes final; null: as it is.",
    )
    force = SwitchField(
        required=False,
        default=False,
        help_text="Whatever stands in the way; needs the permission `force_asyncmigrationstatus`.",
    )


@extend_schema_serializer(component_name="EmptyRequest")
class EmptyBody(Strict):
    """No fields; the body may be left out."""


@extend_schema_serializer(component_name="HoldRequest")
class HoldBody(Strict):
    """Why nothing may go on, and until when."""

    reason = serializers.CharField(max_length=1000, help_text="For those who wonder why nothing moves.")
    expires_at = TimeField(
        required=False, allow_null=True, default=None, help_text="It ends by itself then; null: when it is lifted."
    )

    def validate_expires_at(self, time: datetime | None) -> datetime | None:
        if time is not None and time <= timezone.now():
            raise serializers.ValidationError("This time is over: the hold would never be in force.")
        return time


@extend_schema_serializer(component_name="BulkFilter")
class BulkFilter(Strict):
    """Which migrations, as the list has these filters; at least one."""

    status = serializers.ListField(
        child=serializers.ChoiceField(choices=Status.choices), required=False, allow_empty=False, help_text="One of."
    )
    name = serializers.CharField(required=False, help_text="Exactly this name.")
    search = serializers.CharField(required=False, help_text="Part of the name, in any case.")
    database = serializers.CharField(required=False, help_text="Django alias of the target.")
    app = serializers.CharField(required=False, help_text="Those of the Django app with this label.")
    kind = serializers.ChoiceField(choices=Kind.choices, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            raise serializers.ValidationError("An empty filter would mean every migration there is. Say which.")
        return attrs


@extend_schema_serializer(component_name="BulkRequest")
class BulkBody(Strict):
    """Which migrations are meant: either `ids` or `filter`."""

    ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1), required=False, allow_empty=False
    )
    filter = BulkFilter(required=False)
    dry_run = serializers.BooleanField(required=False, default=False, help_text="Only say what would become of each.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("ids" in attrs) == ("filter" in attrs):
            raise serializers.ValidationError("Say which migrations are meant: either ids or filter.")
        return attrs


@extend_schema_serializer(component_name="DropRequest")
class DropBody(Strict):
    """Which leftover to drop, as the list names it."""

    # The context has `targets`: those that are there for who asks.

    database = serializers.CharField(help_text="Django alias of the target.")
    schema = serializers.CharField(max_length=63)
    name = serializers.CharField(max_length=63)

    def validate_database(self, alias: str) -> str:
        if alias not in (known := self.context["targets"]):
            raise serializers.ValidationError(f"There is no such PostgreSQL target. There are: {', '.join(known)}.")
        return alias


@extend_schema_serializer(component_name="TuningRequest")
class TuningBody(Strict):
    """What to set live. What is left out stays; null takes back what was set, so that the file's value counts again."""

    def to_internal_value(self, data: Any) -> Any:
        """Leave the values to `limits`, which everybody else who sets them is held to as well."""
        if not isinstance(data, dict):
            return super().to_internal_value(data)
        try:
            limits.check(data)
        except limits.OutOfLimits as exc:
            raise serializers.ValidationError(exc.errors) from exc
        return data
