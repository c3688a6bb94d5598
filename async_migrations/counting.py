"""What this process counts, for /metrics; nothing where prometheus_client is not installed.

No label holds what may have any number of values: no name of a migration, no id, no text. Counting never fails whoever
does what is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from .limits import THRESHOLDS
from .states import TERMINAL, Status

if TYPE_CHECKING:
    from .models import AsyncMigrationEvent, AsyncMigrationStatus

try:
    from prometheus_client import Counter, Gauge, Histogram
    from prometheus_client.multiprocess import MultiProcessCollector
except ImportError:  # The extra `metrics` is not installed.
    INSTALLED = False
else:
    INSTALLED = True

logger = logging.getLogger("async_migrations")
P = ParamSpec("P")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LINE_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_DURATION_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600)

#: What is counted, each also registered with prometheus_client's own registry: a project that shows that one shows it.
METRICS: list[Any] = []


class _Nothing:
    """A metric where there are none."""

    def labels(self, *values: object) -> _Nothing:
        return self

    def inc(self, amount: float = 1) -> None: ...

    def observe(self, amount: float) -> None: ...

    def set_to_current_time(self) -> None: ...


if INSTALLED:

    class Collector(MultiProcessCollector):
        """Collects what all processes that share a directory have counted. Raises ValueError where there is none."""

        def collect(self) -> Iterable[Any]:
            """Return the metrics of the files that are there, whoever removes some meanwhile."""
            files = [str(file) for file in Path(self._path).glob("*.db") if _is_begun(file)]
            while True:  # Each time there is one file less.
                try:
                    return self.merge(files)  # type: ignore[no-any-return, no-untyped-call]
                except FileNotFoundError as gone:
                    files.remove(gone.filename)

    def _is_begun(file: Path) -> bool:
        """Whether there is something in it: one that a process has only just made is empty, and fails the library."""
        try:
            return file.stat().st_size > 0
        except FileNotFoundError:
            return False


def _metric(kind: str, name: str, text: str, labels: tuple[str, ...], **options: Any) -> Any:
    if not INSTALLED:
        return _Nothing()
    made = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[kind](
        f"async_migrations_{name}", text, labels, **options
    )
    METRICS.append(made)
    return made


ATTEMPTS = _metric("counter", "attempts_total", "Attempts that a worker has begun.", ("kind", "database"))
FAILURES = _metric(
    "counter",
    "failures_total",
    "Attempts that failed, by error code; final: whether the migration ended in ERROR.",
    ("code", "database", "final"),
)
TIME_IN_LINE = _metric(
    "histogram",
    "time_in_line_seconds",
    "From when a migration was asked for, or was to begin, to its first attempt.",
    ("kind", "database"),
    buckets=_LINE_SECONDS,
)
DURATION = _metric(
    "histogram",
    "duration_seconds",
    "From the first attempt to the end, by the status that it ended in.",
    ("kind", "database", "status"),
    buckets=_DURATION_SECONDS,
)
ROWS = _metric("counter", "rows_done_total", "Rows that batches of backfills have changed.", ("database",))
THROTTLED = _metric(
    "counter",
    "throttled_seconds_total",
    "Seconds that backfills have waited for a healthier database, by reason.",
    ("reason", "database"),
)
LOCK_RETRIES = _metric(
    "counter", "lock_retries_total", "Times that a statement did not get its lock and stepped back.", ("database",)
)
ADOPTIONS = _metric(
    "counter",
    "adoptions_total",
    "Attempts that found the session of an earlier one still at work, and waited for it.",
    ("database",),
)
REQUESTS = _metric(
    "histogram",
    "request_seconds",
    "Requests by door; waited: whether the answer was held for Prefer: wait.",
    ("door", "method", "status", "waited"),
    buckets=_REQUEST_SECONDS,
)
WORKER_SEEN = _metric(
    "gauge",
    "worker_seen_timestamp_seconds",
    "When a worker has last looked after the line, as Unix time.",
    ("queue",),
    # Of processes that are gone it is the oldest: the latest one is what counts.
    multiprocess_mode="max",
)


def _harmless(count: Callable[P, None]) -> Callable[P, None]:
    """Let a full disk under the counters' files, or a mistake of ours, be a line in the log."""

    @wraps(count)
    def counted(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            count(*args, **kwargs)
        except Exception:
            logger.warning("not counted", exc_info=True)

    return counted


@_harmless
def happened(row: AsyncMigrationStatus, event: AsyncMigrationEvent) -> None:
    """Count an event of a migration. row: as it is after the event."""
    if (count := _COUNTED.get(event.kind)) is not None:
        count(row, event)
    if event.from_status == Status.IN_PROGRESS and event.to_status in TERMINAL and row.started_at and row.finished_at:
        taken = (row.finished_at - row.started_at).total_seconds()
        DURATION.labels(row.kind, row.database, str(event.to_status)).observe(max(0.0, taken))


@_harmless
def rows_done(database: str, rows: int) -> None:
    """Count the rows that a batch has changed."""
    ROWS.labels(database).inc(rows)


@_harmless
def answered(door: str, method: str, status: int, seconds: float, *, waited: bool) -> None:
    """Count a request that was answered. door: an address with names in the place of values."""
    known = method if method in _METHODS else "other"
    REQUESTS.labels(door, known, status, "yes" if waited else "no").observe(seconds)


@_harmless
def worker_seen(queue: str) -> None:
    """Note that a worker looks after the line now, and reaches the control database."""
    WORKER_SEEN.labels(queue).set_to_current_time()


def reason_of(throttled: str) -> str:
    """Return a reason to wait as a label: the signal, or `callable` for what functions of the project say."""
    return throttled if throttled in THRESHOLDS else "callable"


def _claimed(row: AsyncMigrationStatus, event: AsyncMigrationEvent) -> None:
    ATTEMPTS.labels(row.kind, row.database).inc()
    first = row.started_at is not None and row.started_at == row.heartbeat_at
    since = max(filter(None, (row.requested_at, row.run_at)), default=None)
    if first and since is not None and row.heartbeat_at is not None:
        TIME_IN_LINE.labels(row.kind, row.database).observe(max(0.0, (row.heartbeat_at - since).total_seconds()))


def _failed(row: AsyncMigrationStatus, event: AsyncMigrationEvent) -> None:
    """Count what failed; a worker that gives a migration back without an error has not."""
    lost = "worker_lost" if event.kind == "reap" else None
    if code := lost or event.detail.get("error", {}).get("code"):
        FAILURES.labels(code, row.database, "yes" if event.to_status == Status.ERROR else "no").inc()


def _throttled(row: AsyncMigrationStatus, event: AsyncMigrationEvent) -> None:
    THROTTLED.labels(reason_of(event.detail["reason"]), row.database).inc(event.detail["seconds"])


def _lock_retried(row: AsyncMigrationStatus, event: AsyncMigrationEvent) -> None:
    LOCK_RETRIES.labels(row.database).inc()


def _adopted(row: AsyncMigrationStatus, event: AsyncMigrationEvent) -> None:
    """Count what another attempt left behind; the `migrate` that recorded it is waited for in the same way."""
    if any(str(holder.get("application_name")).startswith("async-migrations/") for holder in event.detail["holders"]):
        ADOPTIONS.labels(row.database).inc()


_COUNTED: dict[str, Callable[[AsyncMigrationStatus, AsyncMigrationEvent], None]] = {
    "claim": _claimed,
    "fail": _failed,
    "release": _failed,
    "reap": _failed,
    "throttled": _throttled,
    "lock_retry": _lock_retried,
    "waiting_for_session": _adopted,
}
