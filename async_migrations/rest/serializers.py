"""What the doors read and answer. The fields of a row and their order are the contract's."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from .. import limits
from ..execution.findings import CODES, ERROR, INFO, WARNING
from ..lifecycle import gate
from ..models import AsyncMigrationBadRow, AsyncMigrationEvent, AsyncMigrationHold, AsyncMigrationStatus
from ..states import Direction, Kind, Status, StopRequest
from .filters import parse_aware

# --- fields ----------------------------------------------------------------------------------------------------------


class TimeField(serializers.DateTimeField):
    """A time as ISO 8601 in UTC, whatever format and time zone the project has set; read only with its offset."""

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso-8601", default_timezone=UTC, **options)

    def to_internal_value(self, value: Any) -> datetime:
        try:
            return parse_aware(value)
        except ValueError as exc:
            raise serializers.ValidationError(str(exc), code="invalid") from exc

    def to_representation(self, value: Any) -> Any:
        # With USE_TZ off, Django reads times in the project's zone and leaves the offset out.
        if isinstance(value, datetime) and timezone.is_naive(value):
            value = timezone.make_aware(value, timezone.get_default_timezone())
        return super().to_representation(value)


class FiniteField(serializers.FloatField):
    """A number that JSON can carry; infinity and NaN are not known, that is null."""

    def to_representation(self, value: Any) -> float | None:  # type: ignore[override]
        return float(value) if math.isfinite(value) else None


class WholeNumberField(serializers.IntegerField):
    """A whole number within its limits; unlike REST framework's, a text is none."""

    def __init__(self, number: limits.Number, **options: Any) -> None:
        super().__init__(min_value=int(number.low), max_value=int(number.high), **options)
        self.number = number

    def to_internal_value(self, data: Any) -> int:
        if not self.number.holds(data):
            raise serializers.ValidationError(f"This is not {self.number}.", code="invalid")
        return int(data)


class SwitchField(serializers.BooleanField):
    """true or false, and no other word for it."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Strict(serializers.Serializer[Any]):
    """A body in which a field that nobody reads is an error: it would be a wish that is silently not granted."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            offered = ", ".join(self.fields) or "none"
            raise serializers.ValidationError(
                {name: [f"There is no such field here. There are: {offered}."] for name in unknown}
            )
        return super().to_internal_value(data)


# --- answers ---------------------------------------------------------------------------------------------------------


class DuplicateSerializer(serializers.Serializer[Any]):
    """A key that more than one row has."""

    key = serializers.DictField(
        child=serializers.CharField(allow_null=True), help_text="Column or expression to its value as text, cut short."
    )
    count = serializers.IntegerField(help_text="How many rows have it.")


class MigrationErrorSerializer(serializers.Serializer[Any]):
    """Why a migration ended in ERROR."""

    code = serializers.CharField(help_text="Stable name of the kind of failure.")
    message = serializers.CharField(help_text="What happened; PostgreSQL's own words where it spoke.")
    sqlstate = serializers.CharField(allow_null=True, help_text="PostgreSQL's five characters.")
    detail = serializers.CharField(allow_null=True)
    hint = serializers.CharField(allow_null=True, help_text="What to do next.")
    statement = serializers.IntegerField(allow_null=True, help_text="Number of the statement, from 1.")
    samples = DuplicateSerializer(
        many=True, required=False, help_text="With duplicate_key: the keys with the most rows; absent: not counted."
    )
    key = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Of a backfill: the row's key, a text per column."
    )


@extend_schema_field(MigrationErrorSerializer)
class MigrationErrorField(serializers.JSONField):
    pass


class MetaSerializer(serializers.Serializer[Any]):
    """What the original design promises about an attempt; empty before the first."""

    job_id = serializers.CharField(required=False, help_text="Identity of the current or last attempt.")
    error = MigrationErrorSerializer(required=False)


@extend_schema_field(MetaSerializer)
class MetaField(serializers.JSONField):
    pass


@extend_schema_field({"oneOf": [{"type": "number"}, {"type": "string"}]})
class MeasuredField(serializers.JSONField):
    pass


