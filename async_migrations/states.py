"""The life of a migration as a table: what may follow what, and why.

`lifecycle.py` is the only place that carries a transition out.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import TextChoices


class Status(TextChoices):
    """Where a migration is. The first five keep the exact strings of the original design."""

    SCHEDULED = "SCHEDULED", "Scheduled"
    STARTED = "STARTED", "Started"
    IN_PROGRESS = "IN PROGRESS", "In progress"
    FINISHED = "FINISHED", "Finished"
    ERROR = "ERROR", "Error"
    PAUSED = "PAUSED", "Paused"
    CANCELLED = "CANCELLED", "Cancelled"
    ROLLED_BACK = "ROLLED BACK", "Rolled back"


class Direction(TextChoices):
    """Which of the two SQL texts an attempt carries out."""

    FORWARDS = "forwards", "Forwards"
    BACKWARDS = "backwards", "Backwards"


class Kind(TextChoices):
    """What kind of work a migration is."""

    SQL = "sql", "SQL migration"
    BACKFILL = "backfill", "Backfill"


class StopRequest(TextChoices):
    """What the holder of the lease has been asked to do instead of going on."""

    CANCEL = "cancel", "Cancel"
    PAUSE = "pause", "Pause"


#: A poller may stop here: nothing changes any more unless somebody asks.
TERMINAL = frozenset({Status.FINISHED, Status.ERROR, Status.CANCELLED, Status.ROLLED_BACK})

#: What a webhook is for unless it says otherwise: a migration has ended, or waits for a person.
NOTABLE = (Status.FINISHED, Status.ERROR, Status.CANCELLED, Status.PAUSED, Status.ROLLED_BACK)


@dataclass(frozen=True)
class Transition:
    """One row of the table: a named move, its possible ends, and the reason that it exists."""

    name: str
    sources: frozenset[Status]
    targets: frozenset[Status]
    reason: str

    def __str__(self) -> str:
        return self.name


def _edge(name: str, sources: set[Status], targets: set[Status], reason: str) -> Transition:
    return Transition(name, frozenset(sources), frozenset(targets), reason)


SCHEDULE = _edge(
    "schedule",
    {Status.ROLLED_BACK, Status.CANCELLED, Status.ERROR, Status.PAUSED},
    {Status.SCHEDULED},
    "`migrate` applied the file, scheduling is allowed; from ERROR and PAUSED only where it went backwards",
)
RUN = _edge(
    "run",
    {Status.SCHEDULED, Status.PAUSED, Status.ERROR, Status.CANCELLED, Status.ROLLED_BACK},
    {Status.STARTED},
    "someone asked, or `migrate` applied the file with scheduling off; direction forwards",
)
ROLLBACK = _edge(
    "rollback",
    {Status.FINISHED, Status.ERROR, Status.PAUSED, Status.CANCELLED},
    {Status.STARTED},
    "someone asked, or `migrate` went backwards; direction backwards",
)
WITHDRAW = _edge(
    "withdraw",
    {Status.SCHEDULED, Status.STARTED, Status.ERROR, Status.PAUSED, Status.CANCELLED},
    {Status.ROLLED_BACK},
    "going backwards over a migration of which nothing ever ran: there is nothing to undo",
)
CLAIM = _edge("claim", {Status.STARTED}, {Status.IN_PROGRESS}, "one worker won the conditional UPDATE; attempt + 1")
RELEASE = _edge(
    "release",
    {Status.IN_PROGRESS},
    {Status.STARTED},
    "given back: the worker shuts down, or a retryable error with a back-off",
)
RETRY = _edge(
    "retry",
    {Status.FINISHED},
    {Status.STARTED},
    "someone asked for the rows that a backfill has set aside to be tried again; direction forwards",
)
PAUSE = _edge(
    "pause",
    {Status.STARTED, Status.IN_PROGRESS},
    {Status.PAUSED},
    "someone asked; what has begun stops at its next checkpoint and goes on from there",
)
RESUME = _edge("resume", {Status.PAUSED}, {Status.STARTED}, "someone asked; the direction stays as it was")
CANCEL = _edge(
    "cancel",
    {Status.SCHEDULED, Status.STARTED, Status.PAUSED, Status.ERROR, Status.IN_PROGRESS},
    {Status.CANCELLED, Status.STARTED},
    "someone asked; what has begun is stopped by the holder of the lease, which removes the leftovers first; STARTED "
    "for that, from an ERROR behind which a statement may run on",
)
SUCCEED = _edge(
    "succeed",
    {Status.IN_PROGRESS},
    {Status.FINISHED, Status.ROLLED_BACK},
    "the post-condition holds",
)
FAIL = _edge("fail", {Status.IN_PROGRESS}, {Status.ERROR}, "not retryable, or the attempts are used up")
REAP = _edge(
    "reap",
    {Status.IN_PROGRESS},
    {Status.STARTED, Status.ERROR},
    "the lease ran out: the worker is gone; the next one adopts what is still running",
)

TRANSITIONS = (
    SCHEDULE,
    RUN,
    RETRY,
    ROLLBACK,
    WITHDRAW,
    CLAIM,
    RELEASE,
    PAUSE,
    RESUME,
    CANCEL,
    SUCCEED,
    FAIL,
    REAP,
)

#: What else happens to a migration: the kinds of the events that move nothing.
REMARKS = (
    "bad_rows_tried_again",
    "cancel_requested",
    "found_done",
    "guard_cancel",
    "guard_report",
    "leftover_dropped",
    "leftover_removed",
    "lock_retry",
    "pause_requested",
    "pause_withdrawn",
    "repair",
    "resumed",
    "row_set_aside",
    "rows_left",
    "rows_taken_along",
    "signals_unavailable",
    "sql_changed",
    "statement_begun",
    "statement_done",
    "throttled",
    "tuned",
    "waiting_for_session",
    "went_gently",
)

#: The moves that a person may ask for, by the names of the API's doors.
VERBS = (RUN, PAUSE, RESUME, CANCEL, ROLLBACK)


def verbs_from(status: str) -> tuple[str, ...]:
    """Return the names of the verbs that a person may use on a migration in `status`."""
    return tuple(verb.name for verb in VERBS if status in verb.sources)
