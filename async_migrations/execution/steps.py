"""How each kind of statement is carried out exactly once, and how its effect is looked up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.utils import timezone

from .. import lifecycle, tracing
from ..conf import conf
from ..errors import ExecutionError, LeaseLost
from . import duplicates, verify
from .attempt import POLL_SECONDS, Attempt, Postponed, reserve
from .session import Session
from .statements import Effect, Index, IndexAction, Lock, Statement, subjects
from .window import Window, require_open

# Pauses between lock retries double from the first to the second of these, in seconds, each with +/- 50 % of jitter, so
# that two who want the same lock do not meet again and again, and readers get their turn in between.
_LOCK_PAUSE_SECONDS = (0.5, 20.0)

# Who waits for a table looks again after this share of the time that it has waited, within these bounds in seconds, so
# that a long build does not fill the history of the one behind it; the end of an attempt calls it up at once.
_TURN_SHARE = 0.1
_TURN_SECONDS = (1.0, 30.0)


def carry_out(attempt: Attempt, session: Session, statement: Statement) -> None:
    """Carry one statement out, see that its effect is there, and mark it as done.

    Raises ExecutionError, LeaseLost, Interrupted, Postponed.
    """
    attempt.go_on()
    if window := attempt.migration.options.get("window"):
        require_open(Window.parse(window))
    attempt.current = statement.number
    about = {"statement": statement.number, "digest": statement.digest, "effect": statement.effect.name}
    with tracing.span("statement", about):
        _carry_out(attempt, session, statement)


def _carry_out(attempt: Attempt, session: Session, statement: Statement) -> None:
    attempt.heartbeat.phase = f"statement {statement.number} of {len(attempt.statements)}: {statement.summary}"[:255]
    attempt.heartbeat.watch(session.backend, statement.number - 1, len(attempt.statements))
    lock_timeout = _lock_timeout(attempt, statement)
    fresh = statement.number == 1 and not attempt.migration.options.get("settings")
    if lock_timeout or not fresh:  # A session begins without one.
        session.set("lock_timeout", f"{round(lock_timeout * 1000)}ms")
    started = time.monotonic()
    sizes = _reserved_tables(attempt, session, statement)
    tables = list(sizes)
    if subjects(statement)[0] in {"VACUUM", "ANALYZE"}:
        verify.require_maintainable(session, tables)
    attempt.reindexed = tables if statement.reindexes else []
    with attempt.heartbeat.guarding(attempt.guard_mode, session.backend, tables), _with_samples(session, statement):
        _STEPS[statement.effect](attempt, session, statement)
    if swept := verify.sweep(session, attempt.reindexed) if attempt.reindexed else []:
        lifecycle.note(attempt.lease, "leftover_removed", indexes=swept)
    attempt.reindexed = []
    if statement.effect is Effect.SESSION:
        return
    done = {
        "statement": statement.number,
        "sql": statement.summary,
        "seconds": round(time.monotonic() - started, 3),
        "proof": statement.effect.value,
        **({"table_bytes": sum(sizes.values())} if sizes else {}),
        **_what_is_missing(session, statement),
    }
    if statement is attempt.statements[-1]:  # The end of the attempt follows at once, and takes it along.
        attempt.proven = (("statement_done", done),)
    else:
        lifecycle.note(attempt.lease, "statement_done", **done)


def _what_is_missing(session: Session, statement: Statement) -> dict[str, str]:
    """Return what an event says of an index ON ONLY a partitioned table, which stays INVALID at first."""
    found = [verify.find(session, index) for index in statement.indexes if index.only]
    if not any(index is not None and not index.valid for index in found):
        return {}
    return {"note": "INVALID until an index of each partition is attached"}


@contextmanager
def _with_samples(session: Session, statement: Statement) -> Iterator[None]:
    """Let the error of a UNIQUE index that cannot be built name some of the duplicate keys."""
    try:
        yield
    except ExecutionError as error:
        unique = [index for index in statement.indexes if index.unique]
        if error.code == "duplicate_key" and unique:
            error.samples = duplicates.samples(session, unique[0])
        raise


def _reserved_tables(attempt: Attempt, session: Session, statement: Statement) -> dict[int, int]:
    """Return the tables that a statement of the MAINTENANCE class works on, reserved for this session: oid to bytes.

    Raises Postponed if another migration is at work on one of them.
    """
    if not statement.relations:
        return {}
    tables = verify.tables_of(session, statement.relations)
    if not reserve(session, tables):
        raise Postponed(f"{lifecycle.BEHIND}{statement.relations[0]}", _until_next_look(attempt))
    attempt.reserved = True
    return tables


def _until_next_look(attempt: Attempt) -> float:
    """Return the seconds until whoever waits for a table looks again, if nobody calls it up before."""
    now = timezone.now()
    waited = now - (attempt.migration.requested_at or now)
    least, most = _TURN_SECONDS
    return min(most, max(least, waited.total_seconds() * _TURN_SHARE))


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
    _mark_done(attempt, session, statement)
    attempt.leftovers.clear()  # Not before: a cancel that hits the mark leaves an index that nothing says is done.


def _repeatable(attempt: Attempt, session: Session, statement: Statement) -> None:
    _with_lock_retries(attempt, statement, lambda: session.execute(statement.text))
    if statement.reindexes:
        verify.require_reindexed(session, attempt.reindexed)
    _mark_done(attempt, session, statement)


def _unknown(attempt: Attempt, session: Session, statement: Statement) -> None:
    """Leave a mark before and one behind; between the two nobody can tell, and a person has to look.

    Who asks for it again after an error at this statement has been told, and means it.
    """
    told = lifecycle.failed_since(attempt.lease, "statement_begun", statement.number)
    if attempt.begun == statement.digest and not told:
        raise ExecutionError(
            code="outcome_unknown",
            message="An earlier attempt ended while this statement ran, and nothing tells whether it took effect.",
            hint="Look whether it did. If not, run the migration again; if it did, take it out of the file first.",
        )
    lifecycle.note(attempt.lease, "statement_begun", statement=statement.number, sql=statement.summary)
    _mark(session.change("mark_begun", **_whose(attempt), begun=statement.digest))
    _with_lock_retries(attempt, statement, lambda: session.execute(statement.text))
    _mark_done(attempt, session, statement)


def _session_setting(attempt: Attempt, session: Session, statement: Statement) -> None:
    session.execute(statement.text)
    if statement.number > len(attempt.done):
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
    step, longest = _LOCK_PAUSE_SECONDS
    while True:
        try:
            once()
            return
        except ExecutionError as error:
            blocking = statement.lock is Lock.BLOCKING and error.code == "lock_timeout"
            if not blocking or time.monotonic() >= deadline:
                raise
        pause = step * random.uniform(0.5, 1.5)  # noqa: S311
        lifecycle.note(attempt.lease, "lock_retry", statement=statement.number, pause_seconds=round(pause, 1))
        attempt.heartbeat.pause(pause)
        attempt.go_on()
        step = min(longest, step * 2)


def _is_needed(attempt: Attempt, session: Session, statement: Statement, index: Index) -> bool:
    """Whether the statement still has to run, and if so the mark that it is begun.

    An INVALID index that nobody builds any more is dropped on the way.
    """
    found = verify.find(session, index)
    if index.action is IndexAction.CREATE and not _needs_building(attempt, session, index, found):
        return False
    if index.action is IndexAction.DROP and found is None and attempt.begun == statement.digest:
        lifecycle.note(attempt.lease, "found_done", index=str(index.name))
        return False
    _mark(session.change("mark_begun", **_whose(attempt), begun=statement.digest))
    # Interrupted, it leaves an INVALID index, whether it builds or drops. Whoever removes that has another search path.
    meant = None if index.action is IndexAction.REINDEX else verify.qualified(session, index)
    if meant is not None:
        attempt.leftovers.append(meant)
    return True


def _needs_building(attempt: Attempt, session: Session, index: Index, found: verify.FoundIndex | None) -> bool:
    while found is not None and not verify.is_whole(index, found) and (busy := verify.builders(session, found)):
        attempt.go_on()
        attempt.heartbeat.phase = f"waiting for the session that is building {index.name}"
        attempt.heartbeat.waiting_on = busy
        attempt.heartbeat.pause(POLL_SECONDS)
        found = verify.find(session, index)
    attempt.heartbeat.waiting_on = None
    if found is not None and (verify.is_whole(index, found) or not found.on_table):
        verify.require_as_asked(session, index, found)
        lifecycle.note(attempt.lease, "found_done", index=str(index.name), definition=found.definition)
        return False
    if found is not None:
        lifecycle.note(attempt.lease, "repair", index=str(index.name), definition=found.definition)
        verify.drop(session, found)
    return True


def _check_index(session: Session, index: Index) -> None:
    """Raise unless the catalogue shows what the statement was to bring about."""
    if index.action is IndexAction.DROP:
        verify.require_gone(session, index)
        return
    found = verify.require_valid(session, index)
    if index.tolerant:  # IF NOT EXISTS says nothing about what is there.
        verify.require_as_asked(session, index, found)