class ThrottledSerializer(serializers.Serializer[Any]):
    """Why a backfill waits for a healthier database."""

    reason = serializers.CharField(help_text="Name of the signal, or what a function of the project said.")
    value = MeasuredField(allow_null=True, help_text="Of the signal, or the path of the function.")
    limit = MeasuredField(allow_null=True, help_text="Of the signal, in the same unit.")
    since = TimeField()


@extend_schema_field(ThrottledSerializer)
class ThrottledField(serializers.JSONField):
    pass


class ProgressSerializer(serializers.Serializer[AsyncMigrationStatus]):
    """How far it is. What is not known is null, never a guess."""

    done = serializers.IntegerField(source="progress_done", allow_null=True)
    total = serializers.IntegerField(source="progress_total", allow_null=True)
    unit = serializers.CharField(source="progress_unit", help_text="Empty while nothing is counted.")
    percent = FiniteField(allow_null=True, help_text="0 to 100; 100 only when the status is FINISHED.")
    rate_per_second = FiniteField(source="progress_rate", allow_null=True)
    eta_seconds = serializers.IntegerField(allow_null=True)


class MigrationSerializer(serializers.Serializer[AsyncMigrationStatus]):
    """A migration: one unit of background work."""

    id = serializers.IntegerField()
    name = serializers.CharField(help_text="Dotted path of the migration file.")
    database = serializers.CharField(help_text="Django alias of the target.")
    kind = serializers.ChoiceField(choices=Kind.choices)
    direction = serializers.ChoiceField(choices=Direction.choices, help_text="Which of the two SQL texts is meant.")
    status = serializers.ChoiceField(choices=Status.choices)
    terminal = serializers.BooleanField(help_text="Nothing changes any more unless somebody asks.")
    stop_requested = serializers.ChoiceField(choices=StopRequest.choices, allow_null=True)
    meta = MetaField()
    phase = serializers.CharField(help_text="What is going on, in words; empty when nothing is.")
    progress = ProgressSerializer(source="*")
    waiting_on = serializers.ListField(child=serializers.DictField(), help_text="Sessions that block the statement.")
    throttled = ThrottledField(allow_null=True, help_text="Why it waits for a healthier database; null: it does not.")
    attempt = serializers.IntegerField(help_text="Number of the current or last attempt, from 1; 0 before the first.")
    max_attempts = serializers.IntegerField()
    worker = serializers.CharField(help_text="Who carries it out, or did so last; empty before.")
    requested_by = serializers.CharField(help_text="Who asked last; empty if nobody has.")
    run_at = TimeField(allow_null=True, help_text="Not to begin before.")
    created_at = TimeField()
    updated_at = TimeField()
    requested_at = TimeField(allow_null=True)
    started_at = TimeField(allow_null=True)
    finished_at = TimeField(allow_null=True)
    heartbeat_at = TimeField(allow_null=True)


class MigrationDetailSerializer(MigrationSerializer):
    """A migration with its SQL."""

    queued_behind = serializers.ListField(
        child=serializers.DictField(), help_text="Sessions that queue behind its statement, and make others wait."
    )
    priority = serializers.IntegerField(help_text="The highest goes first among those in line.")
    tuning = serializers.DictField(help_text="What was set live, by name; it wins over the options.")
    quarantined = serializers.IntegerField(help_text="Rows that a backfill could not change and has set aside.")
    sql_forwards = serializers.CharField()
    sql_backwards = serializers.CharField()
    sql_digest = serializers.CharField(help_text="SHA-256 over both texts, hexadecimal.")
    options = serializers.DictField(help_text="Options of the migration file.")


class BadRowSerializer(serializers.Serializer[AsyncMigrationBadRow]):
    """A row that a backfill could not change and has set aside."""

    key = serializers.ListField(child=serializers.CharField(), help_text="Text of each key column, in order.")
    error = MigrationErrorField(help_text="Why, as in `meta.error`.")
    created_at = TimeField(help_text="When it was set aside.")


class EventSerializer(serializers.Serializer[AsyncMigrationEvent]):
    """One thing that happened to a migration."""

    id = serializers.IntegerField()
    kind = serializers.CharField(help_text="Name of the transition, or what else happened.")
    from_status = serializers.CharField(help_text="Empty where the status stayed as it was.")
    to_status = serializers.CharField(help_text="Empty where the status stayed as it was.")
    attempt = serializers.IntegerField()
    by = serializers.CharField(help_text="Who asked, or which worker did it.")
    request_id = serializers.CharField(help_text="X-Request-ID of the request that caused it; empty if none did.")
    detail = serializers.DictField()
    created_at = TimeField()


