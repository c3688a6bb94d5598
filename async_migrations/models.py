"""What is stored: the row of a migration, its history, and its checkpoint in the target database."""

from __future__ import annotations

from typing import ClassVar

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now

from .states import TERMINAL, Direction, Kind, Status, StopRequest


class AsyncMigrationStatus(models.Model):
    """One unit of background work, in the control database. Written by `lifecycle.py` alone."""

    STATUS_SCHEDULED = Status.SCHEDULED
    STATUS_STARTED = Status.STARTED
    STATUS_IN_PROGRESS = Status.IN_PROGRESS
    STATUS_FINISHED = Status.FINISHED
    STATUS_ERROR = Status.ERROR
    STATUS_PAUSED = Status.PAUSED
    STATUS_CANCELLED = Status.CANCELLED
    STATUS_ROLLED_BACK = Status.ROLLED_BACK
    STATUS_CHOICES: ClassVar = Status.choices

    name = models.CharField(max_length=255, help_text="Dotted path of the migration file.")
    database = models.CharField(max_length=255, default="default", help_text="Django alias of the target.")
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.SQL)
    direction = models.CharField(max_length=16, choices=Direction.choices, default=Direction.FORWARDS)
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.SCHEDULED)
    meta = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder, help_text="job_id, error.")

    sql_forwards = models.TextField()
    sql_backwards = models.TextField()
    sql_digest = models.CharField(max_length=64, help_text="SHA-256 of both texts.")
    options = models.JSONField(default=dict, blank=True, help_text="Options of the migration file.")

    phase = models.CharField(max_length=255, blank=True, default="", help_text="What is going on, in words.")
    progress_done = models.BigIntegerField(null=True, blank=True)
    progress_total = models.BigIntegerField(null=True, blank=True)
    progress_unit = models.CharField(max_length=16, blank=True, default="")
    progress_rate = models.FloatField(null=True, blank=True, help_text="Units a second, over the last minute.")
    progress_percent = models.FloatField(
        null=True, blank=True, help_text="Of the whole, weighed by phase and statement."
    )
    eta_seconds = models.PositiveIntegerField(null=True, blank=True, help_text="Until the end, as of the heartbeat.")
    waiting_on = models.JSONField(
        default=list, blank=True, encoder=DjangoJSONEncoder, help_text="Sessions that block the statement."
    )

    queued_behind = models.JSONField(
        default=list, blank=True, encoder=DjangoJSONEncoder, help_text="Sessions that queue behind the statement."
    )

    throttled = models.JSONField(
        null=True, blank=True, encoder=DjangoJSONEncoder, help_text="Why it waits now: reason, value, limit, since."
    )
    tuning = models.JSONField(default=dict, blank=True, help_text="What was set live; wins over the options.")
    quarantined = models.PositiveIntegerField(default=0, help_text="Rows that a backfill has set aside.")

    attempt = models.PositiveIntegerField(default=0)
    priority = models.SmallIntegerField(default=0, help_text="The highest goes first among those in line.")
    max_attempts = models.PositiveIntegerField(default=5)
    has_run = models.BooleanField(default=False, help_text="A worker has begun it since it was scheduled.")
    stop_requested = models.CharField(max_length=16, choices=StopRequest.choices, null=True, blank=True)  # noqa: DJ001
    lease_token = models.UUIDField(null=True, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    slot = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Its place among those that run at once.")
    worker = models.CharField(max_length=255, blank=True, default="")
    requested_by = models.CharField(max_length=255, blank=True, default="")
    request_id = models.CharField(
        max_length=128, blank=True, default="", help_text="Of the HTTP request that it was asked for by."
    )
    traceparent = models.CharField(
        max_length=55, blank=True, default="", db_default="", help_text="The span that it was asked for in."
    )
    outbox_id = models.UUIDField(null=True, blank=True, help_text="The last request taken over from the target.")

    run_at = models.DateTimeField(null=True, blank=True, help_text="Not to be claimed before.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)
    requested_at = models.DateTimeField(null=True, blank=True)
    dispatched_at = models.DateTimeField(null=True, blank=True, help_text="The message was sent.")
    started_at = models.DateTimeField(
        null=True, blank=True, help_text="The first attempt since it was asked for began."
    )
    finished_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "async migration"
        verbose_name_plural = "async migrations"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["name", "database"], name="async_migration_name_database"),
            # Two workers that count the free places at the same moment cannot both take the last one.
            models.UniqueConstraint(fields=["database", "slot"], name="async_migration_slot"),
            models.CheckConstraint(name="async_migration_status", condition=Q(status__in=Status.values)),
            models.CheckConstraint(name="async_migration_kind", condition=Q(kind__in=Kind.values)),
            models.CheckConstraint(name="async_migration_direction", condition=Q(direction__in=Direction.values)),
            models.CheckConstraint(
                name="async_migration_leased",
                condition=Q(
                    status=Status.IN_PROGRESS,
                    lease_token__isnull=False,
                    lease_expires_at__isnull=False,
                    slot__isnull=False,
                )
                | (
                    ~Q(status=Status.IN_PROGRESS)
                    & Q(lease_token__isnull=True, lease_expires_at__isnull=True, slot__isnull=True)
                ),
            ),
            models.CheckConstraint(
                name="async_migration_finished_at",
                condition=Q(status__in=sorted(TERMINAL), finished_at__isnull=False)
                | (~Q(status__in=sorted(TERMINAL)) & Q(finished_at__isnull=True)),
            ),
            models.CheckConstraint(name="async_migration_attempts", condition=Q(attempt__lte=F("max_attempts"))),
            models.CheckConstraint(
                name="async_migration_end_direction",
                condition=~Q(status=Status.FINISHED, direction=Direction.BACKWARDS)
                & ~Q(status=Status.ROLLED_BACK, direction=Direction.FORWARDS),
            ),
        ]
        indexes: ClassVar = [
            # Counted with every look at the summary and every scrape: 100,000 rows in less than a megabyte.
            models.Index(fields=["status", "database"], name="async_migration_status_idx"),
            # All that a list can be filtered and ordered by: what no other index helps with, a part of a name or an
            # order by status, is looked up in it alone, a tenth of the table. No INCLUDE, which SQLite does not have.
            models.Index(
                fields=["status", "database", "kind", "created_at", "updated_at", "name", "id"],
                name="async_migration_list_idx",
            ),
            models.Index(fields=["created_at", "id"], name="async_migration_created_idx"),
            models.Index(fields=["updated_at", "id"], name="async_migration_updated_idx"),
            models.Index(
                F("database"),
                F("priority").desc(),
                "requested_at",
                "id",
                condition=Q(status=Status.STARTED),
                name="async_migration_line_idx",
            ),
            # What every overview that is open asks for every 1.5 seconds: what wants a person, and what waits.
            models.Index(
                F("updated_at").desc(),
                "id",
                condition=Q(status=Status.ERROR) | Q(status=Status.FINISHED, quarantined__gt=0),
                name="async_migration_failed_idx",
            ),
            models.Index(
                F("priority").desc(),
                "requested_at",
                "id",
                condition=Q(status=Status.STARTED),
                name="async_migration_turn_idx",
            ),
            models.Index(
                Coalesce("run_at", "requested_at"),
                condition=Q(status=Status.STARTED),
                name="async_migration_wanted_idx",
            ),
            # The unique index on the name is of no use to LIKE 'prefix%' where the collation is not C.
            models.Index(fields=["name"], opclasses=["varchar_pattern_ops"], name="async_migration_name_like_idx"),
        ]
        permissions: ClassVar = [
            ("run_asyncmigrationstatus", "Can run async migrations"),
            ("force_asyncmigrationstatus", "Can run async migrations whatever stands in the way"),
            ("cancel_asyncmigrationstatus", "Can cancel async migrations"),
            ("rollback_asyncmigrationstatus", "Can roll back async migrations"),
            ("tune_asyncmigrationstatus", "Can tune async migrations"),
            ("hold_asyncmigrationstatus", "Can hold async migrations"),
        ]

    def __str__(self) -> str:
        return f"{self.name} on {self.database}: {self.status}"

    @property
    def terminal(self) -> bool:
        """Whether nothing changes any more unless somebody asks."""
        return self.status in TERMINAL

    @property
    def percent(self) -> float | None:
        """Share of the whole that is done, 0 to 100; 100 only when FINISHED, None when it is not known."""
        if self.status == Status.FINISHED:
            return 100.0
        return None if self.progress_percent is None else min(99.9, round(self.progress_percent, 1))


