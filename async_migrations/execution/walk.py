"""One lane, from its cursor to its last key, batch by batch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..conf import conf
from ..errors import ExecutionError, LeaseLost
from .attempt import Interrupted, Postponed
from .changing import Changer, ProcessChanger, SqlChanger
from .definition import Condition, Definition
from .keyset import Key, Keyset
from .lanes import Lane
from .orders import Orders, wishes
from .pace import Pace
from .session import Session
from .throttle import Throttle, Throttling
from .window import Window

# How long a batch waits for a row that somebody else has locked. Its own rows stay locked for as long, so it is short.
_ROW_LOCK_SECONDS = 0.2

# A batch that meets a locked row is halved down to this many rows, which are left for later.
_DEFERRED_ROWS = 100
_DEFERRED_RANGES = 1000

# Seconds between two looks at rows, or at a table, that others have locked.
_LOCKED_SECONDS = 0.5

# The longest pause without a look whether it still is wished for, in seconds.
_PAUSE_SECONDS = 0.5

# Seconds between two looks at the health of the database.
_THROTTLE_SECONDS = 1.0

# The share of rows that are meant in a batch below which it is worth a look whether an index leads to them.
_SPARSE = 0.1

_LOCKED = {"lock_timeout", "deadlock"}
# SQLSTATE classes that say that it is the rows: data, integrity, and what a trigger raises.
_DATA = ("22", "23", "P0")


@dataclass(frozen=True)
class Batch:
    """Rows behind `after` up to `upto`; `size` is how many it is meant for."""

    after: Key | None
    upto: Key
    size: int


def changer(orders: Orders, session: Session, definition: Definition, keyset: Keyset) -> Changer:
    """Return what changes the batches of this definition. Raises ExecutionError, Postponed."""
    options = orders.migration.options
    lock_seconds = float(options.get("lock_timeout", _ROW_LOCK_SECONDS))
    settings = {"lock_timeout": f"{round(lock_seconds * 1000)}ms", "synchronous_commit": "off"}
    if definition.process:  # Over a connection of Django's, which has no other settings than the project's.
        wanted = {name: str(value) for name, value in options.get("settings", {}).items()}
        settings = {"statement_timeout": "0", **wanted, **settings}
        return ProcessChanger(orders.migration.database, definition, keyset, settings)
    for name, value in settings.items():
        session.set(name, value)
    return SqlChanger(session, definition, keyset)


class Walk:
    """Carries one lane out. It holds the lane; every batch sees to it that it still does as it commits."""

    def __init__(self, orders: Orders, session: Session, definition: Definition, keyset: Keyset, lane: Lane) -> None:
        self._orders, self._session, self._definition = orders, session, definition
        self._keyset, self._lane = keyset, lane
        self._changer = changer(orders, session, definition, keyset)
        self._pace = Pace(lane.batch_size)
        self._seeking = self._sparse = False
        self._unproven = bool(definition.where) and orders.migration.options.get("verify", "take") == "take"
        self._locked_since: float | None = None
        self._throttle: Throttle | None = None
        self._throttle_wish: Any = None
        self._looked_at = 0.0
        window = orders.migration.options.get("window")
        self._window = Window.parse(window) if window else None

    def carry_out(self) -> None:
        """Walk to the last key, then take up what others had locked. Raises ExecutionError, LeaseLost, Interrupted."""
        while not self._lane.walked:
            self._stand_by()
            if (batch := self._next()) is not None:
                self._attempt(batch)
        while self._lane.deferred:
            self._take_up()

    # --- choosing ---

    def _next(self) -> Batch | None:
        """Return the next batch, None while the table is locked: others may lock it so that it cannot even be read."""
        size = self._pace.size(wishes(self._orders))
        condition = self._keyset.between(self._lane.reached, self._lane.last)
        try:
            upto = self._keyset.step(condition, size, self._where_to_seek(condition, size))
        except ExecutionError as error:
            self._orders.go_on()
            if error.code not in _LOCKED:
                raise
            self._wait_for_lock(error)
            return None
        return Batch(self._lane.reached, upto or self._lane.last, size)

    def _where_to_seek(self, condition: Condition, size: int) -> str:
        """Return the condition by which an index leads to the next rows that are meant; empty: they are walked to.

        Only where rows that are meant have been rare, and by the planner's costs: without an index that fits, one step
        would read the whole rest of the table.
        """
        where = self._definition.where
        if where and (self._sparse or self._seeking):
            walking = self._keyset.cost(condition, size)
            self._seeking = self._keyset.cost(condition, size, where) <= 2 * walking
        return where if self._seeking else ""

    # --- changing ---

    def _attempt(self, batch: Batch) -> None:
        """Carry a batch out, or learn from it that it cannot be as a whole."""
        began = time.monotonic()
        try:
            rows = self._change(batch, cursor=batch.upto)
        except ExecutionError as error:
            self._cope(batch, error)
            return
        seconds = time.monotonic() - began
        self._locked_since = None
        pace = wishes(self._orders)
        self._pace.took(batch.size, seconds, pace)
        self._sparse = rows < _SPARSE * batch.size
        self._rest(rows, seconds)

    def _change(self, batch: Batch, *, cursor: Key | None, deferred: list[dict[str, Key | None]] | None = None) -> int:
        """Change a batch and checkpoint, in one transaction; return how many rows were changed."""
        condition = self._keyset.between(batch.after, batch.upto)
        with self._changer.transaction():
            rows = self._changer.change(condition)
            if rows and self._unproven:
                self._prove(condition, rows)
            self._checkpoint(cursor, rows, deferred)
        self._keep(cursor, deferred)
        if rows:
            self._unproven = False
        return rows

    def _checkpoint(self, cursor: Key | None, rows: int, deferred: list[dict[str, Key | None]] | None) -> None:
        """Write cursor and counters in the transaction of the batch; whose lane it is no longer must not commit."""
        left = self._lane.deferred if deferred is None else deferred
        finished = cursor == self._lane.last and not left
        if finished:
            self._changer.write("commit_durably")
        written = self._changer.write(
            "checkpoint_lane",
            name=self._orders.migration.name,
            number=self._lane.number,
            token=self._lane.token,
            cursor=cursor,
            deferred=left,
            rows=rows,
            batch_size=self._pace.size(wishes(self._orders)),
            finished=finished,
            lease=conf.lease_seconds,
        )
        if not written:
            raise LeaseLost

    def _keep(self, cursor: Key | None, deferred: list[dict[str, Key | None]] | None) -> None:
        self._lane.cursor = cursor
        if deferred is not None:
            self._lane.deferred = deferred

    def _prove(self, condition: Condition, rows: int) -> None:
        """Refuse to go on where the rows that were changed are still to be changed: the end would never be there."""
        if self._changer.left(condition) < rows:
            return
        raise ExecutionError(
            code="where_stays_true",
            message="The rows of the first batch meet the condition `where` after the change as they did before, so "
            "nothing could tell when the work is done. Nothing was changed.",
            hint='Let `where` leave out what is done, e.g. "total IS NULL"; or say verify="off", and each row up to '
            "the last key is visited once.",
        )

    # --- what stands in the way ---

    def _cope(self, batch: Batch, error: ExecutionError) -> None:
        """Halve the batch, defer it, or set its row aside; raise what is no matter of single rows."""
        if self._orders.stopped:
            raise Interrupted from error
        if error.code in _LOCKED:
            self._cope_with_lock(batch, error)
        elif not _is_data(error):
            raise error
        elif batch.size > 1:
            self._pace.failed(batch.size)
        else:
            self._bad_row(batch.upto, error, cursor=batch.upto)

    def _cope_with_lock(self, batch: Batch, error: ExecutionError) -> None:
        if self._session.one("table_locked", table=self._keyset.relation)["locked"] or self._many_deferred():
            self._wait_for_lock(error)
        elif batch.size > _DEFERRED_ROWS:
            self._pace.failed(batch.size)
        else:
            deferred: list[dict[str, Key | None]] = [
                *self._lane.deferred,
                {"after": batch.after, "upto": batch.upto},
            ]
            with self._changer.transaction():
                self._checkpoint(batch.upto, 0, deferred)
            self._keep(batch.upto, deferred)

    def _many_deferred(self) -> bool:
        return len(self._lane.deferred) >= _DEFERRED_RANGES

    def _wait_for_lock(self, error: ExecutionError) -> None:
        """Wait for others to give a lock back; not for ever: raise the error then."""
        now = time.monotonic()
        self._locked_since = self._locked_since or now
        if now - self._locked_since > conf.lock_retry_seconds:
            error.hint = f"Others have held it for {conf.lock_retry_seconds:g} s; find out who, then run again."
            raise error
        self._orders.pause(_LOCKED_SECONDS)

    def _take_up(self) -> None:
        """Try each range once more whose rows others had locked."""
        moved, error = False, None
        for entry in list(self._lane.deferred):
            self._stand_by()
            upto = entry["upto"]
            assert upto is not None
            others = [other for other in self._lane.deferred if other is not entry]
            try:
                self._change(Batch(entry["after"], upto, _DEFERRED_ROWS), cursor=self._lane.cursor, deferred=others)
                moved = True
            except ExecutionError as exc:
                if self._orders.stopped:
                    raise Interrupted from exc
                if _is_data(exc):
                    self._part(entry, others, exc)
                    moved = True
                elif exc.code in _LOCKED:
                    error = exc
                else:
                    raise
        if moved:
            self._locked_since = None
        elif error is not None:
            self._wait_for_lock(error)

    def _part(self, entry: dict[str, Key | None], others: list[dict[str, Key | None]], error: ExecutionError) -> None:
        """Halve a deferred range that fails for its rows; one row is set aside."""
        after, upto = entry["after"], entry["upto"]
        assert upto is not None
        keys = self._keyset.keys(self._keyset.between(after, upto), _DEFERRED_ROWS)
        if len(keys) <= 1:
            self._bad_row(upto if not keys else keys[0], error, cursor=self._lane.cursor, deferred=others)
            return
        middle = keys[len(keys) // 2 - 1]
        halves: list[dict[str, Key | None]] = [{"after": after, "upto": middle}, {"after": middle, "upto": upto}]
        with self._changer.transaction():
            self._checkpoint(self._lane.cursor, 0, [*others, *halves])
        self._keep(self._lane.cursor, [*others, *halves])

    def _bad_row(
        self,
        key: Key,
        error: ExecutionError,
        *,
        cursor: Key | None,
        deferred: list[dict[str, Key | None]] | None = None,
    ) -> None:
        """End in ERROR over a row that cannot be changed, or set it aside and go on."""
        migration = self._orders.migration
        if migration.options.get("on_bad_row", "stop") == "stop":
            raise ExecutionError(
                code="bad_row",
                message=f"The row with {self._keyset.said(key)} cannot be changed: {error.message}",
                sqlstate=error.sqlstate,
                detail=error.detail,
                hint="Correct the row or the SQL, then run again: it goes on at this row. Or let the file say "
                'on_bad_row="quarantine", and such rows are set aside.',
                key=key,
            )
        with self._changer.transaction():
            self._changer.write(
                "set_aside", name=migration.name, migration_id=migration.pk, key=key, error=error.as_meta()
            )
            self._checkpoint(cursor, 0, deferred)
        self._keep(cursor, deferred)
        self._orders.tell("row_set_aside", key=key, code=error.code, message=error.message)

    # --- waiting ---

    def _rest(self, rows: int, seconds: float) -> None:
        """Leave the database to others after a batch, for as long as is wished, which may change meanwhile."""
        began = time.monotonic()
        while (left := began + self._pace.rest(rows, seconds, wishes(self._orders)) - time.monotonic()) > 0:
            self._orders.pause(min(left, _PAUSE_SECONDS))

    def _stand_by(self) -> None:
        """Wait until the database is healthy. Raises Interrupted when told to stop, Postponed out of the window."""
        self._orders.go_on()
        if self._window is not None and (shut := self._window.opens_in(datetime.now(UTC))):
            raise Postponed("waits for its window to open", shut.total_seconds())
        if time.monotonic() - self._looked_at >= _THROTTLE_SECONDS:
            self._wait_until_healthy()

    def _wait_until_healthy(self) -> None:
        while (found := self._health().look()) is not None:
            self._wait_out(found)
        self._looked_at = time.monotonic()

    def _wait_out(self, found: Throttling) -> None:
        """Wait until there is another reason to, or none; say so in the row and, at its end, in an event."""
        began, reason = time.monotonic(), found.reason
        why: dict[str, Any] = {"reason": reason, "since": datetime.now(UTC).isoformat()}
        now: Throttling | None = found
        try:
            while now is not None and now.reason == reason:
                why |= {"value": now.value, "limit": now.limit}
                self._orders.throttled(dict(why))
                self._orders.pause(_THROTTLE_SECONDS)
                now = self._health().look()
        finally:
            self._orders.throttled(None)
            self._orders.tell("throttled", **why, seconds=round(time.monotonic() - began, 3))

    def _health(self) -> Throttle:
        wanted = self._orders.tuning.get("throttle", self._orders.migration.options.get("throttle", True))
        if self._throttle is None or wanted != self._throttle_wish:
            self._throttle = Throttle(self._session, self._keyset.relation, wanted)
            self._throttle_wish = wanted
            if self._throttle.unavailable:
                self._orders.tell("signals_unavailable", signals=list(self._throttle.unavailable))
        return self._throttle


def _is_data(error: ExecutionError) -> bool:
    return error.code == "process_failed" or (error.sqlstate or "").startswith(_DATA)