class SummarySerializer(serializers.Serializer[Any]):
    """How many migrations there are, and whether the line moves."""

    total = serializers.IntegerField()
    by_status = serializers.DictField(child=serializers.IntegerField(), help_text="Every status, also with 0.")
    by_database = serializers.DictField(
        child=serializers.DictField(child=serializers.IntegerField()), help_text="Alias to status to number."
    )
    oldest_in_line_seconds = FiniteField(
        allow_null=True, help_text="How long the first in line (STARTED and due) has waited; null: nobody waits."
    )


class LeftoverSerializer(serializers.Serializer[Any]):
    """An INVALID index that nobody builds or drops."""

    schema = serializers.CharField()
    name = serializers.CharField()
    table = serializers.CharField(help_text="With its schema, quoted where SQL needs it.")
    kind = serializers.ChoiceField(
        choices=["invalid", "_ccnew", "_ccold"], help_text="`_ccnew`, `_ccold`: left by a REINDEX CONCURRENTLY."
    )
    size_bytes = serializers.IntegerField(help_text="On disk.")
    definition = serializers.CharField()
    migration = serializers.IntegerField(
        allow_null=True, help_text="Id of the migration that has this index in its SQL; null: somebody else made it."
    )
    running = serializers.BooleanField(help_text="That migration is in progress and looks after the index by itself.")


class LookErrorSerializer(serializers.Serializer[Any]):
    """Why a target could not be looked at."""

    code = serializers.CharField(help_text="As in `meta.error`.")
    message = serializers.CharField()


class LeftoversSerializer(serializers.Serializer[Any]):
    """What is left over in one target."""

    database = serializers.CharField(help_text="Django alias of the target.")
    leftovers = LeftoverSerializer(many=True, help_text="The largest first; empty also when the target did not answer.")
    error = LookErrorSerializer(allow_null=True, help_text="null: the target was looked at.")


class DropSerializer(serializers.Serializer[Any]):
    """What became of a wish to drop a leftover."""

    database = serializers.CharField()
    schema = serializers.CharField()
    name = serializers.CharField()
    dropped = serializers.BooleanField(help_text="There is no such index any more; false: a worker has been asked.")


class ReasonSerializer(serializers.Serializer[Any]):
    """Why a gate is shut, for one migration or for a name that there is not."""

    id = serializers.IntegerField(allow_null=True, help_text="null: there is no such migration.")
    name = serializers.CharField(help_text="Of the migration; or what was asked for and is not there.")
    database = serializers.CharField(allow_null=True, help_text="Django alias of the target; null: none was asked for.")
    status = serializers.ChoiceField(choices=Status.choices, allow_null=True)
    state = serializers.ChoiceField(choices=["pending", "blocked", "failed"], help_text="What it makes of the gate.")
    detail = serializers.CharField(help_text="What keeps it from being FINISHED, and what to do.")


class VerdictSerializer(serializers.Serializer[Any]):
    """What a gate says."""

    state = serializers.ChoiceField(
        choices=gate.STATES,
        help_text="`pass`: all are FINISHED. `failed`: one ended in ERROR, CANCELLED or ROLLED BACK. `blocked`: one "
        "waits for a person (SCHEDULED, PAUSED, held), or is not there. `pending`: what is left is in line or "
        "in progress.",
    )
    checked = serializers.IntegerField(help_text="How many migrations were looked at.")
    reasons = ReasonSerializer(many=True, help_text=f"The worst first, up to {gate.MOST}; empty with `pass`.")
    more = serializers.IntegerField(help_text="How many reasons were left out.")


class HoldSerializer(serializers.Serializer[AsyncMigrationHold]):
    """A switch that keeps migrations from going on."""

    id = serializers.IntegerField()
    database = serializers.SerializerMethodField(help_text="Django alias of the target; null: all of them.")
    reason = serializers.CharField()
    by = serializers.CharField(help_text="Who set it.")
    request_id = serializers.CharField(help_text="X-Request-ID of the request that set it; empty if none did.")
    created_at = TimeField()
    expires_at = TimeField(allow_null=True, help_text="It ends by itself then; null: somebody has to lift it.")
    lifted_at = TimeField(allow_null=True, help_text="When it ended; null: it is in force, or its time was up.")
    lifted_by = serializers.CharField(help_text="Who lifted or replaced it; empty if nobody did.")

    def get_database(self, hold: AsyncMigrationHold) -> str | None:
        return hold.database or None