class AsyncMigrationEvent(models.Model):
    """One thing that happened to a migration; never changed, never deleted by the app."""

    migration = models.ForeignKey(
        AsyncMigrationStatus,
        on_delete=models.CASCADE,
        related_name="events",
        db_index=False,  # The one below does that too.
    )
    kind = models.CharField(max_length=32, help_text="Name of the transition, or what else happened.")
    from_status = models.CharField(max_length=16, blank=True, default="")
    to_status = models.CharField(max_length=16, blank=True, default="")
    attempt = models.PositiveIntegerField(default=0)
    by = models.CharField(max_length=255, blank=True, default="", help_text="Who asked, or which worker did it.")
    request_id = models.CharField(max_length=128, blank=True, default="")
    detail = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "async migration event"
        ordering: ClassVar = ["id"]
        indexes: ClassVar = [models.Index(fields=["migration", "id"], name="async_migration_history_idx")]

    def __str__(self) -> str:
        return f"{self.kind} at {self.created_at}"


class AsyncMigrationSample(models.Model):
    """How far a migration was at one moment, in the control database; written by `lifecycle.samples`, never changed."""

    migration = models.ForeignKey(
        AsyncMigrationStatus,
        on_delete=models.CASCADE,
        related_name="samples",
        db_index=False,  # The one below does that too.
    )
    attempt = models.PositiveIntegerField()
    at = models.DateTimeField(db_default=Now(), editable=False)
    phase = models.CharField(max_length=255, blank=True, default="")
    done = models.BigIntegerField(null=True)
    total = models.BigIntegerField(null=True)
    unit = models.CharField(max_length=16, blank=True, default="")
    percent = models.FloatField(null=True, help_text="Of the whole, weighed by phase and statement.")
    batch_size = models.PositiveIntegerField(null=True, help_text="Of the batches at that time, rows.")
    throttled = models.TextField(null=True, help_text="The reason why it waited; null: it did not.")  # noqa: DJ001

    class Meta:
        verbose_name = "async migration sample"
        ordering: ClassVar = ["at"]
        indexes: ClassVar = [models.Index(fields=["migration", "at"], name="async_migration_sample_idx")]

    def __str__(self) -> str:
        return f"{self.done} of {self.total} {self.unit} at {self.at}"


