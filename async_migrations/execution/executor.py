"""One attempt as a pipeline of small steps: open, perform, remove leftovers, record.

Outcomes are data. Deciding how an attempt ended, recording it and cleaning up are separate steps, so that no failure of
one can pass for another.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from django.db import DatabaseError, InterfaceError, connections

from .. import lifecycle
from ..conf import conf
from ..errors import ExecutionError, InvalidDefinition, LeaseLost
from ..lifecycle import Lease
from ..models import AsyncMigrationStatus
from ..states import Direction
from . import verify
from .heartbeat import Heartbeat, Stop, shutdown
from .session import Session
from .statements import Effect, Identifier, Index, IndexAction, Lock, Statement, parse

logger = logging.getLogger("async_migrations")

# How long to wait between two looks at a thing that another session must finish first.
_POLL_SECONDS = 0.2

# Pauses between lock retries double from the first to the second of these, in seconds, each with +/- 50 % of jitter, so
# that two who want the same lock do not meet again and again, and readers get their turn in between.
_LOCK_PAUSE_SECONDS = (0.5, 20.0)


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


Outcome = Succeeded | Stopped | Failed


class _Interrupted(Exception):
    """The heartbeat says to stop; raised between two statements."""


@dataclass
class Attempt:
    """What the steps of one attempt share."""

    lease: Lease
    migration: AsyncMigrationStatus
    heartbeat: Heartbeat
    statements: tuple[Statement, ...] = ()
    done: list[str] = field(default_factory=list)
    begun: str = ""
    leftovers: list[Index] = field(default_factory=list)
    current: int | None = None

    @property
    def lock_key(self) -> str:
        """The advisory lock of the migration; PostgreSQL keeps it per database."""
        return advisory_key(self.migration.name)

    def option(self, name: str, default: float) -> float:
        """Return an option of the migration file that is a number, or the default."""
        value = self.migration.options.get(name)
        return default if value is None else float(value)

    def go_on(self) -> None:
        """Raise when there is a reason to stop here, between two statements."""
        if self.heartbeat.stop is not None or shutdown.is_set():
            raise _Interrupted


def advisory_key(name: str) -> str:
    """Return the text from which the advisory lock of a migration is made."""
    return f"async_migrations:{name}"


def execute(lease: Lease) -> None:
    """Carry out one attempt and write down how it ended. Raises nothing: whatever happens ends in the row."""
    migration = lifecycle.get(lease.pk)
    with Heartbeat(lease, migration.database) as heartbeat:
        attempt = Attempt(lease, migration, heartbeat)
        outcome = remove_leftovers(attempt, perform(attempt))
    record(attempt, outcome)


# --- perform ---------------------------------------------------------------------------------------------------------


def perform(attempt: Attempt) -> Outcome:
    """Carry out the statements that are not done yet; say how it ended."""
    try:
        attempt.statements = _read(attempt.migration)
        with _opened(attempt) as session:
            for statement in attempt.statements[len(attempt.done) :]:
                _carry_out(attempt, session, statement)
        return Succeeded()
    except _Interrupted:
        return Stopped(attempt.heartbeat.stop or Stop.SHUTDOWN)
    except LeaseLost:
        return Stopped(Stop.LEASE_LOST)
    except InvalidDefinition as exc:
        return Failed(ExecutionError(code=exc.code, message=str(exc)))
    except ExecutionError as error:
        if attempt.heartbeat.stop is not None:  # It is our own cancel that the statement died of.
            return Stopped(attempt.heartbeat.stop)
        error.statement = attempt.current
        return Failed(error)
    except Exception as exc:
        logger.exception("attempt failed unexpectedly", extra={"migration_id": attempt.lease.pk})
        return Failed(_unexpected(exc, attempt.current))


def _read(migration: AsyncMigrationStatus) -> tuple[Statement, ...]:
    backwards = migration.direction == Direction.BACKWARDS
    sql = migration.sql_backwards if backwards else migration.sql_forwards
    return parse(sql, atomic=bool(migration.options.get("atomic", True)))


@contextmanager
def _opened(attempt: Attempt) -> Iterator[Session]:
    """Open the session, wait for the migration's advisory lock, and take over the checkpoint."""
    lease = attempt.lease
    with Session(attempt.migration.database, f"async-migrations/{lease.pk}/{lease.attempt}") as session:
        _wait_for_lock(attempt, session)
        _take_checkpoint(attempt, session)
        for name, value in attempt.migration.options.get("settings", {}).items():
            session.set(name, str(value))
        try:
            yield session
        finally:
            attempt.heartbeat.watch(None)


