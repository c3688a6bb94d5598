"""Watching migrations until they end, for people at a terminal and for CI logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Protocol, TypeVar

from django.db import InterfaceError, OperationalError, connections
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from async_migrations import lifecycle
from async_migrations.asking import asked_to, blockers, duration, progress, throttling
from async_migrations.conf import conf
from async_migrations.lifecycle import Verdict, Wanted, gate
from async_migrations.models import AsyncMigrationStatus
from async_migrations.states import Direction, Status

from .display import Display, printable

T = TypeVar("T")

POLL_SECONDS = 0.5
#: A database server that is restarted is back by then; one that is away for longer is reported.
PATIENCE_SECONDS = 30.0
#: How often an unattended log gets a line although only the figures have changed.
REPORT_SECONDS = 15.0


class Exit(IntEnum):
    """The exit codes, part of the contract with CI scripts."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    STILL_GOING = 75
    INTERRUPTED = 130


GATE_EXITS = {
    gate.PASS: Exit.DONE,
    gate.FAILED: Exit.FAILED,
    gate.PENDING: Exit.STILL_GOING,
    gate.BLOCKED: Exit.STILL_GOING,
}


@dataclass
class Watch:
    """One migration that is waited for, and the status that it should come to."""

    row: AsyncMigrationStatus
    wanted: Status

    @classmethod
    def of(cls, row: AsyncMigrationStatus) -> Watch:
        """Watch a migration for the end that its direction has now."""
        return cls(row, Status.ROLLED_BACK if row.direction == Direction.BACKWARDS else Status.FINISHED)

    @property
    def over(self) -> bool:
        """Whether there is nothing left to wait for: what is paused goes on one day, unless that is what was wanted."""
        return self.row.terminal or self.row.status == self.wanted


class View(AbstractContextManager["View"], Protocol):
    """Where the state of affairs is shown while it is waited for."""

    def show(self, rows: Iterable[AsyncMigrationStatus]) -> None: ...


class Lines:
    """One line whenever something worth a line has changed."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._told: dict[int, tuple[object, ...]] = {}
        self._told_at: dict[int, float] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, rows: Iterable[AsyncMigrationStatus]) -> None:
        for row in rows:
            news = (row.status, row.phase, row.attempt, bool(row.waiting_on), bool(row.throttled), row.stop_requested)
            quiet = time.monotonic() - self._told_at.get(row.pk, float("-inf"))
            if self._told.get(row.pk) == news and (row.terminal or quiet < REPORT_SECONDS):
                continue
            self._told[row.pk], self._told_at[row.pk] = news, time.monotonic()
            self._display.line(describe(row))


class Bars:
    """A progress bar for each migration."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.fields[head]}", style="bold", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20, table_column=Column(min_width=10)),
            TaskProgressColumn(table_column=Column(min_width=4)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            # It takes what room is left; the figures come first.
            TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=console,
            expand=True,
        )
        self._ids: dict[int, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, rows: Iterable[AsyncMigrationStatus]) -> None:
        for row in rows:
            if row.pk not in self._ids:
                self._ids[row.pk] = self._bars.add_task("", total=None, head="", note="")
            self._bars.update(
                self._ids[row.pk],
                head=f"{row.name.rpartition('.')[2]} on {row.database}",
                total=100 if row.percent is not None else (1 if row.terminal else None),
                completed=row.percent or 0,
                note=_short(row),
            )
            if row.terminal:
                self._bars.stop_task(self._ids[row.pk])


def describe(row: AsyncMigrationStatus) -> str:
    """Return one line about a migration for a log."""
    blocked = f"waits for {'; '.join(blockers(row))}" if row.waiting_on else throttling(row)
    said = ", ".join(filter(None, (_status(row), progress(row), blocked)))
    return f"{row.pk} {row.name} on {row.database}: {said}"