class AsyncMigrationCheckpoint(models.Model):
    """How far a migration is, in the target database, so that it commits together with the change itself.

    It also carries what `migrate` asked for (`outbox`) in the transaction of the migration file, until the row in the
    control database has taken it over.
    """

    name = models.CharField(max_length=255, unique=True)
    migration_id = models.BigIntegerField(null=True, help_text="The row that `done` belongs to.")
    token = models.UUIDField(null=True, help_text="The attempt that may write.")
    direction = models.CharField(max_length=16, choices=Direction.choices, default=Direction.FORWARDS)
    done = models.JSONField(default=list, help_text="Digest of each statement that is done, in order.")
    begun = models.CharField(max_length=64, default="", help_text="Digest of a non-transactional statement under way.")
    outbox = models.JSONField(null=True, help_text="What `migrate` asked for and the row does not say yet.")
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "async migration checkpoint"

    def __str__(self) -> str:
        return f"{self.name}: {len(self.done)} statements done"


class AsyncMigrationLane(models.Model):
    """One range of the keys that a backfill walks, and how far it is there, in the target database.

    Cursor and counters commit together with the rows that they count; only the holder of `token` can commit. A lane has
    a lease of its own, on the target's clock: any worker may carry it out. Keys are lists of the columns' texts.
    """

    name = models.CharField(max_length=255)
    number = models.PositiveSmallIntegerField(help_text="From 0.")
    migration_id = models.BigIntegerField(help_text="The row that it belongs to.")
    digest = models.CharField(max_length=64, help_text="Of what is done in it, the direction included.")
    first = models.JSONField(null=True, help_text="The key before the first one; null: the table's beginning.")
    last = models.JSONField(help_text="The last key.")
    cursor = models.JSONField(null=True, help_text="The last key that is done; null: none is.")
    stretch = models.JSONField(null=True, help_text="The last key of what is being changed in parts; null: nothing is.")
    part = models.PositiveSmallIntegerField(default=0, help_text="The first part of the stretch that is not done.")
    deferred = models.JSONField(default=list, help_text="What was passed over, as {after, upto, part}.")
    rows_done = models.BigIntegerField(default=0)
    batches = models.BigIntegerField(default=0)
    batch_size = models.PositiveIntegerField(null=True, help_text="Of the last batch, rows.")
    finished = models.BooleanField(default=False)
    token = models.UUIDField(null=True, help_text="Who may write.")
    worker = models.CharField(max_length=255, default="")
    lease_expires_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "async migration lane"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["name", "number"], name="async_migration_lane_number"),
        ]

    def __str__(self) -> str:
        return f"{self.name}, lane {self.number}: {self.rows_done} rows done"