def _wait_for_lock(attempt: Attempt, session: Session) -> None:
    """Take the advisory lock in the very session that runs the SQL.

    Whoever else holds it is carrying this migration out: the backend of a worker that died and whose statement runs on,
    or the `migrate` that is not through yet. Both are waited for, never doubled.
    """
    heartbeat = attempt.heartbeat
    while not session.one("try_advisory_lock", key=attempt.lock_key)["pg_try_advisory_lock"]:
        attempt.go_on()
        holders = session.all("advisory_lock_holder", key=attempt.lock_key)
        if heartbeat.waiting_on is None:
            lifecycle.note(attempt.lease, "waiting_for_session", holders=holders)
        heartbeat.phase = "waiting for the session that still carries this migration out"
        heartbeat.waiting_on = holders
        heartbeat.pause(_POLL_SECONDS)
    heartbeat.waiting_on = None


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
    for digest, statement in zip(taken["done"], attempt.statements, strict=False):
        if digest != statement.digest:
            break
        attempt.done.append(digest)
    if attempt.done:
        lifecycle.note(attempt.lease, "resumed", statements_done=len(attempt.done))


def _carry_out(attempt: Attempt, session: Session, statement: Statement) -> None:
    attempt.go_on()
    attempt.current = statement.number
    attempt.heartbeat.phase = f"statement {statement.number} of {len(attempt.statements)}: {statement.summary}"[:255]
    attempt.heartbeat.watch(session.backend, statement.number - 1, len(attempt.statements))
    session.set("statement_timeout", f"{round(attempt.option('statement_timeout', 0) * 1000)}ms")
    session.set("lock_timeout", f"{round(_lock_timeout(attempt, statement) * 1000)}ms")
    started = time.monotonic()
    _STEPS[statement.effect](attempt, session, statement)
    lifecycle.note(
        attempt.lease,
        "statement_done",
        statement=statement.number,
        sql=statement.summary,
        seconds=round(time.monotonic() - started, 3),
        proof=statement.effect.value,
    )


def _lock_timeout(attempt: Attempt, statement: Statement) -> float:
    """Return the `lock_timeout` in seconds; 0 is none.

    A concurrent build that has one dies of it in its last wait, and leaves an INVALID index. A statement that has none
    and blocks readers or writers makes the application wait behind it.
    """
    if statement.lock is Lock.BLOCKING:
        return attempt.option("lock_timeout", conf.lock_timeout_seconds) or conf.lock_timeout_seconds
    return attempt.option("lock_timeout", 0) if statement.lock is Lock.ROWS else 0


def _transactional(attempt: Attempt, session: Session, statement: Statement) -> None:
    """Commit the statement together with the mark that it is done, so that no retry runs it twice."""

    def once() -> None:
        with session.transaction():
            session.execute(statement.text)
            for index in statement.indexes:
                _check_index(session, index)
            _mark_done(attempt, session, statement)

    _with_lock_retries(attempt, statement, once)


def _catalogue(attempt: Attempt, session: Session, statement: Statement) -> None:
    for index in statement.indexes:
        if _is_needed(attempt, session, statement, index):
            session.execute(statement.text)
        _check_index(session, index)
    attempt.leftovers.clear()
    _mark_done(attempt, session, statement)


def _repeatable(attempt: Attempt, session: Session, statement: Statement) -> None:
    _with_lock_retries(attempt, statement, lambda: session.execute(statement.text))
    _mark_done(attempt, session, statement)