def wait(watches: Sequence[Watch], timeout: float | None, view: View) -> Exit:
    """Look at the migrations until each is over, or until `timeout` seconds are over.

    Brings the row of each watch up to date. Raises OperationalError when the database is away for too long.
    """
    deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
    with view:
        while True:
            _refresh(watches, deadline)
            view.show(watch.row for watch in watches)
            left = deadline - time.monotonic()
            if left <= 0 or all(watch.over for watch in watches):
                return verdict(watches)
            time.sleep(min(POLL_SECONDS, left))


def verdict(watches: Iterable[Watch]) -> Exit:
    """Return what the migrations have come to, taken together; one that failed outweighs one that is still going on."""
    ended = [watch for watch in watches if watch.over]
    if any(watch.row.status != watch.wanted for watch in ended):
        return Exit.FAILED
    return Exit.DONE if len(ended) == len(list(watches)) else Exit.STILL_GOING


def _refresh(watches: Iterable[Watch], deadline: float) -> None:
    """Read again what is not over; what is stays as it was, whatever somebody asks of it next."""
    going = {watch.row.pk: watch for watch in watches if not watch.over}
    found = {row.pk: row for row in _read(list(going), deadline)}
    for pk, watch in going.items():
        if pk not in found:
            raise AsyncMigrationStatus.DoesNotExist(f"{watch.row.name} on {watch.row.database} is not there any more.")
        watch.row = found[pk]


def wait_at_gate(wanted: Wanted, timeout: float, tell: Callable[[str], None]) -> Verdict:
    """Look at a gate until it is open, or one of its migrations has failed, or `timeout` seconds are over.

    tell: gets a line whenever something has changed. Raises OperationalError when the database is away for too long.
    """
    deadline = time.monotonic() + timeout
    told: list[str] = []
    while True:
        verdict = _patiently(lambda: lifecycle.judge(wanted), deadline)
        lines = gate_lines(verdict)
        for line in lines:
            if line not in told:
                tell(line)
        told, left = lines, deadline - time.monotonic()
        if left <= 0 or verdict.state in (gate.PASS, gate.FAILED):
            return verdict
        time.sleep(min(POLL_SECONDS, left))


def gate_lines(verdict: Verdict) -> list[str]:
    """Say what a gate says, in a line, and a line for each reason."""
    head = f"{verdict.state}: {verdict.checked} migrations looked at"
    more = [f"and {verdict.more} more"] if verdict.more else []
    return [head, *(f"{reason.state}: {_subject(reason)}: {reason.detail}" for reason in verdict.reasons), *more]


def _subject(reason: gate.Reason) -> str:
    return reason.name if reason.id is None else f"{reason.id} {reason.name} on {reason.database}, {reason.status}"


def _read(pks: list[int], deadline: float) -> list[AsyncMigrationStatus]:
    return _patiently(lambda: list(lifecycle.rows().filter(pk__in=pks)), deadline)


def _patiently(read: Callable[[], T], deadline: float) -> T:
    """Return what is read, also from a database that is restarted meanwhile."""
    give_up = min(deadline, time.monotonic() + PATIENCE_SECONDS)
    while True:
        try:
            return read()
        except (OperationalError, InterfaceError):
            connections[conf.control_database].close()
            if time.monotonic() >= give_up:
                raise
            time.sleep(POLL_SECONDS)


def _short(row: AsyncMigrationStatus) -> str:
    left = f"about {duration(row.eta_seconds)} left" if row.eta_seconds and not row.terminal else ""
    blocked = f"waits for {'; '.join(blockers(row))}" if row.waiting_on else throttling(row) or row.phase
    return printable(", ".join(filter(None, (_status(row), blocked, left))))


def _status(row: AsyncMigrationStatus) -> str:
    stop = f" (asked to {asked_to(row)})" if row.stop_requested else ""
    attempt = f", attempt {row.attempt}" if row.attempt > 1 and not row.terminal else ""
    return f"{row.status}{stop}{attempt}"
