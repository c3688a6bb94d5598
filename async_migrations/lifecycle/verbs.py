"""What people and CI scripts ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from .. import limits, states, tracing
from ..conf import conf
from ..errors import TransitionRefused
from ..models import AsyncMigrationStatus
from ..states import Direction, Kind, Status, StopRequest, Transition
from . import audit
from .audit import Origin
from .moves import Answer, fresh, get, move, record, same, unchanged

# Between the read and the conditional UPDATE somebody else may move the row. A handful of tries is plenty: each failed
# one means that another party got its way.
_TRIES = 10

# The errors of an attempt that lost its statement out of sight.
_UNSEEN = frozenset({"worker_lost", "connection_lost"})


def run(
    pk: int,
    origin: Origin,
    *,
    run_at: datetime | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    forced: bool = False,
    require: Callable[[AsyncMigrationStatus], None] | None = None,
    sent: bool = False,
) -> Answer:
    """Put a migration in line for a worker, forwards, with its attempts counted from zero.

    run_at: aware; not to begin before. priority, max_attempts: within `limits.TERMS`; None leaves what the row says.
    forced: nobody looked what stands in the way; the event says so. require: raises if something does. sent: the caller
    sends the message as soon as this is committed; if it dies before, the reconciler does, `resend_seconds` later.
    Asking again while it is in line, in progress or FINISHED changes nothing, whatever is given; if rows were set
    aside, those are tried again. Raises OutOfLimits, and TransitionRefused where the table of transitions has no such
    move.
    """
    given = {"priority": priority, "max_attempts": max_attempts}
    terms = {name: value for name, value in given.items() if value is not None}
    limits.check_terms(terms)
    detail = {**terms, **({"run_at": run_at.isoformat()} if run_at else {}), **({"forced": True} if forced else {})}
    for row in until_settled(pk):
        transition = _transition_of_run(row)
        if transition is None:
            return unchanged("run", row, origin, **detail)
        if require is not None:
            require(row)
        changes = {**fresh(origin, Direction.FORWARDS, run_at), **terms, "dispatched_at": Now() if sent else None}
        if move(transition, row, Status.STARTED, origin, asked="run", detail=detail, **changes):
            return Answer(row, changed=True)
    raise contended(row)


def rollback(pk: int, origin: Origin) -> Answer:
    """Put a migration in line for a worker, backwards; ROLLED BACK at once if nothing of it ever ran.

    Asking again while it is being rolled back, or is ROLLED BACK, changes nothing. Raises TransitionRefused where the
    table of transitions has no such move.
    """
    for row in until_settled(pk):
        underway = row.status in {Status.STARTED, Status.IN_PROGRESS, Status.ROLLED_BACK}
        if underway and row.direction == Direction.BACKWARDS:
            return unchanged("rollback", row, origin)
        _require(states.ROLLBACK, row)
        if row.has_run:
            require_reversible(row)
        moved = (
            move(states.ROLLBACK, row, Status.STARTED, origin, asked="rollback", **fresh(origin, Direction.BACKWARDS))
            if row.has_run
            else withdraw(row, origin)
        )
        if moved:
            return Answer(row, changed=True)
    raise contended(row)


def cancel(pk: int, origin: Origin) -> Answer:
    """Stop a migration for good: at once if no worker has begun it, else the worker is asked and cleans up first.

    Asking again changes nothing. Raises TransitionRefused for what has ended well.
    """
    for row in until_settled(pk):
        if not _is_to_cancel(row):
            return unchanged("cancel", row, origin)
        if _begun(row):
            moved = _ask_to_stop(row, StopRequest.CANCEL, origin)
        else:
            moved = _have_it_stopped(row, origin) if _runs_on(row) else _cancel_now(row, origin)
        if moved:
            return Answer(get(pk), changed=True)
    raise contended(row)


def pause(pk: int, origin: Origin) -> Answer:
    """Stop a migration where it can go on later: at once if no worker has begun it, else at the next checkpoint.

    Asking again changes nothing. Raises TransitionRefused while it is being cancelled, and where the table of
    transitions has no such move.
    """
    for row in until_settled(pk):
        if row.status == Status.PAUSED or row.stop_requested == StopRequest.PAUSE:
            return unchanged("pause", row, origin)
        _refuse_while_cancelled(states.PAUSE, row)
        _require(states.PAUSE, row)
        moved = _ask_to_stop(row, StopRequest.PAUSE, origin) if _begun(row) else _pause_now(row, origin)
        if moved:
            return Answer(get(pk), changed=True)
    raise contended(row)


def resume(pk: int, origin: Origin) -> Answer:
    """Put a paused migration in line again, in the direction that it had, with its attempts counted from zero.

    A pause that no worker has obeyed yet is taken back. Asking again while it is in line or in progress, or has ended
    well, changes nothing. Raises TransitionRefused while it is being cancelled, and where the table of transitions has
    no such move.
    """
    for row in until_settled(pk):
        _refuse_while_cancelled(states.RESUME, row)
        if row.stop_requested == StopRequest.PAUSE:
            moved = _take_pause_back(row, origin)
        elif row.status in {Status.STARTED, Status.IN_PROGRESS, Status.FINISHED, Status.ROLLED_BACK}:
            return unchanged("resume", row, origin)
        else:
            _require(states.RESUME, row)
            moved = move(states.RESUME, row, Status.STARTED, origin, asked="resume", **_in_line_again(origin))
        if moved:
            return Answer(get(pk), changed=True)
    raise contended(row)


def foresee(verb: str, row: AsyncMigrationStatus) -> bool:
    """Say whether "run" or "cancel" would change anything about a migration as it is. Raises TransitionRefused."""
    return _transition_of_run(row) is not None if verb == states.RUN.name else _is_to_cancel(row)


def _transition_of_run(row: AsyncMigrationStatus) -> Transition | None:
    """Return what asking to run it comes to, None when nothing is to be done. Raises TransitionRefused."""
    retry = row.status == Status.FINISHED and row.quarantined > 0
    underway = row.status in {Status.STARTED, Status.IN_PROGRESS, Status.FINISHED}
    if underway and row.direction == Direction.FORWARDS and not retry:
        return None
    transition = states.RETRY if retry else states.RUN
    _require(transition, row)
    return transition


def _is_to_cancel(row: AsyncMigrationStatus) -> bool:
    """Whether there is anything to cancel that nobody has cancelled yet. Raises TransitionRefused."""
    if row.status == Status.CANCELLED or row.stop_requested == StopRequest.CANCEL:
        return False
    _require(states.CANCEL, row)
    return True


def _begun(row: AsyncMigrationStatus) -> bool:
    """Whether something of it may be running, or be left behind: then only a worker can stop it.

    That is so in line as well, once a worker has ever begun it. After one died its statement may run on, and PAUSED
    would not be true; the next worker knows as soon as it has the advisory lock. Of a backfill that was given back,
    helpers may still be at work.
    """
    return row.status == Status.IN_PROGRESS or (row.status == Status.STARTED and row.has_run)


def _runs_on(row: AsyncMigrationStatus) -> bool:
    """Whether its last statement may run on in the target although it has ended: nobody could see to its end."""
    return row.status == Status.ERROR and row.meta.get("error", {}).get("code") in _UNSEEN


def _ask_to_stop(row: AsyncMigrationStatus, request: StopRequest, origin: Origin) -> bool:
    """Leave a stop request. A back-off is cut short: the worker that takes the migration next does nothing else.

    A time that somebody has asked for stays, behind a pause that may be taken back before it.
    """
    changes: dict[str, Any] = {"stop_requested": request}
    if request is StopRequest.CANCEL or row.attempt:
        changes["run_at"] = None
    before, after = audit.difference(row, changes)
    with transaction.atomic(using=conf.control_database):
        asked = _asked_as_before(row).update(**changes, updated_at=Now())
        if asked:
            record(row, f"{request}_requested", origin)
            audit.enter(request, origin, row=row, before=before, after=after)
    return bool(asked)


def _take_pause_back(row: AsyncMigrationStatus, origin: Origin) -> bool:
    with transaction.atomic(using=conf.control_database):
        taken = _asked_as_before(row).update(stop_requested=None, updated_at=Now())
        if taken:
            record(row, "pause_withdrawn", origin)
            before, after = audit.difference(row, {"stop_requested": None})
            audit.enter("resume", origin, row=row, before=before, after=after)
    return bool(taken)


def _asked_as_before(row: AsyncMigrationStatus) -> QuerySet[AsyncMigrationStatus]:
    """Match the row while also its stop request is what was read: nobody overwrites a cancel unseen."""
    return same(row).filter(stop_requested=row.stop_requested)


def _have_it_stopped(row: AsyncMigrationStatus, origin: Origin) -> bool:
    """Put in line what has ended, for a worker that does nothing but stop it, and writes CANCELLED."""
    asked: dict[str, Any] = {"stop_requested": StopRequest.CANCEL, "meta": {}, "finished_at": None}
    return move(states.CANCEL, row, Status.STARTED, origin, asked="cancel", **_in_line_again(origin), **asked)


def _cancel_now(row: AsyncMigrationStatus, origin: Origin) -> bool:
    ended: dict[str, Any] = {"run_at": None, "phase": "", "finished_at": Now()}
    return move(states.CANCEL, row, Status.CANCELLED, origin, asked="cancel", **ended)


def _pause_now(row: AsyncMigrationStatus, origin: Origin) -> bool:
    """Write PAUSED; a time to begin at that is yet to come still counts when it goes on."""
    rests: dict[str, Any] = {"phase": "", "progress_rate": None, "eta_seconds": None}
    return move(states.PAUSE, row, Status.PAUSED, origin, Q(stop_requested=None), asked="pause", **rests)


def _in_line_again(origin: Origin) -> dict[str, Any]:
    """Return the fields of a migration that goes on where it was: unlike `fresh` they keep how far it is."""
    return {
        "attempt": 0,
        "requested_by": origin.by,
        "request_id": origin.request_id,
        "traceparent": tracing.carried(),
        "requested_at": Now(),
        "dispatched_at": None,
    }


def withdraw(row: AsyncMigrationStatus, origin: Origin) -> bool:
    ended: dict[str, Any] = {"direction": Direction.BACKWARDS, "run_at": None, "phase": "", "finished_at": Now()}
    return move(states.WITHDRAW, row, Status.ROLLED_BACK, origin, asked="rollback", **ended)


def until_settled(pk: int) -> Iterator[AsyncMigrationStatus]:
    for _ in range(_TRIES):
        yield get(pk)


def contended(row: AsyncMigrationStatus) -> TransitionRefused:
    return TransitionRefused(
        f"{row.name} was changed by others all the time: look at it and ask again.",
        status=row.status,
        allowed=states.verbs_from(row.status),
    )


def _refuse_while_cancelled(transition: Transition, row: AsyncMigrationStatus) -> None:
    if row.stop_requested == StopRequest.CANCEL:
        raise TransitionRefused(
            f"{transition} is not possible: {row.name} is being cancelled; wait until it is CANCELLED.",
            status=row.status,
            allowed=(states.CANCEL.name,),
        )


def require_reversible(row: AsyncMigrationStatus) -> None:
    """Raise TransitionRefused for a backfill whose file says nothing of the way back."""
    if row.kind == Kind.BACKFILL and not row.sql_backwards:
        raise TransitionRefused(
            f"{row.name} cannot be rolled back: its file says nothing of the way back. Give make_backfill_migration "
            'rollback_update or rollback_sql, or rollback="noop" to leave the rows as they are, and migrate again.',
            status=row.status,
            allowed=tuple(verb for verb in states.verbs_from(row.status) if verb != states.ROLLBACK.name),
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
