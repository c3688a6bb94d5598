"""What stands in the way of a migration, looked for before it begins.

Looking must not be felt by anybody: a session of its own, with a time for every question, no waiting for locks, and
none taken but ACCESS SHARE. What could not be looked for is a finding too, and never an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import takewhile
from math import ceil
from typing import Any, NamedTuple

from django.db import connections

from .. import states
from ..errors import ExecutionError, InvalidDefinition, PreflightFailed
from ..models import AsyncMigrationStatus
from ..states import Direction, Kind, Status
from . import estimate, locks, obstacles, surroundings
from .definition import Definition, definition_of
from .disk import disk, shortage
from .findings import CODES, ERROR, INFO, WARNING, Finding
from .lint import lint
from .look import Look, forbidden, unseen
from .pool import Pool
from .session import Session
from .statements import Effect, Statement, parse

#: Seconds that a whole look may take, about: somebody waits for the answer.
_SECONDS = 10.0

#: And before a migration is put in line.
_QUICK_SECONDS = 2.0

#: And before many are, for all looks together: a client gives up after 25 s.
_MANY_SECONDS = 10.0

# Of one question at most, so that one that takes long leaves time for the others.
_QUESTION_SECONDS = 3

# Who waits for a lock stands in the queue, and may be in the way of others there.
_LOCK_SECONDS = 0.2

# To connect; the driver knows whole seconds only, and 2 is its least.
_PATIENCE_SECONDS = 2

# One for each request that a web process may have at hand at once, about.
_SESSIONS_KEPT = 4

_sessions = Pool(lambda: _SESSIONS_KEPT, _PATIENCE_SECONDS)
_sessions.keep()

_WORST_FIRST = {ERROR: 0, WARNING: 1, INFO: 2}

Check = Callable[..., Iterator[Finding]]

# What may take all the time that it is given: it gets what is left to the millisecond.
_COSTLY = (obstacles.duplicate_keys, disk, shortage)


class Checks(NamedTuple):
    """What is looked for, in this order.

    before: before anything is set. of_statement: of each statement. of_index: of each that is about an index.
    of_backfill: of a backfill. of_indexes: of all indexes together. of_target: at the end.
    """

    before: tuple[Check, ...]
    of_statement: tuple[Check, ...]
    of_index: tuple[Check, ...]
    of_backfill: tuple[Check, ...]
    of_indexes: tuple[Check, ...]
    of_target: tuple[Check, ...]


#: Whatever can be an error. A statement is asked nothing that does not concern it: somebody waits for it to begin.
_ERRORS = Checks(
    (),
    (obstacles.tables_and_privileges,),
    (obstacles.indexes, obstacles.duplicate_keys),
    (obstacles.table_of_backfill, obstacles.condition_of_backfill),
    (shortage,),
    (),
)
_ALL = Checks(
    (surroundings.django_migration,),
    (*_ERRORS.of_statement, locks.lock),
    (*_ERRORS.of_index, estimate.duration),
    (obstacles.table_of_backfill, obstacles.rows_of_backfill, locks.lock_of_backfill, estimate.duration_of_backfill),
    (disk,),
    (
        estimate.sizes,
        surroundings.busy,
        surroundings.old_transactions,
        surroundings.prepared_transactions,
        surroundings.replicas,
        surroundings.role_settings,
        lint,
    ),
)


def look(migration: AsyncMigrationStatus, direction: str | None = None) -> list[Finding]:
    """Return what stands in the way of a migration now, and what is good to know before it begins; the worst first.

    direction: None for the one that it has; what is ROLLED BACK would go forwards. Raises nothing for a target that is
    away.
    """
    its_own = Direction.FORWARDS if migration.status == Status.ROLLED_BACK else migration.direction
    return sorted(
        _Preflight(migration, direction or its_own, _SECONDS).findings(_ALL),
        key=lambda found: _WORST_FIRST[found.level],
    )


def require(migration: AsyncMigrationStatus) -> None:
    """Raise PreflightFailed if an error stands in the way of going forwards, as far as _QUICK_SECONDS show it.

    What is under way or FINISHED is let pass, and so is what cannot be looked at from here: the worker finds out.
    """
    Looks().require(migration)


class Looks:
    """The looks before many migrations are put in line, while somebody waits: _MANY_SECONDS for all together."""

    def __init__(self) -> None:
        self._left = _MANY_SECONDS
        self._away: set[str] = set()

    def require(self, migration: AsyncMigrationStatus) -> None:
        """Do as `require` does; let pass as well what is on a target that was away before, or when the time is up."""
        if migration.status not in states.RUN.sources or migration.database in self._away or self._left <= 0:
            return
        begun = time.monotonic()
        look = _Preflight(migration, Direction.FORWARDS, min(_QUICK_SECONDS, self._left))
        errors = [each for each in look.findings(_ERRORS) if each.level == ERROR]
        self._left -= time.monotonic() - begun  # What is carried out between two looks does not count.
        if look.away:
            self._away.add(migration.database)
        if errors:
            raise PreflightFailed(
                f"{migration.name} on {migration.database} was not put in line, since it would fail: "
                f"{' '.join(each.message for each in errors)} See to that and ask again; "
                "who has the permission for it may say force.",
                findings=[asdict(each) for each in errors],
            )


class _Preflight:
    """One look at a target, from opening the session to closing it."""

    def __init__(self, migration: AsyncMigrationStatus, direction: str, seconds: float) -> None:
        self.migration, self.direction = migration, direction
        self.deadline = time.monotonic() + seconds
        self.away = False  # Whether the target could not be reached at all.
        self.limited = 0.0  # Seconds that a question may take now, as the session has been told.

    def findings(self, checks: Checks) -> list[Finding]:
        """Return what the checks find. Raises nothing for a target that is away."""
        try:
            statements, definition = self._read()
            with _session(self.migration.database) as session:
                look = Look(session, self.migration, self.direction, self.deadline, statements, definition)
                return list(self._each(checks, look))
        except InvalidDefinition as exc:
            hint = "Correct the migration file and migrate again."
            return [Finding("invalid_definition", ERROR, str(exc), hint=hint)]
        except ExecutionError as error:
            self.away = True
            return [_out_of_reach(error)]

    def _read(self) -> tuple[tuple[Statement, ...], Definition | None]:
        migration = self.migration
        backwards = self.direction == Direction.BACKWARDS
        if migration.kind == Kind.BACKFILL:
            if not migration.options.get("table"):
                raise InvalidDefinition("The row of this backfill names no table; it was not made by a migration file.")
            if backwards and not migration.sql_backwards:
                raise InvalidDefinition("It cannot be rolled back: its file says nothing of the way back.")
            return (), definition_of(migration, self.direction)
        sql = migration.sql_backwards if backwards else migration.sql_forwards
        return parse(sql, atomic=bool(migration.options.get("atomic", True))), None

    def _each(self, checks: Checks, look: Look) -> Iterator[Finding]:
        # First what is looked up by the names of tables, before a search path of the migration's own is set.
        first: tuple[Check, ...] = (*checks.before, _learn_role, _leave_out_what_is_done, _set_options)
        for check in first:
            yield from self._asked(check, look)
        for statement in look.statements:
            of_index = checks.of_index if statement.indexes else ()
            for check in (_set,) if statement.effect is Effect.SESSION else (*checks.of_statement, *of_index):
                yield from self._asked(check, look, statement)
        of_backfill = checks.of_backfill if look.definition else ()
        of_indexes = checks.of_indexes if any(statement.indexes for statement in look.statements) else ()
        for check in (*of_backfill, *of_indexes, *checks.of_target):
            yield from self._asked(check, look)

    def _asked(self, check: Check, look: Look, *about: Any) -> Iterator[Finding]:
        """Yield what a check finds; that it could not look is a finding too."""
        name = check.__name__.strip("_")
        exactly = self.deadline - time.monotonic()
        # Whole seconds for what takes milliseconds: what is set already need not be set again.
        left = min(_QUESTION_SECONDS, exactly if check in _COSTLY else ceil(exactly))
        if left <= 0:
            yield unseen(name, "the time for the whole look was up", "statement_cancelled")
            return
        try:
            if left != self.limited:
                look.session.limit(left, _LOCK_SECONDS)
            # What the migration sets may be one of the limits.
            self.limited = 0.0 if check in (_set, _set_options) else left
            yield from check(look, *about)
        except ExecutionError as error:
            if error.code == "not_allowed":
                hint = f"Grant {look.role} what it lacks there, or go by what the worker says."
                yield forbidden(name, f"{look.role}, the role of this process, is refused: {error.message}", hint)
            else:
                yield unseen(name, error.message, error.code)


def _learn_role(look: Look) -> Iterator[Finding]:
    """Learn as whom we look."""
    found = look.session.one("preflight_role")
    look.role, look.may_be_the_workers = found["role"], found["may_be_the_workers"]
    yield from ()


def _leave_out_what_is_done(look: Look) -> Iterator[Finding]:
    """Forget the statements that an earlier attempt has marked as done; what sets something counts all the same."""
    migration = look.migration
    if not migration.has_run:
        return
    marked = look.session.one(
        "preflight_done", name=migration.name, migration_id=migration.pk, direction=look.direction
    ).get("done", [])
    pairs = zip(marked, look.statements, strict=False)
    done = len(list(takewhile(lambda pair: pair[0] == pair[1].digest, pairs)))
    look.statements = tuple(
        statement for statement in look.statements if statement.number > done or statement.effect is Effect.SESSION
    )
    yield from ()


@contextmanager
def _session(alias: str) -> Iterator[Session]:
    """Lend a session to the target; it is kept for the next look where Django keeps its own connections to it.

    Raises ExecutionError.
    """
    session = _sessions.borrow(alias, "async-migrations/preflight")
    try:
        yield session
    except BaseException:
        session.close()
        raise
    if not connections[alias].settings_dict["CONN_MAX_AGE"]:
        session.close()
    elif _sessions.clear(session):
        _sessions.give_back(session)


def _set_options(look: Look) -> Iterator[Finding]:
    """Set what the options of the file set."""
    for name, value in look.migration.options.get("settings", {}).items():
        look.session.set(name, str(value))
    yield from ()


def _set(look: Look, statement: Statement) -> Iterator[Finding]:
    """Follow a SET of the migration: its search path and role decide what names mean to the statements behind it."""
    look.session.execute(statement.text)
    yield from ()


def _out_of_reach(error: ExecutionError) -> Finding:
    """Return why the target cannot be looked at from here; a worker may have another way to it."""
    code = error.code if error.code in CODES else "target_unavailable"
    return Finding(
        code,
        WARNING,
        f"The target could not be looked at from here: {error.message}",
        {"error": error.code},
        "Look again. A worker that reaches it no better fails of the same, or tries again.",
    )
