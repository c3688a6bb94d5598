"""The loop of a backfill: choose a batch by its keys, change it, and checkpoint, all in one transaction.

`carry_out` is what the holder of the migration's lease does: it cuts the table into lanes, works in whatever lane is
free, and sees to the end. `help_out` is what any other worker does: it works in lanes that are free, and writes nothing
else. Nobody waits for somebody in particular: a lane whose worker died is free when its lease is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from .. import counting, lifecycle, tracing
from ..conf import conf
from ..errors import ExecutionError, InvalidDefinition, LeaseLost
from ..states import Status
from . import verify
from .attempt import Attempt, Interrupted, reserve
from .definition import Definition, definition_of
from .fitting import require_in_place
from .heartbeat import Progress, Stop
from .keyset import Keyset, keyset
from .lanes import Lane, Lanes, lane_application_name
from .orders import CHANGING, Follower, Holder, Orders
from .session import Session
from .walk import Walk, changer

# Seconds between two looks at lanes that others carry out.
_LOOK_SECONDS = 0.2

# Between two calls for help with lanes that nobody is at work in there is twice as much time each time that nobody
# comes, up to so many times the first.
_PATIENCE = 10

# How often the rows that the application wrote meanwhile are taken along before it is said that they keep coming.
_SWEEPS = 10

Nudge = Callable[[int], None]


def carry_out(attempt: Attempt, session: Session, nudge: Nudge) -> None:
    """Carry the whole backfill out, and see that its effect is there.

    nudge: asks so many other workers to help. Raises ExecutionError, LeaseLost, Interrupted, Postponed.
    """
    definition = definition_of(attempt.migration)
    lanes = Lanes(session, attempt.migration)
    if definition is None:  # Nothing is undone on the way back, and the way forward begins anew.
        lanes.drop()
        attempt.counted = {"quarantined": 0}
        return
    attempt.current = 1
    try:
        attempt.go_on()
        walked = keyset(session, definition.table, definition.key)
        require_in_place(definition, walked)
        _Backfill(attempt, session, definition, walked, lanes, nudge).carry_out()
    except (Interrupted, InvalidDefinition, ExecutionError) as exc:
        if attempt.heartbeat.stop in (Stop.CANCEL, Stop.PAUSE) or _is_final(attempt, exc):
            _shut(attempt)
        raise


def _shut(attempt: Attempt) -> None:
    """See that whoever helps comes to an end before the row says so.

    By a session of its own: the heartbeat's cancel may be on its way to the other one, and that waits for no lock.
    """
    with Session(attempt.migration.database, f"async-migrations/{attempt.lease.pk}/shut") as session:
        Lanes(session, attempt.migration).shut()


def _is_final(attempt: Attempt, exc: Exception) -> bool:
    if isinstance(exc, Interrupted):
        return False
    return attempt.is_last or not (isinstance(exc, ExecutionError) and exc.retryable)


def help_out(pk: int, worker: str) -> None:
    """Work in the lanes of a backfill that nobody is at work in. Raises ExecutionError."""
    migration = lifecycle.get(pk)
    definition = definition_of(migration)
    if definition is None or migration.status not in {Status.STARTED, Status.IN_PROGRESS}:
        return
    with (
        Session(migration.database, lane_application_name(pk)) as session,
        Follower(migration, worker, session.backend) as orders,
        suppress(Interrupted),
    ):
        session.set_all(migration.options.get("settings", {}))
        walked = keyset(session, definition.table, definition.key)
        while _work(orders, session, definition, walked, Lanes(session, migration)):
            pass


def _work(orders: Orders, session: Session, definition: Definition, walked: Keyset, lanes: Lanes) -> bool:
    """Work in one free lane to its end; False when there is none."""
    lane = lanes.take(definition, orders.token, orders.worker)
    if lane is None:
        return False
    try:
        _walk(orders, session, definition, walked, lane)
    except LeaseLost:  # Of this lane: whoever has it now goes on there.
        lanes.leave(lane)
    except ExecutionError as error:
        if error.code != "connection_lost":
            lanes.leave(lane)
        raise
    except BaseException:
        lanes.leave(lane)
        raise
    return True


def _walk(orders: Orders, session: Session, definition: Definition, walked: Keyset, lane: Lane) -> None:
    with tracing.span("lane", {"lane": lane.number}, parent=orders.migration.traceparent) as mark:
        walk = Walk(orders, session, definition, walked, lane)
        try:
            walk.carry_out()
        finally:
            mark({"rows": walk.rows})


class _Backfill:
    """What the holder of the lease does."""

    def __init__(
        self,
        attempt: Attempt,
        session: Session,
        definition: Definition,
        walked: Keyset,
        lanes: Lanes,
        nudge: Nudge,
    ) -> None:
        self._attempt, self._session, self._definition = attempt, session, definition
        self._keyset, self._lanes, self._nudge = walked, lanes, nudge
        self._options = attempt.migration.options
        self._orders = Holder(attempt, self._call_for_help)
        self._total: int | None = None
        self._begun_at: int | None = None
        self._free = 0
        self._called_at, self._patience = float("-inf"), conf.resend_seconds

    def carry_out(self) -> None:
        heartbeat = self._attempt.heartbeat
        if "max_parallel_workers_per_gather" not in self._options.get("settings", {}):
            # Looking how many rows there are, or are left, reads the whole table: not on every core at once.
            self._session.set("max_parallel_workers_per_gather", "0")
        if self._options.get("analyze"):  # At the end it would be late to find out.
            verify.require_maintainable(self._session, self._tables())
        heartbeat.phase = "looking how many rows there are"
        heartbeat.report = self._report
        heartbeat.watch(self._session.backend)
        fresh = self._lanes.prepare(self._definition, self._keyset, int(self._options.get("lanes", 1)))
        self._begun_at = self._lanes.state().rows_done
        self._total = self._estimate(self._begun_at)
        if not fresh:
            self._tell_resumed()
            self._try_again()
        self._walk()
        self._verify()
        if self._options.get("analyze"):
            self._analyze()
        self._end()

    def _analyze(self) -> None:
        heartbeat, tables = self._attempt.heartbeat, self._tables()
        while not reserve(self._session, tables):
            heartbeat.phase = "waits for its turn to analyze the table: another migration is at work on it"
            self._orders.pause(_LOOK_SECONDS)
        heartbeat.phase = "analyzing the table"
        self._session.set("lock_timeout", "0")
        self._session.execute(f"ANALYZE {self._keyset.relation}")

    def _tables(self) -> list[int]:
        return [row["oid"] for row in self._session.all("tables_of", names=[self._keyset.relation])]

    def _estimate(self, done: int) -> int:
        where = self._definition.where
        if self._options.get("count") == "exact":
            return self._keyset.count(where) + (done if where else 0)
        # What is done may still count as not done: the statistics are as old as the last ANALYZE.
        rows = self._keyset.estimate(where)
        return min(rows + done, max(self._keyset.rows, rows)) if where else rows

    def _report(self, session: Session) -> Progress:
        """Return what the row is to say, and keep the lanes. From the heartbeat's thread, on its session."""
        lanes = Lanes(session, self._attempt.migration)
        lanes.keep(self._orders.token)
        state = lanes.state()
        self._free = state.free
        self._attempt.advanced = self._begun_at is not None and state.rows_done > self._begun_at
        known = self._total is not None and state.rows_done <= self._total  # Else the estimate was wrong.
        return Progress(state.rows_done, self._total if known else None, state.bad_rows, state.batch_size)

    def _tell_resumed(self) -> None:
        state = self._lanes.state()
        if state.rows_done:
            lifecycle.note(self._attempt.lease, "resumed", rows_done=state.rows_done, lanes_left=state.unfinished)

    def _walk(self) -> None:
        """Work in every lane that is free until none is left unfinished."""
        self._attempt.heartbeat.phase = CHANGING
        while (state := self._lanes.state()).unfinished:
            self._free = max(0, state.free - 1)
            self._call_for_help()
            if not _work(self._orders, self._session, self._definition, self._keyset, self._lanes):
                self._attempt.heartbeat.phase = f"other workers carry out the last {state.unfinished} lanes"
                self._orders.pause(_LOOK_SECONDS)

    def _call_for_help(self) -> None:
        """Ask other workers for the lanes that nobody is at work in; between two batches, for a broker may take long.

        A helper may die and its message get lost, at any moment.
        """
        now = time.monotonic()
        if not self._free:
            self._patience = conf.resend_seconds
        elif now - self._called_at >= self._patience:
            self._nudge(self._free)
            self._called_at, self._patience = now, min(2 * self._patience, _PATIENCE * conf.resend_seconds)

    def _try_again(self) -> None:
        """Try each row again that an earlier attempt has set aside."""
        after, tried, done = 0, 0, 0
        change = changer(self._orders, self._session, self._definition, self._keyset)
        whose = {"name": self._attempt.migration.name, "migration_id": self._attempt.migration.pk}
        while page := self._session.all("bad_rows", **whose, after=after):
            for row in page:
                self._attempt.go_on()
                after, tried = row["id"], tried + 1
                try:
                    with change.transaction():
                        rows = change.change(self._keyset.at(row["key"]))
                        change.write("bad_row_done", id=row["id"])
                        change.write("commit_durably")
                        change.write("count_rows", name=whose["name"], rows=rows)
                        if not change.write("hold_checkpoint", name=whose["name"], token=self._orders.token):
                            raise LeaseLost
                    counting.rows_done(self._attempt.migration.database, rows)
                    done += 1
                except ExecutionError as error:
                    if error.code == "lock_timeout":
                        continue  # Somebody else has it locked: it stays where it is, with its reason.
                    if error.retryable or self._orders.stopped:
                        raise
                    self._session.change("set_aside", **whose, key=row["key"], error=error.as_meta())
        if tried:
            lifecycle.note(self._attempt.lease, "bad_rows_tried_again", tried=tried, done=done)

    def _verify(self) -> None:
        """See that no row up to the last key of the start is left to be changed, apart from those set aside.

        Raises ExecutionError `rows_keep_coming`.
        """
        where, how = self._definition.where, self._options.get("verify", "take")
        last = self._lanes.last()
        if not where or how == "off" or last is None:
            return
        spared = (
            f"SELECT key FROM {self._session.own}async_migrations_asyncmigrationbadrow "  # noqa: S608
            f"WHERE name = {self._session.literal(self._attempt.migration.name)}"
        )
        for _ in range(_SWEEPS):
            self._attempt.heartbeat.phase = "looking whether rows are left"
            self._session.set("lock_timeout", "0")
            rows, key = self._keyset.left(self._keyset.between(None, last), where, spared)
            if not rows:
                return
            if how == "report":
                lifecycle.note(self._attempt.lease, "rows_left", rows=rows, sample=key)
                return
            lifecycle.note(self._attempt.lease, "rows_taken_along", rows=rows, sample=key)
            self._lanes.add_sweep(self._definition)
            self._walk()
        raise ExecutionError(
            code="rows_keep_coming",
            message=f"After {_SWEEPS} more walks {rows} rows still meet {where!r}, e.g. with key {key}.",
            hint="Something goes on writing such rows: deploy the code that writes them right, then run again; or say "
            'verify="report" if they may stay.',
        )

    def _end(self) -> None:
        """Raise ExecutionError `bad_rows` if more rows were set aside than are allowed."""
        state = self._lanes.state()
        counts = {"progress_done": state.rows_done, "progress_total": state.rows_done, "progress_unit": "rows"}
        self._attempt.counted = {**counts, "quarantined": state.bad_rows}
        allowed = int(self._options.get("max_bad_rows", 0))
        if state.bad_rows > allowed:
            raise ExecutionError(
                code="bad_rows",
                message=f"{state.rows_done} rows were changed, {state.bad_rows} could not be and were set aside; "
                f"max_bad_rows allows {allowed}.",
                hint="Look at them (GET .../quarantine), correct them, and run again: just those are tried then.",
            )
