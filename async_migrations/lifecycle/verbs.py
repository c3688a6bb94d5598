"""What people and CI scripts ask for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from .. import states
from ..conf import conf
from ..errors import TransitionRefused
from ..models import AsyncMigrationStatus
from ..states import Direction, Status, StopRequest, Transition
from .moves import Answer, Origin, fresh, get, move, record, same

# Between the read and the conditional UPDATE somebody else may move the row. A handful of tries is plenty: each failed
# one means that another party got its way.
_TRIES = 10


def run(pk: int, origin: Origin, *, run_at: datetime | None = None) -> Answer:
    """Put a migration in line for a worker, forwards, with its attempts counted from zero.

    run_at: aware; not to begin before. Asking again while it is in line, in progress or FINISHED changes nothing.
    Raises TransitionRefused where the table of transitions has no such move.
    """
    for row in _until_settled(pk):
        underway = row.status in {Status.STARTED, Status.IN_PROGRESS, Status.FINISHED}
        if underway and row.direction == Direction.FORWARDS:
            return Answer(row, changed=False)
        _require(states.RUN, row)
        if move(states.RUN, row, Status.STARTED, origin, **fresh(origin, Direction.FORWARDS, run_at)):
            return Answer(get(pk), changed=True)
    raise _contended(row)


def rollback(pk: int, origin: Origin) -> Answer:
    """Put a migration in line for a worker, backwards; ROLLED BACK at once if nothing of it ever ran.

    Asking again while it is being rolled back, or is ROLLED BACK, changes nothing. Raises TransitionRefused where the
    table of transitions has no such move.
    """
    for row in _until_settled(pk):
        underway = row.status in {Status.STARTED, Status.IN_PROGRESS, Status.ROLLED_BACK}
        if underway and row.direction == Direction.BACKWARDS:
            return Answer(row, changed=False)
        _require(states.ROLLBACK, row)
        moved = (
            move(states.ROLLBACK, row, Status.STARTED, origin, **fresh(origin, Direction.BACKWARDS))
            if row.has_run
            else withdraw(row, origin)
        )
        if moved:
            return Answer(get(pk), changed=True)
    raise _contended(row)


def cancel(pk: int, origin: Origin) -> Answer:
    """Stop a migration for good: at once if no worker has begun it, else the worker is asked and cleans up first.

    Asking again changes nothing. Raises TransitionRefused for what has ended well.
    """
    for row in _until_settled(pk):
        if row.status == Status.CANCELLED or row.stop_requested == StopRequest.CANCEL:
            return Answer(row, changed=False)
        _require(states.CANCEL, row)
        begun = row.status == Status.IN_PROGRESS or (row.status == Status.STARTED and row.attempt > 0)
        moved = _ask_to_cancel(row, origin) if begun else _cancel_now(row, origin)
        if moved:
            return Answer(get(pk), changed=True)
    raise _contended(row)


def _ask_to_cancel(row: AsyncMigrationStatus, origin: Origin) -> bool:
    """Leave a stop request. A back-off is cut short: the worker that takes the migration next only cleans up."""
    with transaction.atomic(using=conf.control_database):
        asked = same(row).update(stop_requested=StopRequest.CANCEL, run_at=None, updated_at=Now())
        if asked:
            record(row, "cancel_requested", origin)
    return bool(asked)


def _cancel_now(row: AsyncMigrationStatus, origin: Origin) -> bool:
    return move(states.CANCEL, row, Status.CANCELLED, origin, run_at=None, phase="", finished_at=Now())


def withdraw(row: AsyncMigrationStatus, origin: Origin) -> bool:
    ended: dict[str, Any] = {"direction": Direction.BACKWARDS, "run_at": None, "phase": "", "finished_at": Now()}
    return move(states.WITHDRAW, row, Status.ROLLED_BACK, origin, **ended)


def _until_settled(pk: int) -> Iterator[AsyncMigrationStatus]:
    for _ in range(_TRIES):
        yield get(pk)


def _contended(row: AsyncMigrationStatus) -> TransitionRefused:
    return TransitionRefused(
        f"{row.name} was changed by others all the time: look at it and ask again.",
        status=row.status,
        allowed=states.verbs_from(row.status),
    )


def _require(transition: Transition, row: AsyncMigrationStatus) -> None:
    if row.status in transition.sources:
        return
    allowed = states.verbs_from(row.status)
    instead = f"allowed now: {', '.join(allowed)}" if allowed else "wait until it ends"
    way = " (backwards)" if row.direction == Direction.BACKWARDS else ""
    raise TransitionRefused(
        f"{transition} is not possible while {row.name} is {row.status}{way}; {instead}.",
        status=row.status,
        allowed=allowed,
    )
