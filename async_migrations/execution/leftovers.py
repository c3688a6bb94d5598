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


def remove_leftovers(attempt: Attempt, *, orphans: bool) -> None:
    """Drop the INVALID index that this attempt made and did not finish, by building it or by dropping it.

    orphans: also end what earlier attempts left running, and drop what those built.

    On a connection of its own, for a cancel may still be on its way to the first. Raises ExecutionError, LeaseLost, and
    Interrupted where another worker has to go on with it.
    """
    attempt.heartbeat.phase = "removing leftovers"
    # A build of ours that came to its end as the cancel arrived is whole, but nothing says that it is done.
    cancelled = attempt.heartbeat.stop is Stop.CANCEL
    for index in attempt.leftovers:
        _remove(attempt, index, whole=cancelled and index.action is IndexAction.CREATE)
    if orphans:
        _end_orphans(attempt)
    if attempt.reindexed:
        _sweep(attempt)


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
        _remove(attempt, index, whole=index.action is IndexAction.CREATE)


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
    done, begun = marks.get("done", []), marks.get("begun")
    session.set_all(attempt.migration.options.get("settings", {}))
    for statement in attempt.statements:
        if statement.effect is Effect.SESSION:
            session.execute(statement.text)
        elif statement.number > len(done):
            if statement.reindexes:
                attempt.reindexed = list(verify.tables_of(session, statement.relations))
            elif statement.digest == begun and statement.effect is Effect.CATALOGUE:
                return verify.qualified(session, statement.indexes[0])
            break
    return None


def _sweep(attempt: Attempt) -> None:
    with _session(attempt) as session:
        while session.all("reindexed", tables=attempt.reindexed):
            if reserve(session, attempt.reindexed):
                swept = verify.sweep(session, attempt.reindexed)
                lifecycle.note(attempt.lease, "leftover_removed", indexes=swept)
                return
            _await_turn(attempt)


def _remove(attempt: Attempt, index: Index, *, whole: bool = False) -> None:
    """Drop an index that is INVALID and that nobody builds; `whole`: also one that is valid."""
    with _session(attempt) as session:
        while found := _left(session, index, whole=whole):
            if busy := verify.builders(session, found):
                if attempt.heartbeat.stop is not Stop.CANCEL:
                    return  # Whoever tries again repairs it; CANCELLED says that nothing is left.
                attempt.heartbeat.waiting_on = busy
                _await_turn(attempt, "another session may be at work on the index")
            elif reserve(session, verify.tables_of(session, [Identifier(found.name, found.schema)])):
                verify.drop(session, found)
                lifecycle.note(attempt.lease, "leftover_removed", index=str(index.name))
                return
            else:
                _await_turn(attempt)


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


def _await_turn(attempt: Attempt, why: str = "another migration is at work on the table") -> None:
    attempt.heartbeat.phase = f"waits for its turn to remove leftovers: {why}"
    _wait(attempt)


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
