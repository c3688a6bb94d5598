"""What an attempt that did not succeed leaves behind, and how it is removed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import lifecycle
from ..conf import conf
from ..errors import ExecutionError
from . import verify
from .attempt import POLL_SECONDS, Attempt, Interrupted, reserve
from .heartbeat import Stop, shutdown
from .session import Session
from .statements import Effect, Identifier, Index, IndexAction

logger = logging.getLogger("async_migrations")


def remove_leftovers(attempt: Attempt, *, cancelled: bool) -> None:
    """Drop the INVALID index that this attempt made and did not finish, by building it or by dropping it.

    cancelled: also end what earlier attempts left running, drop what those built, and wait for others that may be at
    work on it: then nothing is left.

    On a connection of its own, for a cancel may still be on its way to the first. Raises ExecutionError, LeaseLost, and
    Interrupted where another worker has to go on with it.
    """
    attempt.heartbeat.phase = "removing leftovers"
    for index in attempt.leftovers:
        _remove(attempt, index, cancelled=cancelled)
    if cancelled:
        _end_orphans(attempt)
    if attempt.reindexed:
        _sweep(attempt, cancelled=cancelled)


def leftovers_stay(cause: ExecutionError) -> ExecutionError:
    """Return what the row will say of a cancel that could not remove what is left."""
    return ExecutionError(
        code="leftovers_stay",
        message=f"It was to be cancelled, but what it has left running or behind cannot be removed: {cause.message}",
        sqlstate=cause.sqlstate,
        detail=cause.detail,
        hint="See to what the message says; `run` then goes on, and `cancel` leaves everything as it is. Indexes that "
        "are INVALID are on the list of leftovers.",
        statement=cause.statement,
        retryable=cause.retryable,
    )


def end_silent(attempt: Attempt, session: Session, holders: list[dict[str, Any]]) -> None:
    """End earlier attempts' sessions that have had nothing under way for longer than a lease.

    Their host is gone, or their worker stands still; there is no statement that a cancel could end. Raises
    ExecutionError.
    """
    for holder in holders:
        if _is_ours(attempt, holder) and session.one("end_silent", **holder, silence=conf.lease_seconds):
            logger.warning("silent session ended", extra={"migration_id": attempt.lease.pk, "pid": holder["pid"]})


def _end_orphans(attempt: Attempt) -> None:
    """Cancel what an earlier attempt left running, wait until it is gone, and drop what it built."""
    with _session(attempt) as session:
        _await_lock(attempt, session)
        index = _left_by_orphan(attempt, session)
    if index is not None:
        _remove(attempt, index, cancelled=True)


def _await_lock(attempt: Attempt, session: Session) -> None:
    deadline = time.monotonic() + conf.lease_seconds
    while holders := session.all("advisory_lock_holder", key=attempt.lock_key):
        others = [holder for holder in holders if not _is_ours(attempt, holder)]
        if others and time.monotonic() > deadline:
            raise _held_by_others(others[0])
        for holder in holders:
            if _is_ours(attempt, holder):
                session.one("cancel_backend", **holder)
        end_silent(attempt, session, holders)
        _wait(attempt)


def _left_by_orphan(attempt: Attempt, session: Session) -> Index | None:
    """Return the index that an earlier attempt had under way, with the schema in which the statement meant it.

    Of a REINDEX CONCURRENTLY the tables are noted instead, to be swept.
    """
    marks = session.one("begun", name=attempt.migration.name, migration_id=attempt.lease.pk)
    done, begun = attempt.still_done(marks.get("done", [])), marks.get("begun")
    session.set_all(attempt.migration.options.get("settings", {}))
    for statement in attempt.statements:
        if statement.effect is Effect.SESSION:
            session.execute(statement.text)
        elif statement.number > len(done):
            if statement.reindexes:
                attempt.reindexed += verify.tables_of(session, statement.relations)
            elif statement.digest == begun and statement.effect is Effect.CATALOGUE:
                return verify.qualified(session, statement.indexes[0])
    return None


def _sweep(attempt: Attempt, *, cancelled: bool) -> None:
    with _session(attempt) as session:
        turn = _Turn(attempt)
        while left := session.all("reindexed", tables=attempt.reindexed):
            if all(row["busy"] for row in left):
                if not cancelled:
                    return
                turn.wait_for_others("what a REINDEX has left", [])
            elif reserve(session, attempt.reindexed):
                lifecycle.note(attempt.lease, "leftover_removed", indexes=verify.sweep(session, attempt.reindexed))
            else:
                turn.wait()


def _remove(attempt: Attempt, index: Index, *, cancelled: bool) -> None:
    """Drop an index that is INVALID and that nobody builds.

    cancelled: also one that is valid. A build of ours that came to its end as the cancel arrived is whole, but nothing
    says that it is done.
    """
    whole = cancelled and index.action is IndexAction.CREATE
    with _session(attempt) as session:
        turn = _Turn(attempt)
        while found := _left(session, index, whole=whole):
            if busy := verify.builders(session, found):
                if not cancelled:
                    return  # Whoever tries again repairs it; CANCELLED says that nothing is left.
                turn.wait_for_others(f"the index {found.name}", busy)
            elif not reserve(session, verify.tables_of(session, [Identifier(found.name, found.schema)])):
                turn.wait()
            elif found == _left(session, index, whole=whole):  # Behind the lock nobody of ours changes it any more.
                verify.drop(session, found)
                lifecycle.note(attempt.lease, "leftover_removed", index=str(index.name))
                return


def _left(session: Session, index: Index, *, whole: bool) -> verify.FoundIndex | None:
    found = verify.find(session, index)
    if found is None or not found.on_table or (found.valid and not whole):
        return None
    return None if verify.builders(session, found, perhaps=False) else found


@contextmanager
def _session(attempt: Attempt) -> Iterator[Session]:
    """Open a session for the block; the row says whom it waits for."""
    with Session(attempt.migration.database, f"{_ours(attempt)}cleanup") as session:
        attempt.heartbeat.follow(session.backend.pid)
        try:
            yield session
        finally:
            attempt.heartbeat.follow(None)
            attempt.heartbeat.waiting_on = None


def _ours(attempt: Attempt) -> str:
    return f"async-migrations/{attempt.lease.pk}/"


def _is_ours(attempt: Attempt, holder: dict[str, Any]) -> bool:
    return bool(holder["application_name"].startswith(_ours(attempt)))


class _Turn:
    """Waits until leftovers can be removed without ending what others do: for ours for ever, for others for a lease."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt, self._deadline = attempt, time.monotonic() + conf.lease_seconds

    def wait(self, why: str = "another migration is at work on the table") -> None:
        self._attempt.heartbeat.phase = f"waits for its turn to remove leftovers: {why}"
        _wait(self._attempt)

    def wait_for_others(self, what: str, busy: list[dict[str, Any]]) -> None:
        """Wait for sessions of others. Raises ExecutionError."""
        if time.monotonic() > self._deadline:
            raise ExecutionError(
                code="leftovers_stay",
                message=f"Another session holds a lock of the table, and may be at work on {what}.",
                detail="; ".join(f"pid {each['pid']}, {each['application_name']!r}, {each['query']}" for each in busy),
                retryable=True,
            )
        self._attempt.heartbeat.waiting_on = busy
        self.wait("another session may be at work on the index")


def _wait(attempt: Attempt) -> None:
    if shutdown.is_set() or attempt.heartbeat.stop is Stop.LEASE_LOST:
        raise Interrupted
    time.sleep(POLL_SECONDS)


def _held_by_others(holder: dict[str, Any]) -> ExecutionError:
    return ExecutionError(
        code="leftovers_stay",
        message="Another session holds the lock of this migration, so nothing tells whether its SQL still runs.",
        detail=f"pid {holder['pid']}, application_name {holder['application_name']!r}, {holder['state']}, "
        f"last statement: {holder['query']}",
        retryable=False,  # Who it is, and what it does, only a person can find out.
    )
