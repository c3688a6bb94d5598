"""A migration as the doors answer it. The fields of a row and their order are the contract's."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from ..models import AsyncMigrationBadRow, AsyncMigrationEvent, AsyncMigrationStatus
from ..states import Direction, Kind, Status, StopRequest
from .fields import FiniteField, TimeField


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
