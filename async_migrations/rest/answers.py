"""What the doors answer of anything but a single migration."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from ..execution.findings import CODES, ERROR, INFO, WARNING
from ..lifecycle import gate
from ..models import AsyncMigrationHold
from ..states import Status
from .fields import TimeField


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
    done = serializers.ListField(
        child=serializers.IntegerField(),
        required=False,
        help_text="With database_unavailable where many were asked for: ids of those that were done before.",
    )
    request_id = serializers.CharField(help_text="The same as X-Request-ID; it is in the server's log.")