def _unknown(attempt: Attempt, session: Session, statement: Statement) -> None:
    """Leave a mark before and one behind; between the two nobody can tell, and a person has to look."""
    if attempt.begun == statement.digest and attempt.lease.attempt > 1:
        raise ExecutionError(
            code="outcome_unknown",
            message="An earlier attempt ended while this statement ran, and nothing tells whether it took effect.",
            hint="Look whether it did. If not, run the migration again; if it did, take it out of the file first.",
        )
    _mark(session.change("mark_begun", **_whose(attempt), begun=statement.digest))
    _with_lock_retries(attempt, statement, lambda: session.execute(statement.text))
    _mark_done(attempt, session, statement)


def _session_setting(attempt: Attempt, session: Session, statement: Statement) -> None:
    session.execute(statement.text)
    attempt.done.append(statement.digest)


_STEPS = {
    Effect.TRANSACTIONAL: _transactional,
    Effect.CATALOGUE: _catalogue,
    Effect.REPEATABLE: _repeatable,
    Effect.UNKNOWN: _unknown,
    Effect.SESSION: _session_setting,
}


def _mark_done(attempt: Attempt, session: Session, statement: Statement) -> None:
    done = [*attempt.done, statement.digest]
    _mark(session.change("mark_done", **_whose(attempt), done=done))
    attempt.done = done


def _whose(attempt: Attempt) -> dict[str, str]:
    return {"name": attempt.migration.name, "token": str(attempt.lease.token)}


def _mark(changed: int) -> None:
    if not changed:  # Another attempt has taken the checkpoint over: the open transaction must not commit.
        raise LeaseLost


def _with_lock_retries(attempt: Attempt, statement: Statement, once: Callable[[], None]) -> None:
    """Try until the lock is there, with pauses in which readers get their turn; never without a `lock_timeout`."""
    deadline = time.monotonic() + conf.lock_retry_seconds
    pause, longest = _LOCK_PAUSE_SECONDS
    while True:
        try:
            once()
            return
        except ExecutionError as error:
            blocking = statement.lock is Lock.BLOCKING and error.code == "lock_timeout"
            if not blocking or time.monotonic() >= deadline:
                raise
        lifecycle.note(attempt.lease, "lock_retry", statement=statement.number, pause_seconds=round(pause, 1))
        attempt.heartbeat.pause(pause * random.uniform(0.5, 1.5))  # noqa: S311
        attempt.go_on()
        pause = min(longest, pause * 2)


# --- indexes ---------------------------------------------------------------------------------------------------------


def _is_needed(attempt: Attempt, session: Session, statement: Statement, index: Index) -> bool:
    """Whether the statement still has to run; an INVALID index that nobody builds any more is dropped on the way."""
    found = verify.find(session, index)
    if index.action is IndexAction.CREATE:
        return _needs_building(attempt, session, index, found)
    if index.action is IndexAction.DROP and found is None and attempt.begun == statement.digest:
        lifecycle.note(attempt.lease, "found_done", index=str(index.name))
        return False
    _mark(session.change("mark_begun", **_whose(attempt), begun=statement.digest))
    return True


def _needs_building(attempt: Attempt, session: Session, index: Index, found: verify.FoundIndex | None) -> bool:
    while found is not None and not found.valid and (busy := verify.builders(session, found)):
        attempt.go_on()
        attempt.heartbeat.phase = f"waiting for the session that is building {index.name}"
        attempt.heartbeat.waiting_on = busy
        attempt.heartbeat.pause(_POLL_SECONDS)
        found = verify.find(session, index)
    attempt.heartbeat.waiting_on = None
    if found is not None and found.valid:
        verify.require_as_asked(session, index, found)
        lifecycle.note(attempt.lease, "found_done", index=str(index.name), definition=found.definition)
        return False
    if found is not None:
        lifecycle.note(attempt.lease, "repair", index=str(index.name), definition=found.definition)
        _drop(session, found)
    attempt.leftovers.append(index)
    return True


def _check_index(session: Session, index: Index) -> None:
    """Raise unless the catalogue shows what the statement was to bring about."""
    if index.action is IndexAction.DROP:
        verify.require_gone(session, index)
        return
    found = verify.require_valid(session, index)
    if index.tolerant:  # IF NOT EXISTS says nothing about what is there.
        verify.require_as_asked(session, index, found)


