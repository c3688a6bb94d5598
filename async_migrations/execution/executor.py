"""One attempt as a pipeline of small steps: open, perform, remove leftovers, record.

Outcomes are data. Deciding how an attempt ended, recording it and cleaning up are separate steps, so that no failure of
one can pass for another.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from django.db import DatabaseError, InterfaceError, connections

from .. import lifecycle, tracing
from ..conf import conf
from ..errors import ExecutionError, InvalidDefinition, LeaseLost
from ..lifecycle import Lease
from ..models import AsyncMigrationStatus
from ..states import Direction, Kind
from . import backfill
from .attempt import POLL_SECONDS, Attempt, Interrupted, Postponed
from .backfill import Nudge
from .heartbeat import Heartbeat, Stop, shutdown
from .leftovers import end_silent, leftovers_stay, remove_leftovers
from .pool import sessions
from .session import Session
from .statements import Effect, Statement, parse
from .steps import carry_out

logger = logging.getLogger("async_migrations")


@dataclass(frozen=True)
class Succeeded:
    """The effect is there, verified."""


@dataclass(frozen=True)
class Stopped:
    """Something asked the attempt not to go on."""

    reason: Stop


@dataclass(frozen=True)
class Failed:
    """A statement failed, or its effect is not there."""

    error: ExecutionError


@dataclass(frozen=True)
class NotItsTurn:
    """It cannot go on here and now: another migration works on the same table, or its window is shut."""

    reason: str
    seconds: float


Outcome = Succeeded | Stopped | Failed | NotItsTurn


def execute(lease: Lease, nudge: Nudge) -> None:
    """Carry out one attempt and write down how it ended. Raises nothing: whatever happens ends in the row.

    nudge: asks so many other workers to help with the lanes of this migration.
    """
    row = lease.migration
    about = {"id": row.pk, "name": row.name, "database": row.database, "kind": row.kind, "direction": row.direction}
    about |= {"attempt": lease.attempt, "worker": lease.worker}
    with tracing.span("attempt", about, kind="consumer", parent=row.traceparent) as mark:
        outcome = _execute(lease, nudge)
        error = outcome.error.code if isinstance(outcome, Failed) else None
        mark({"outcome": type(outcome).__name__, tracing.ERROR: error})


def _execute(lease: Lease, nudge: Nudge) -> Outcome:
    with Heartbeat(lease, lease.migration.database) as heartbeat:
        attempt = Attempt(lease, heartbeat)
        outcome = clean_up(attempt, perform(attempt, nudge))
    # Not before the heartbeat has ended: a cancel of its own could still hit what the session does next.
    cleared = _cleared(attempt)
    recorded = record(attempt, outcome)
    if cleared is not None and recorded:
        sessions.give_back(cleared)
    elif cleared is not None:  # Somebody else has the migration now, and may be cancelling what we left.
        cleared.close()
    if attempt.reserved and not isinstance(outcome, NotItsTurn):  # Two that wait would call each other without end.
        with suppress(DatabaseError, InterfaceError):  # They look again by themselves.
            lifecycle.call_up(lease.migration.database)
    return outcome


def perform(attempt: Attempt, nudge: Nudge) -> Outcome:
    """Carry out what is not done yet; say how it ended."""
    try:
        attempt.statements = _read(attempt.migration)
        with _opened(attempt) as session:
            if attempt.migration.kind == Kind.BACKFILL:
                backfill.carry_out(attempt, session, nudge)
            for statement in attempt.statements:
                if statement.number > len(attempt.done) or statement.effect is Effect.SESSION:
                    carry_out(attempt, session, statement)
        return Succeeded()
    except Postponed as exc:
        return NotItsTurn(str(exc), exc.seconds)
    except (Interrupted, LeaseLost) as exc:
        return Stopped(Stop.LEASE_LOST if isinstance(exc, LeaseLost) else attempt.heartbeat.stop or Stop.SHUTDOWN)
    except Exception as exc:
        stop = attempt.heartbeat.stop
        if isinstance(exc, ExecutionError) and stop is not None and stop.interrupts:
            return Stopped(stop)  # It is our own cancel that the statement died of.
        return Failed(_explained(attempt, exc))


def _explained(attempt: Attempt, exc: Exception) -> ExecutionError:
    """Return what the row will say of an exception."""
    if isinstance(exc, ExecutionError):
        exc.statement = attempt.current
        return exc
    if isinstance(exc, InvalidDefinition):
        return ExecutionError(code=exc.code, message=str(exc))
    if isinstance(exc, DatabaseError | InterfaceError):  # Django's: it is the control database that is away.
        return _control_lost(exc)
    logger.exception("attempt failed unexpectedly", extra={"migration_id": attempt.lease.pk})
    return _unexpected(exc, attempt.current)


def _read(migration: AsyncMigrationStatus) -> tuple[Statement, ...]:
    if migration.kind == Kind.BACKFILL:
        return ()
    backwards = migration.direction == Direction.BACKWARDS
    sql = migration.sql_backwards if backwards else migration.sql_forwards
    return parse(sql, atomic=bool(migration.options.get("atomic", True)))


@contextmanager
def _opened(attempt: Attempt) -> Iterator[Session]:
    """Open the session, wait for the migration's advisory lock, and take over the checkpoint.

    It is left open, for `_cleared`, if all goes well.
    """
    lease = attempt.lease
    session = sessions.borrow(attempt.migration.database, f"async-migrations/{lease.pk}/{lease.attempt}")
    try:
        _wait_for_lock(attempt, session)
        _take_checkpoint(attempt, session)
        if limit := attempt.option("statement_timeout", 0):  # A session begins without any.
            session.set("statement_timeout", f"{round(limit * 1000)}ms")
        session.set_all(attempt.migration.options.get("settings", {}))
        yield session
        attempt.session = session
    except BaseException:
        session.close()
        raise
    finally:
        attempt.heartbeat.watch(None)


def _cleared(attempt: Attempt) -> Session | None:
    """Return the session for the next attempt, without the locks and whatever else this one left in it."""
    session = attempt.session
    if session is not None and attempt.heartbeat.stop is not None:  # A cancel may have hit or missed anything in it.
        session.close()
        return None
    return session if session is not None and sessions.clear(session) else None


def _wait_for_lock(attempt: Attempt, session: Session) -> None:
    """Take the advisory lock in the very session that runs the SQL.

    Whoever else holds it is carrying this migration out: the backend of a worker that died and whose statement runs on,
    or the `migrate` that is not through yet. Both are waited for, never doubled.
    """
    heartbeat = attempt.heartbeat
    while not session.one("try_advisory_lock", key=attempt.lock_key)["locked"]:
        if shutdown.is_set() and heartbeat.stop is Stop.PAUSE:
            raise Postponed("waits for the session that still carries this migration out", 0)  # It is not PAUSED yet.
        if heartbeat.stop not in (None, Stop.PAUSE) or shutdown.is_set():
            raise Interrupted
        holders = session.all("advisory_lock_holder", key=attempt.lock_key)
        if heartbeat.waiting_on is None:
            lifecycle.note(attempt.lease, "waiting_for_session", holders=holders)
        heartbeat.phase = "waiting for the session that still carries this migration out"
        heartbeat.waiting_on = holders
        heartbeat.follow(holders[0]["pid"] if holders else None)
        end_silent(attempt, session, holders)
        # PAUSED says that nothing runs, so a pause waits for what still does.
        (time.sleep if heartbeat.stop else heartbeat.pause)(POLL_SECONDS)
    heartbeat.waiting_on = None
    heartbeat.follow(None)


def _take_checkpoint(attempt: Attempt, session: Session) -> None:
    """Become the only attempt that may mark anything as done; learn what is done already."""
    migration = attempt.migration
    taken = session.one(
        "take_checkpoint",
        name=migration.name,
        migration_id=migration.pk,
        token=str(attempt.lease.token),
        direction=migration.direction,
    )
    attempt.begun = taken["begun"]
    attempt.done = attempt.still_done(taken["done"])
    if attempt.done:
        lifecycle.note(attempt.lease, "resumed", statements_done=len(attempt.done))


def clean_up(attempt: Attempt, outcome: Outcome) -> Outcome:
    """Remove what an attempt that did not succeed leaves behind, unless it is another one's by now; say how it ended.

    What cannot be removed is left to the next attempt, which repairs it; only CANCELLED says that nothing is left.
    """
    if isinstance(outcome, Succeeded) or outcome == Stopped(Stop.LEASE_LOST):
        return outcome
    cancelled = outcome == Stopped(Stop.CANCEL)
    try:
        remove_leftovers(attempt, cancelled=cancelled)
    except (Interrupted, LeaseLost) as exc:
        return Stopped(Stop.LEASE_LOST if isinstance(exc, LeaseLost) else Stop.SHUTDOWN) if cancelled else outcome
    except Exception as exc:
        logger.warning("leftovers stay", extra={"migration_id": attempt.lease.pk}, exc_info=True)
        return Failed(leftovers_stay(_explained(attempt, exc))) if cancelled else outcome
    return outcome


def record(attempt: Attempt, outcome: Outcome) -> bool:
    """Write down how the attempt ended; while the control database is away, try until the lease would be over.

    Returns False where it could not be written: the migration is somebody else's now, or will be.
    """
    deadline = time.monotonic() + conf.lease_seconds
    while True:
        try:
            _write(attempt, outcome)
            return True
        except LeaseLost:
            logger.warning("lease lost, nothing written", extra={"migration_id": attempt.lease.pk})
            return False
        except (DatabaseError, InterfaceError):
            if time.monotonic() > deadline:  # The lease runs out; whoever reaps it finds the truth in the checkpoint.
                logger.exception("outcome not written", extra={"migration_id": attempt.lease.pk})
                return False
            connections.close_all()
            time.sleep(1)


def _write(attempt: Attempt, outcome: Outcome) -> None:
    lease = attempt.lease
    match outcome:
        case Succeeded():
            lifecycle.succeed(lease, *attempt.proven, **attempt.counted)
        case Stopped(Stop.CANCEL):
            lifecycle.cancelled(lease)
        case Stopped(Stop.PAUSE):
            lifecycle.paused(lease)
        case Stopped(Stop.SHUTDOWN):
            lifecycle.release(lease)
        case Stopped(Stop.HOLD):
            lifecycle.give_back(lease)
        case NotItsTurn(reason, seconds):
            lifecycle.release(lease, delay=timedelta(seconds=seconds), reason=reason)
        case Failed(error) if error.retryable and not attempt.is_last:
            lifecycle.release(lease, error=error, delay=_backoff(lease.attempt), anew=attempt.advanced)
        case Failed(error):
            lifecycle.fail(lease, error, **attempt.counted)


def _backoff(attempt: int) -> timedelta:
    """Return the time until the next attempt: exponential, capped, with full jitter in its upper half."""
    longest = min(conf.backoff_max_seconds, conf.backoff_seconds * 2 ** (attempt - 1))
    return timedelta(seconds=random.uniform(longest / 2, longest))  # noqa: S311


def _control_lost(exc: Exception) -> ExecutionError:
    return ExecutionError(
        code="control_database_lost",
        message=f"The control database did not answer in the course of the attempt: {exc}".strip(),
        hint="What is done is marked in the target; the next attempt goes on from there.",
        retryable=True,
    )


def _unexpected(exc: Exception, statement: int | None) -> ExecutionError:
    return ExecutionError(
        code="internal_error",
        message=f"{type(exc).__name__}: {exc}",
        hint="This is a defect of async_migrations or of its set-up; the worker's log has the details.",
        statement=statement,
    )
