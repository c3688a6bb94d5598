"""The thread beside the work: prolongs the lease, writes progress, sees stop requests, says who blocks us.

It has connections of its own, both autocommit: a transaction left open would be waited for by a concurrent build. It
stops the statement in the database (`pg_cancel_backend`), since a call inside libpq cannot be interrupted from Python.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, NamedTuple

from django.db import connections

from .. import lifecycle
from ..conf import conf
from ..errors import ExecutionError, LeaseLost
from ..lifecycle import Lease
from ..states import Kind, StopRequest
from . import guard
from .sampling import Sampler
from .session import Backend, Session

logger = logging.getLogger("async_migrations")

#: Set when the worker process is told to end; `began` is when, on the monotonic clock, in seconds.
shutdown = threading.Event()
_shutdown_began = 0.0


def begin_shutdown() -> None:
    """Tell every attempt in this process to come to an end: at the next statement, or when the grace period is over."""
    global _shutdown_began
    _shutdown_began = time.monotonic()
    shutdown.set()


def _grace_is_over() -> bool:
    return shutdown.is_set() and time.monotonic() - _shutdown_began >= conf.shutdown_grace_seconds


class Stop(Enum):
    """Why an attempt must not go on."""

    CANCEL = "a stop request"
    PAUSE = "a stop request, until somebody resumes"
    HOLD = "a hold on the database"
    SHUTDOWN = "the worker shuts down"
    LEASE_LOST = "the lease is lost"

    @property
    def interrupts(self) -> bool:
        """Whether the statement under way is cancelled; else the next checkpoint is where the attempt stops."""
        return self not in (Stop.PAUSE, Stop.HOLD)


_STOPS = {StopRequest.CANCEL.value: Stop.CANCEL, StopRequest.PAUSE.value: Stop.PAUSE}


class Progress(NamedTuple):
    """Rows that a backfill has changed, of about how many (None: not known yet), how many it has set aside, and how
    large its batches are now.
    """

    done: int
    total: int | None
    bad_rows: int
    batch_size: int | None


# Where each phase of a B-tree build begins and how much of the whole it is, measured on PostgreSQL 15 and 18 (scan
# 54-58 %, sort 5-6 %, load 20-21 %, validation 14-18 %). Phases that wait for others have no share of their own.
_BUILD_PHASES = {
    "initializing": (0.0, 0.0),
    "waiting for writers before build": (0.0, 0.0),
    "building index": (0.0, 0.82),
    "building index: scanning table": (0.0, 0.56),
    "building index: sorting live tuples": (0.56, 0.06),
    "building index: loading tuples in tree": (0.62, 0.20),
    "waiting for writers before validation": (0.82, 0.0),
    "index validation: scanning index": (0.82, 0.04),
    "index validation: sorting tuples": (0.86, 0.01),
    "index validation: scanning table": (0.87, 0.11),
    "waiting for old snapshots": (0.98, 0.0),
}

# The rate is that of the last minute: long enough to be calm, short enough to follow a change.
_RATE_SECONDS = 60.0

# What a question beside the work may take.
_SIDE_SECONDS = 5

# An estimate beyond ten years says nothing but that it stands still, and the column ends at 68.
_LONGEST_ETA_SECONDS = 10 * 365 * 86400


class Heartbeat:
    """Beats while the `with` block runs. The executor tells it the backend and the statement; it tells when to stop."""

    def __init__(self, lease: Lease, alias: str) -> None:
        self.lease, self.alias = lease, alias
        # What was asked of an earlier attempt is asked of this one from the start: it only cleans up.
        self.stop: Stop | None = _STOPS.get(lease.migration.stop_requested or "")
        self.tuning: dict[str, Any] = lease.migration.tuning
        self.phase = "connecting"
        self.waiting_on: list[dict[str, Any]] | None = None
        self.throttled: dict[str, Any] | None = None
        # How the work itself counts, where PostgreSQL has no view for it; asked on the heartbeat's own session.
        self.report: Callable[[Session], Progress] | None = None
        self.guard: guard.Guard | None = None
        self._sampler = Sampler(lease)
        self._queued: list[dict[str, Any]] = []
        self._followed: int | None = None
        self._backend: Backend | None = None
        self._statements = (0, 1)
        self._samples: deque[tuple[float, float]] = deque()
        self._side: Session | None = None
        self._alive_at = time.monotonic()
        self._changed = threading.Event()
        self._woken = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{lease.pk}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended = True
        self._woken.set()
        self._thread.join()

    def watch(self, backend: Backend | None, done: int = 0, total: int = 1) -> None:
        """Answer for this backend from now on; `done` of `total` statements are behind it. None: leave it alone."""
        self._backend, self._statements = backend, (done, total)
        self._followed = backend.pid if backend else None
        self._samples.clear()

    def follow(self, pid: int | None) -> None:
        """Show the progress of a backend that another attempt left behind; it is nobody's to stop here."""
        self._followed = pid

    @contextmanager
    def guarding(self, mode: guard.Mode, backend: Backend, tables: list[int]) -> Iterator[None]:
        """Look after the queue for these tables (their oids) while the block runs."""
        if mode is not guard.Mode.OFF and tables:
            self.guard = guard.Guard(self.lease, mode, backend, tables)
            self._woken.set()
        try:
            yield
        finally:
            self.guard = None

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until a reason to stop turns up."""
        deadline = time.monotonic() + seconds
        while self.stop is None and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(left)
            self._changed.clear()

    # --- the thread ---

    def _run(self) -> None:
        beat_at = time.monotonic() + conf.heartbeat_seconds
        try:
            while not self._ended:
                until_beat = max(0.0, beat_at - time.monotonic())
                self._woken.wait(min(until_beat, guard.POLL_SECONDS) if self.guard else until_beat)
                self._woken.clear()
                if self.guard and not self._ended:
                    self._look_after(self.guard)
                if time.monotonic() >= beat_at and not self._ended:
                    self._beat()
                    beat_at = time.monotonic() + conf.heartbeat_seconds
        finally:
            self._drop_connection()
            connections.close_all()

    def _beat(self) -> None:
        try:
            asked = lifecycle.renew(self.lease, **self._observe())
            self._alive_at = time.monotonic()
            self.tuning = asked.tuning
            if stop := self._wanted(asked):
                self._stop(stop)
            self._sampler.take()
        except LeaseLost:
            self._stop(Stop.LEASE_LOST)
        except Exception:
            # Mostly the control database is away. The lease holds until its time is up, then somebody else may have it;
            # whatever it is, a thread that died of it could not stop the work then.
            logger.warning("heartbeat failed", extra={"migration_id": self.lease.pk}, exc_info=True)
            connections.close_all()
            if time.monotonic() - self._alive_at > conf.lease_seconds:
                self._stop(Stop.LEASE_LOST)
            elif _grace_is_over():
                self._stop(Stop.SHUTDOWN)

    def _wanted(self, asked: lifecycle.Asked) -> Stop | None:
        """Return why to stop, if at all. The end of this process waits for no checkpoint: a pause or a hold can."""
        stop = _STOPS.get(asked.stop or "")
        if stop is not Stop.CANCEL and _grace_is_over():
            return Stop.SHUTDOWN
        return stop or (Stop.HOLD if asked.held else None)

    def _look_after(self, watching: guard.Guard) -> None:
        try:
            self._queued = watching.look(self._connection())
        except LeaseLost:
            self._stop(Stop.LEASE_LOST)
        except Exception:
            logger.warning("guard could not look", extra={"migration_id": self.lease.pk}, exc_info=True)
            self._drop_connection()

    def _stop(self, reason: Stop) -> None:
        """Remember why, and cancel what is running; at every beat, in case one hits the gap between two statements.

        A pause or a hold lets it come to its end: the next checkpoint is where it stops.
        """
        self.stop = reason
        self._changed.set()
        if (backend := self._backend) is not None and reason.interrupts:
            with suppress(ExecutionError):
                self._connection().one("cancel_backend", **backend._asdict())

    def _connection(self) -> Session:
        if self._side is None:
            side = Session(self.alias, f"async-migrations/{self.lease.pk}/heartbeat")
            # Whoever has our own tables locked must not make the heartbeat miss its beats.
            side.limit(_SIDE_SECONDS, _SIDE_SECONDS)
            self._side = side
        return self._side

    def _drop_connection(self) -> None:
        if self._side is not None:
            self._side.close()
        self._side = None

    def _observe(self) -> dict[str, Any]:
        """Return what the row is to say: phase, progress, who blocks. Trouble on the way is no reason to stop."""
        followed = self._followed
        if followed is None:
            return {"phase": self.phase, "waiting_on": self.waiting_on or []}
        try:
            report = self._connection().one("progress", pid=followed)
            blockers = self._connection().all("blockers", pid=followed)
            if self.report:
                counted = self._counted(self.report)
            elif self.lease.migration.kind == Kind.BACKFILL:  # Its own count is still to come.
                counted = {}
            else:  # Of a backend that is not ours nothing is known but what it is building.
                counted = self._progress(report) if self._backend or report else {}
        except ExecutionError:
            self._drop_connection()
            return {}
        return {
            "phase": report.get("phase") or self.phase,
            "waiting_on": self.waiting_on or blockers,
            "queued_behind": self._queued if self.guard else [],
            **counted,
        }

    def _counted(self, report: Callable[[Session], Progress]) -> dict[str, Any]:
        done, total, bad_rows, self._sampler.batch_size = report(self._connection())
        percent = 100 * done / total if total else None
        return {
            "progress_done": done,
            "progress_total": total,
            "progress_unit": "rows",
            "progress_percent": percent,
            "quarantined": bad_rows,
            "throttled": self.throttled,
            **self._pace(done, total),
        }

    def _progress(self, report: dict[str, Any]) -> dict[str, Any]:
        done, total, unit = report.get("done"), report.get("total"), report.get("unit", "")
        behind, count = self._statements
        if not total:
            done, total, unit = behind, count, "statements"
        share = _share(report)
        percent = None if share is None and count == 1 else 100 * (behind + (share or 0.0)) / count
        return {
            "progress_done": done,
            "progress_total": total,
            "progress_unit": unit,
            "progress_percent": percent,
            **self._pace(percent, 100, (total or 0) / 100),
        }

    def _pace(self, at: float | None, end: float | None, unit: float = 1) -> dict[str, Any]:
        """Return rate and time left from how far it got in the last minute; None where that is not known.

        at, end: how far it is, of how far. unit: what 1 of them is, in the unit of the progress.
        """
        now = time.monotonic()
        if at is not None:
            self._samples.append((now, at))
        while self._samples and now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        unknown = {"progress_rate": None, "eta_seconds": None}
        if at is None or len(self._samples) < 3:
            return unknown
        then, before = self._samples[0]
        pace = (at - before) / (now - then)
        if pace <= 0:
            return unknown
        left = (end - at) / pace if end is not None else _LONGEST_ETA_SECONDS + 1
        eta = round(left) if left <= _LONGEST_ETA_SECONDS else None
        return {"progress_rate": round(pace * unit, 1), "eta_seconds": eta}


def _share(report: dict[str, Any]) -> float | None:
    """Return how much of its statement a backend has done, 0 to 1; None when PostgreSQL does not say."""
    if not report:
        return None
    within = min(1.0, report["done"] / report["total"]) if report["total"] else 0.0
    if report["command"] != "create_index":
        return within
    start, size = _BUILD_PHASES.get(report["phase"], (0.98, 0.0))
    return start + size * within