class AsyncMigrationBadRow(models.Model):
    """A row that a backfill could not change and has set aside, in the target database."""

    name = models.CharField(max_length=255)
    migration_id = models.BigIntegerField(help_text="The row that it belongs to.")
    key = models.JSONField(help_text="Text of each key column, in order.")
    error = models.JSONField(encoder=DjangoJSONEncoder, help_text="In the shape of `meta.error`.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "async migration bad row"
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["name", "key"], name="async_migration_bad_row_key"),
        ]

    def __str__(self) -> str:
        return f"{self.name}: {self.key}"


class AsyncMigrationKey(models.Model):
    """An `Idempotency-Key` with what was answered to it, in the control database. Written by `rest/idempotency.py`.

    It holds neither credentials nor what was sent: of a request only a digest.
    """

    caller = models.CharField(max_length=255, help_text="Primary key of the user.")
    key = models.CharField(max_length=255)
    payload = models.CharField(max_length=64, help_text="SHA-256 of the request.")
    token = models.UUIDField(help_text="By which the request that reserved it knows that it was the one.")
    answer = models.JSONField(null=True, help_text="Status, headers and content; null: still in progress.")
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = "async migration key"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["caller", "key"], name="async_migration_key_of_caller"),
        ]

    def __str__(self) -> str:
        return self.key


class AsyncMigrationRate(models.Model):
    """How many requests a caller has been granted in a minute, in the control database. Written by `rest/rates.py`."""

    caller = models.CharField(max_length=255, unique=True, help_text="A token, by the beginning of its digest; a user.")
    minute = models.BigIntegerField(help_text="Of the Unix epoch, by the database's clock.")
    granted = models.PositiveIntegerField(help_text="Requests in that minute.")

    class Meta:
        verbose_name = "async migration rate"

    def __str__(self) -> str:
        return f"{self.caller}: {self.granted}"


class AsyncMigrationTokenScope(models.Model):
    """What a token may do at most, beside the tokens. Written by `rest/tokens.py` alone; without one: all its user may.

    By the digest and not by a foreign key, for this app is migrated where knox is not installed.
    """

    digest = models.CharField(max_length=128, primary_key=True, help_text="Of the token.")
    verbs = models.JSONField(null=True, help_text="Names of verbs; null: all.")
    databases = models.JSONField(null=True, help_text="Aliases of targets; null: all.")

    class Meta:
        verbose_name = "async migration token scope"

    def __str__(self) -> str:
        return f"{self.verbs or 'all verbs'} on {self.databases or 'all databases'}"


class AsyncMigrationHold(models.Model):
    """A switch that keeps migrations from going on, in the control database; what is over stays as its history.

    In force from `created_at` until it is lifted or its time is up. Written by `lifecycle.hold` alone.
    """

    database = models.CharField(max_length=255, blank=True, default="", help_text="Django alias; empty: all of them.")
    reason = models.CharField(max_length=1000)
    by = models.CharField(max_length=255, blank=True, default="", help_text="Who set it.")
    request_id = models.CharField(max_length=128, blank=True, default="")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="It ends by itself then.")
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = models.CharField(max_length=255, blank=True, default="", help_text="Empty where its time was up.")

    class Meta:
        verbose_name = "async migration hold"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            # Of two that are set at the same moment one sees the other.
            models.UniqueConstraint(
                fields=["database"], condition=Q(lifted_at__isnull=True), name="async_migration_one_hold"
            ),
        ]

    def __str__(self) -> str:
        until = f", until {self.expires_at.isoformat(timespec='seconds')}" if self.expires_at else ""
        return f"held by {self.by or 'somebody'}: {self.reason}{until}"