def _drop(session: Session, found: verify.FoundIndex) -> None:
    name = verify.quoted(Identifier(found.name, found.schema))
    session.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


# --- the end ---------------------------------------------------------------------------------------------------------


def remove_leftovers(attempt: Attempt, outcome: Outcome) -> Outcome:
    """Drop the INVALID index that this attempt made and did not finish; the outcome stays what it is.

    On a connection of its own, for a cancel may still be on its way to the first. What cannot be removed now is left to
    the next attempt, which repairs it.
    """
    if isinstance(outcome, Succeeded) or outcome == Stopped(Stop.LEASE_LOST):
        return outcome
    attempt.heartbeat.phase = "removing leftovers"
    try:
        if outcome == Stopped(Stop.CANCEL) and (attempt.lease.attempt > 1 or attempt.migration.stop_requested):
            _end_orphan(attempt)
        for index in attempt.leftovers:
            _remove(attempt, index)
    except Exception:  # How the attempt ended is known, and must be written down in any case.
        logger.warning("leftovers stay", extra={"migration_id": attempt.lease.pk}, exc_info=True)
    return outcome


def _end_orphan(attempt: Attempt) -> None:
    """Cancel what an earlier attempt left running, wait until it is gone, and count what it built as left over."""
    ours = f"async-migrations/{attempt.lease.pk}/"
    with Session(attempt.migration.database, f"{ours}cleanup") as session:
        while holders := session.all("advisory_lock_holder", key=attempt.lock_key):
            for holder in holders:
                if holder["application_name"].startswith(ours):
                    session.one("cancel_backend", **holder)
            time.sleep(_POLL_SECONDS)
    undone = attempt.statements[len(attempt.done) :]
    built = (index for statement in undone if statement.effect is Effect.CATALOGUE for index in statement.indexes)
    attempt.leftovers += [index for index in built if index.action is IndexAction.CREATE]


def _remove(attempt: Attempt, index: Index) -> None:
    with Session(attempt.migration.database, f"async-migrations/{attempt.lease.pk}/cleanup") as session:
        found = verify.find(session, index)
        if found is not None and found.on_table and not found.valid and not verify.builders(session, found):
            _drop(session, found)
            lifecycle.note(attempt.lease, "leftover_removed", index=str(index.name))


def record(attempt: Attempt, outcome: Outcome) -> None:
    """Write down how the attempt ended; while the control database is away, try until the lease would be over."""
    deadline = time.monotonic() + conf.lease_seconds
    while True:
        try:
            return _write(attempt.lease, outcome)
        except LeaseLost:
            logger.warning("lease lost, nothing written", extra={"migration_id": attempt.lease.pk})
            return None
        except (DatabaseError, InterfaceError):
            if time.monotonic() > deadline:  # The lease runs out; whoever reaps it finds the truth in the checkpoint.
                logger.exception("outcome not written", extra={"migration_id": attempt.lease.pk})
                return None
            connections.close_all()
            time.sleep(1)


def _write(lease: Lease, outcome: Outcome) -> None:
    match outcome:
        case Succeeded():
            lifecycle.succeed(lease)
        case Stopped(Stop.CANCEL):
            lifecycle.cancelled(lease)
        case Stopped(Stop.SHUTDOWN):
            lifecycle.release(lease)
        case Failed(error) if error.retryable and lease.attempt < lease.max_attempts:
            lifecycle.release(lease, error=error, delay=_backoff(lease.attempt))
        case Failed(error):
            lifecycle.fail(lease, error)


def _backoff(attempt: int) -> timedelta:
    """Return the time until the next attempt: exponential, capped, with full jitter in its upper half."""
    longest = min(conf.backoff_max_seconds, conf.backoff_seconds * 2 ** (attempt - 1))
    return timedelta(seconds=random.uniform(longest / 2, longest))  # noqa: S311


def _unexpected(exc: Exception, statement: int | None) -> ExecutionError:
    return ExecutionError(
        code="internal_error",
        message=f"{type(exc).__name__}: {exc}",
        hint="This is a defect of async_migrations or of its set-up; the worker's log has the details.",
        statement=statement,
    )