class HoldsSerializer(serializers.Serializer[Any]):
    """What is held now, and what was."""

    held = serializers.BooleanField(help_text="Whether a hold is in force; with `database`: whether one applies there.")
    holds = HoldSerializer(many=True, help_text="Those that are in force.")
    history = HoldSerializer(many=True, help_text="The last 20, the newest first, those that are in force among them.")


class BulkItemSerializer(serializers.Serializer[Any]):
    """What became of one migration of a bulk request."""

    id = serializers.IntegerField()
    name = serializers.CharField(allow_null=True, help_text="null: there is no such migration.")
    database = serializers.CharField(allow_null=True)
    outcome = serializers.ChoiceField(
        choices=["accepted", "unchanged", "refused", "not_found"],
        help_text="`accepted`: done as asked, or would be (`dry_run`). `unchanged`: it was so before.",
    )
    status = serializers.ChoiceField(
        choices=Status.choices, allow_null=True, help_text="As it is now; null: there is no such migration."
    )
    code = serializers.CharField(allow_null=True, help_text="Of the problem that the single verb would answer.")
    detail = serializers.CharField(allow_null=True, help_text="Why it was refused, and what to do.")


class BulkSerializer(serializers.Serializer[Any]):
    """What became of each migration of a bulk request, in the order of the ids."""

    dry_run = serializers.BooleanField(help_text="Nothing was done.")
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="Every outcome, also with 0.")
    items = BulkItemSerializer(many=True)


class FindingSerializer(serializers.Serializer[Any]):
    """One thing that stands in the way of a migration, or is good to know before it begins."""

    code = serializers.ChoiceField(choices=sorted(CODES), help_text="Stable; docs/preflight.md says what each means.")
    level = serializers.ChoiceField(
        choices=[ERROR, WARNING, INFO], help_text="`error` stands in the way, `warning` may, `info` does not."
    )
    message = serializers.CharField()
    detail = serializers.DictField(help_text="What the message says, for programs; depends on the code.")
    hint = serializers.CharField(allow_null=True, help_text="What to do next.")


class PreflightSerializer(serializers.Serializer[Any]):
    """What stands in the way of a migration now."""

    level = serializers.ChoiceField(
        choices=[ERROR, WARNING, INFO], allow_null=True, help_text="Of the worst finding; null: there is none."
    )
    findings = FindingSerializer(many=True, help_text="The worst first.")


class ProblemSerializer(serializers.Serializer[Any]):
    """An error, as RFC 9457 has it."""

    type = serializers.CharField(help_text="The kind of problem as a URI; the same for the same code.")
    title = serializers.CharField(help_text="The kind of problem in words.")
    status = serializers.IntegerField(help_text="The HTTP status.")
    detail = serializers.CharField(help_text="What happened this time, and what to do next.")
    instance = serializers.CharField(help_text="Path of the request.")
    code = serializers.CharField(help_text="Stable and machine-readable.")
    errors = serializers.DictField(  # type: ignore[assignment]  # the contract's name; nothing is validated here
        child=serializers.ListField(child=serializers.CharField()),
        required=False,
        help_text="With validation_error: field or parameter to what is wrong with it.",
    )
    status_now = serializers.CharField(required=False, help_text="With invalid_transition: where the migration is.")
    allowed = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="With invalid_transition: verbs that work now."
    )
    findings = FindingSerializer(many=True, required=False, help_text="With preflight_failed: what stands in the way.")
    missing_permission = serializers.CharField(required=False, help_text="With permission_denied: what is missing.")
    count = serializers.IntegerField(required=False, help_text="With too_many_items: how many migrations are meant.")
    most = serializers.IntegerField(required=False, help_text="With too_many_items: how many may be.")
    request_id = serializers.CharField(help_text="The same as X-Request-ID; it is in the server's log.")


# --- bodies ----------------------------------------------------------------------------------------------------------


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