class AsyncMigrationWebhook(models.Model):
    """Where to send events of migrations, in the control database. Written by `webhooks.endpoints` and the couriers.

    The signing secret is not here: it is derived from SECRET_KEY and `salt`.
    """

    name = models.CharField(max_length=100, unique=True)
    url = models.CharField(max_length=2000, help_text="Where the events are sent to, by POST.")
    events = models.JSONField(help_text="Kinds of events, or statuses that are reached.")
    databases = models.JSONField(default=list, blank=True, help_text="Django aliases of the targets; none: all.")
    salt = models.CharField(max_length=64, editable=False)
    fingerprint = models.CharField(max_length=64, editable=False, help_text="SHA-256 of the secret, hexadecimal.")
    active = models.BooleanField(default=True)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False, help_text="Nothing arrived since.")
    problem = models.CharField(max_length=500, blank=True, default="", editable=False, help_text="Of the last try.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.CharField(max_length=255, blank=True, default="", editable=False)

    class Meta:
        verbose_name = "async migration webhook"
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> str:
        """Say how it is: "off", "failing" (nothing has arrived since the last success), "ok"."""
        if not self.active:
            return "off"
        return "ok" if self.failing_since is None else "failing"


class AsyncMigrationDelivery(models.Model):
    """One event on its way to one webhook, in the control database; written with the event, by the same statement."""

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        DELIVERED = "delivered", "Delivered"
        FAILED = "failed", "Given up"

    message_id = models.UUIDField(unique=True, help_text="The same however often it is sent.")
    # No constraint in the database: a webhook that is removed at that moment must not make a migration's move fail.
    webhook = models.ForeignKey(
        AsyncMigrationWebhook, on_delete=models.CASCADE, related_name="deliveries", db_constraint=False
    )
    event = models.ForeignKey(AsyncMigrationEvent, on_delete=models.CASCADE, null=True, help_text="None: a test.")
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(
        null=True, help_text="When to send it again; while it is being sent: when its sender counts as gone."
    )
    answer = models.PositiveSmallIntegerField(null=True, help_text="Status code of the last answer.")
    error = models.CharField(max_length=500, blank=True, default="", help_text="Of the last try.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "async migration delivery"
        verbose_name_plural = "async migration deliveries"
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(
                fields=["webhook", "next_attempt_at"],
                condition=Q(next_attempt_at__isnull=False),
                name="async_migration_delivery_due",
            ),
            models.Index(
                fields=["created_at"],
                condition=Q(next_attempt_at__isnull=True),
                name="async_migration_delivery_over",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.header}: {self.status}"

    @property
    def header(self) -> str:
        """The id as the receiver gets it, in `webhook-id`."""
        return f"msg_{self.message_id.hex}"


class AsyncMigrationAudit(models.Model):
    """One request to change something, and what became of it, in the control database. Written by `lifecycle` alone.

    Triggers refuse every change of it on PostgreSQL, see `migrations/0003_append_only.py`. It names a migration and
    does not refer to it, so that it outlives it; of a token it has the beginning of the digest.
    """

    class Channel(models.TextChoices):
        """How it was asked for."""

        API = "api", "API"
        ADMIN = "admin", "Admin"
        DASHBOARD = "dashboard", "Operators' page"
        COMMAND = "command", "Command line"
        MIGRATE = "migrate", "migrate"
        CODE = "code", "Code of the project"

    class Outcome(models.TextChoices):
        """What became of it. An entry `accepted` commits together with what it says, or not at all."""

        ACCEPTED = "accepted", "Accepted"
        UNCHANGED = "unchanged", "Nothing to do"
        REPLAYED = "replayed", "Answered before"
        REFUSED = "refused", "Refused"
        FAILED = "failed", "Failed"

    at = models.DateTimeField(db_default=Now(), editable=False)
    by = models.CharField(max_length=255, blank=True, default="", help_text="Who asked.")
    channel = models.CharField(max_length=16, choices=Channel.choices)
    address = models.CharField(max_length=64, blank=True, default="", help_text="IP address; empty: not over HTTP.")
    token = models.CharField(max_length=32, blank=True, default="", help_text="Beginning of the token's digest.")
    request_id = models.CharField(max_length=128, blank=True, default="")
    action = models.CharField(max_length=32, help_text="The verb, or what else was asked for.")
    migration_id = models.BigIntegerField(null=True, blank=True)
    name = models.CharField(max_length=255, blank=True, default="", help_text="Of the migration.")
    database = models.CharField(max_length=255, blank=True, default="", help_text="Django alias of the target.")
    before = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder, help_text="What was changed.")
    after = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder, help_text="To what.")
    detail = models.JSONField(default=dict, blank=True, encoder=DjangoJSONEncoder, help_text="What else was said.")
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    code = models.CharField(max_length=64, blank=True, default="", help_text="Why it was refused, or failed.")

    class Meta:
        verbose_name = "async migration audit entry"
        verbose_name_plural = "async migration audit entries"
        ordering: ClassVar = ["at", "id"]
        default_permissions = ("view",)
        indexes: ClassVar = [models.Index(fields=["at", "id"], name="async_migration_audit_at_idx")]

    def __str__(self) -> str:
        return f"{self.action} by {self.by or 'somebody'}: {self.outcome}"
