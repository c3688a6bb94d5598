"""One lane, from its cursor to its last key, batch by batch."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from .. import counting
from ..conf import conf
from ..errors import ExecutionError, LeaseLost
from .attempt import Interrupted
from .changing import Changer, ProcessChanger, SqlChanger
from .definition import PARTS, Condition, Definition
from .keyset import Key, Keyset
from .lanes import Lane, Piece, Place
from .orders import Orders, wishes
from .pace import Pace, Wishes
from .session import Session
from .throttle import Throttle, Throttling
from .window import Window, require_open

# How long a batch waits for a row that somebody else has locked. Its own rows stay locked for as long, so it is short.
_ROW_LOCK_SECONDS = 0.2

# A batch that meets a locked row is halved down to this many rows, which are left for later; of so many such pieces.
_DEFERRED_ROWS = 100
_DEFERRED_PIECES = 1000

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
    """A piece to be changed in one transaction: how many rows it is meant for, and where the lane is behind it."""

    piece: Piece
    size: int
    then: Place


def changer(orders: Orders, session: Session, definition: Definition, keyset: Keyset) -> Changer:
    """Return what changes the batches of this definition. Raises ExecutionError, Postponed."""
    options = orders.migration.options
    lock_seconds = float(options.get("lock_timeout", _ROW_LOCK_SECONDS))
    settings = {"lock_timeout": f"{round(lock_seconds * 1000)}ms", "synchronous_commit": "off"}
    if definition.process:  # Over a connection of Django's, which has no other settings than the project's.
        wanted = {name: str(value) for name, value in options.get("settings", {}).items()}
        settings = {"statement_timeout": "0", **wanted, **settings}
        return ProcessChanger(orders.migration.database, definition, keyset, settings)
    # Between two statements nobody but the worker is at work: one that is frozen gives back what it has locked.
    settings["idle_in_transaction_session_timeout"] = f"{round(conf.lease_seconds * 1000)}ms"
    for name, value in settings.items():
        session.set(name, value)
    return SqlChanger(session, definition, keyset)


class Walk:
    """Carries one lane out. It holds the lane; every batch sees to it that it still does as it commits.

    rows: how many it has changed.
    """

    def __init__(self, orders: Orders, session: Session, definition: Definition, keyset: Keyset, lane: Lane) -> None:
        self._orders, self._session, self._definition = orders, session, definition
        self._keyset, self._lane = keyset, lane
        self.rows = 0
        self._changer = changer(orders, session, definition, keyset)
        self._pace = Pace(lane.batch_size)
        self._seeking = self._sparse = False
        # A sweep meets what the application goes on writing: that proves nothing about the change.
        sweep = lane.number >= int(orders.migration.options.get("lanes", 1))
        verified = orders.migration.options.get("verify", "take") == "take"
        self._unproven = bool(definition.where) and verified and not sweep
        self._divides = definition.update and keyset.whole
        self._stretch_size: int | None = None
        self._locked_since: float | None = None
        self._lock_error: ExecutionError | None = None
        self._throttle: Throttle | None = None
        self._throttle_wish: Any = None
        self._looked_at = 0.0
        self._failed = 0
        self._gently: dict[str, Any] | None = None
        window = orders.migration.options.get("window")
        self._window = Window.parse(window) if window else None

    def carry_out(self) -> None:
        """Walk to the last key, then take up what was passed over. Raises ExecutionError, LeaseLost, Interrupted."""
        try:
            self._carry_out()
        finally:
            self._go_gently(None)

    def _carry_out(self) -> None:
        self._take_up()
        while not self._lane.walked:
            self._stand_by()
            if (batch := self._next()) is not None:
                self._attempt(batch)
        while before := self._lane.place.deferred:
            self._take_up()
            if self._lane.place.deferred == before and self._lock_error is not None:
                self._wait_for_lock(self._lock_error)

    # --- choosing ---

    def _next(self) -> Batch | None:
        """Return the next batch, None while the table is locked: others may lock it so that it cannot even be read."""
        try:
            return self._choose()
        except ExecutionError as error:
            self._orders.go_on()
            if error.code not in _LOCKED:
                raise
            self._wait_for_lock(error)
            return None

    def _choose(self) -> Batch:
        place, size = self._lane.place, self._pace.size(self._wishes())
        if place.stretch is not None:
            if self._stretch_size is None:  # Another attempt began it; what its parts take says nothing without it.
                rows = self._keyset.size(self._keyset.between(self._lane.reached, place.stretch))
                self._stretch_size = max(1, rows // PARTS)
            return self._part(place.stretch, place.part, self._stretch_size)
        ahead = self._keyset.between(self._lane.reached, self._lane.last)
        where = self._where_to_seek(ahead, size)
        if self._divides and not self._sparse:
            self._stretch_size = size
            return self._part(self._keyset.step(ahead, size * PARTS) or self._lane.last, 0, size)
        upto = self._keyset.step(ahead, size, where) or self._lane.last
        return Batch(Piece(self._lane.reached, upto), size, replace(place, cursor=upto))

    def _part(self, stretch: Key, part: int, size: int) -> Batch:
        """Return one part of a stretch; behind the last one the cursor moves on."""
        place = self._lane.place
        then = replace(place, cursor=stretch, stretch=None, part=0)
        if part + 1 < PARTS:
            then = replace(place, stretch=stretch, part=part + 1)
        return Batch(Piece(self._lane.reached, stretch, part), size, then)

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
        """Carry a batch out; if it cannot be as a whole, pass over what of it cannot be."""
        began = time.monotonic()
        try:
            rows = self._change(batch.piece, batch.then)
        except ExecutionError as error:
            if self._is_of_rows(error):
                self._pace.failed(batch.size)
                self._move_to(batch.then.deferring(batch.piece))
                self._take_apart(batch.piece, error)
            return
        seconds = time.monotonic() - began
        self._locked_since = None
        self._pace.took(batch.size, seconds, self._wishes())
        self._sparse = rows < _SPARSE * batch.size
        self._rest(rows, seconds)

    def _change(self, piece: Piece, then: Place) -> int:
        """Change a piece and checkpoint, in one transaction; return how many rows were changed."""
        condition = self._condition(piece)
        self._failed += 1  # Until it has committed: what is rolled back has been a transaction too.
        with self._changer.transaction():
            # An update= changes just the rows that are meant; what a statement or a function changes may be others.
            counted = self._unproven and not self._definition.update
            before = self._changer.left(condition) if counted else None
            rows = self._changer.change(condition)
            meant = rows if before is None else min(rows, before)
            if meant and self._unproven:
                self._prove(condition, meant)
            self._checkpoint(then, rows)
        self._failed -= 1
        self._lane.place = then
        self.rows += rows
        counting.rows_done(self._orders.migration.database, rows)
        if meant:
            self._unproven = False
        return rows

    def _move_to(self, place: Place) -> None:
        """Checkpoint without a change."""
        with self._changer.transaction():
            self._checkpoint(place, 0)
        self._lane.place = place

    def _checkpoint(self, place: Place, rows: int) -> None:
        """Write place and counters in the transaction of the batch; whose lane it is no longer must not commit."""
        finished = place.cursor == self._lane.last and not place.deferred
        if finished:
            self._changer.write("commit_durably")
        written = self._changer.write(
            "checkpoint_lane",
            name=self._orders.migration.name,
            number=self._lane.number,
            token=self._lane.token,
            cursor=place.cursor,
            stretch=place.stretch,
            part=place.part,
            deferred=[asdict(piece) for piece in place.deferred],
            rows=rows,
            batch_size=self._pace.size(self._wishes()),
            finished=finished,
            lease=conf.lease_seconds,
        )
        if not written:
            raise LeaseLost

    def _condition(self, piece: Piece) -> Condition:
        return self._keyset.between(piece.after, piece.upto, piece.part)

    def _prove(self, condition: Condition, rows: int) -> None:
        """Refuse to go on where the rows that were changed are still to be changed: the end would never be there."""
        if self._changer.left(condition) < rows:
            return
        raise ExecutionError(
            code="where_stays_true",
            message="The rows of the first batch meet the condition `where` after the change as they did before, so "
            "nothing could tell when the work is done. Nothing was changed.",
            hint='Let `where` leave out what is done, e.g. "total IS NULL", and an sql= change each row that meets it; '
            'or say verify="off", and each row up to the last key is visited once.',
        )

    # --- what stands in the way ---

    def _is_of_rows(self, error: ExecutionError) -> bool:
        """Whether an error is of single rows, which may be passed over; where the table is locked, wait for it.

        Raises Interrupted if it is the doing of who told us to stop, and the error if it is no matter of rows.
        """
        if self._orders.stopped:
            raise Interrupted from error
        if _is_data(error):
            return True
        if error.code not in _LOCKED:
            raise error
        locked = self._session.one("table_locked", table=self._keyset.relation)["locked"]
        if locked or len(self._lane.place.deferred) >= _DEFERRED_PIECES:
            self._wait_for_lock(error)
            return False
        self._lock_error = error
        return True

    def _take_up(self) -> None:
        """Try each piece once more that was passed over."""
        for piece in self._lane.place.deferred:
            self._stand_by()
            self._try(piece)

    def _try(self, piece: Piece) -> None:
        """Try a piece that is deferred; take it apart if it cannot be changed as a whole."""
        began = time.monotonic()
        try:
            rows = self._change(piece, self._lane.place.without(piece))
            self._locked_since = None
        except ExecutionError as error:
            if self._is_of_rows(error):
                self._take_apart(piece, error)
        else:
            self._rest(rows, time.monotonic() - began)

    def _take_apart(self, piece: Piece, error: ExecutionError) -> None:
        """Halve a deferred piece and try both halves, down to the row that is bad, or to few that are locked."""
        condition, locked = self._condition(piece), error.code in _LOCKED
        rows = self._keyset.size(condition)
        if locked and rows <= _DEFERRED_ROWS:
            return
        middle = self._keyset.step(condition, max(1, rows // 2))
        if middle is None:
            raise error  # Without a single row it fails: it is not of the rows.
        if rows == 1:
            self._bad_row(piece, middle, error)
            return
        halves = Piece(piece.after, middle, piece.part), Piece(middle, piece.upto, piece.part)
        self._move_to(self._lane.place.without(piece, *halves))
        for half in halves:
            self._stand_by()
            self._try(half)

    def _wait_for_lock(self, error: ExecutionError) -> None:
        """Wait for others to give a lock back; not for ever: raise the error then."""
        now = time.monotonic()
        self._locked_since = self._locked_since or now
        if now - self._locked_since > conf.lock_retry_seconds:
            error.hint = f"Others have held it for {conf.lock_retry_seconds:g} s; find out who, then run again."
            raise error
        self._orders.pause(_LOCKED_SECONDS)

    def _bad_row(self, piece: Piece, key: Key, error: ExecutionError) -> None:
        """End in ERROR over a row that cannot be changed, or set it aside and go on."""
        migration = self._orders.migration
        if migration.options.get("on_bad_row", "stop") == "stop":
            raise ExecutionError(
                code="bad_row",
                message=f"The row with {self._keyset.said(key)} cannot be changed: {error.message}",
                sqlstate=error.sqlstate,
                detail=error.detail,
                hint="Correct the row or the SQL, then run again: it goes on with this row. Or let the file say "
                'on_bad_row="quarantine", and such rows are set aside.',
                key=key,
            )
        then = self._lane.place.without(piece)
        with self._changer.transaction():
            self._changer.write(
                "set_aside", name=migration.name, migration_id=migration.pk, key=key, error=error.as_meta()
            )
            self._checkpoint(then, 0)
        self._lane.place = then
        self._orders.tell("row_set_aside", key=key, code=error.code, message=error.message)

    # --- waiting ---

    def _rest(self, rows: int, seconds: float) -> None:
        """Leave the database to others after a batch, for as long as is wished, which may change meanwhile."""
        began = time.monotonic()
        while (left := began + self._pace.rest(rows, seconds, self._wishes()) - time.monotonic()) > 0:
            self._orders.pause(min(left, _PAUSE_SECONDS))

    def _stand_by(self) -> None:
        """Wait until the database is healthy. Raises Interrupted when told to stop, Postponed out of the window."""
        self._orders.go_on()
        require_open(self._window)
        if time.monotonic() - self._looked_at >= _THROTTLE_SECONDS:
            self._wait_until_healthy()

    def _wait_until_healthy(self) -> None:
        while (found := self._health().look()) is not None:
            self._wait_out(found)
        done = self._session.one("batches_done", name=self._orders.migration.name)["batches"]
        self._go_gently(self._health().foreground(done + self._failed))
        self._looked_at = time.monotonic()

    def _go_gently(self, writes: float | None) -> None:
        """Go gently while others write so many times a second, None: no more; say so, and at the end for how long."""
        if writes is not None:
            self._gently = self._gently or {"since": datetime.now(UTC), "most": 0}
            self._gently["most"] = max(self._gently["most"], round(writes))
            self._orders.goes_gently(f"gently: others write {writes:.0f} times a second")
        elif self._gently is not None:
            (since, most), self._gently = self._gently.values(), None
            self._orders.goes_gently("")
            seconds = round((datetime.now(UTC) - since).total_seconds(), 3)
            self._orders.tell("went_gently", since=since.isoformat(), seconds=seconds, most_writes_a_second=most)

    def _wishes(self) -> Wishes:
        asked = wishes(self._orders)
        return asked.gently(conf.gentle_duty_cycle) if self._gently else asked

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
