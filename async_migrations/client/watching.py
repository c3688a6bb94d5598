"""What both commands do while they wait for migrations: what they wait for, how it is shown, and the exit codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from ..words import Row, describe, ended, printable, shortly

#: How often an unattended log gets a line although only the figures have changed.
REPORT_SECONDS = 15.0

#: The status that each verb is to lead to; who resumes, or only waits, wants the end that the direction has.
WANTED = {"run": "FINISHED", "pause": "PAUSED", "cancel": "CANCELLED", "rollback": "ROLLED BACK"}


class Exit(IntEnum):
    """The exit codes, part of the contract with CI scripts."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    STILL_GOING = 75
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass
class Watch:
    """One migration that is waited for, and the status that it should come to."""

    row: Row
    wanted: str

    @classmethod
    def after(cls, verb: str, row: Row) -> Watch:
        """Watch a migration for what a verb leads to; after any other for the end that its direction has now."""
        return cls(row, WANTED.get(verb) or ("ROLLED BACK" if row["direction"] == "backwards" else "FINISHED"))

    @property
    def over(self) -> bool:
        """Whether there is nothing left to wait for: what is paused goes on one day, unless that is what was wanted."""
        return bool(self.row["terminal"]) or self.row["status"] == self.wanted

    @property
    def stands(self) -> str:
        """Say why it may be waited for in vain; empty when somebody works on it or will."""
        if self.row["status"] == "SCHEDULED":
            return f"{describe(self.row)}: nobody has started it yet; `run` does."
        if self.row["status"] == "PAUSED" != self.wanted:
            return f"{describe(self.row)}: it goes on when somebody says `resume`."
        return ""


def verdict(watches: Iterable[Watch]) -> Exit:
    """Return what the migrations have come to, taken together; one that failed outweighs one that is still going on."""
    over = [watch for watch in watches if watch.over]
    if any(watch.row["status"] != watch.wanted for watch in over):
        return Exit.FAILED
    return Exit.DONE if len(over) == len(list(watches)) else Exit.STILL_GOING


def reasons(watches: Sequence[Watch], timeout: float | None) -> Iterator[str]:
    """Say for each migration that did not end as wanted what became of it."""
    for watch in watches:
        if not watch.over:
            yield f"After {timeout:g} s still going on: {describe(watch.row)}"
        elif watch.row["status"] != watch.wanted:
            yield ended(watch.row, watch.wanted)


class View(AbstractContextManager["View"], Protocol):
    """Where the state of affairs is shown while it is waited for."""

    def show(self, rows: Iterable[Row]) -> None: ...


class Lines:
    """Tells a row whenever something worth a line has changed."""

    def __init__(self, tell: Callable[[Row], None]) -> None:
        self._tell = tell
        self._told: dict[int, tuple[object, ...]] = {}
        self._told_at: dict[int, float] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, rows: Iterable[Row]) -> None:
        for row in rows:
            pk, plain = row["id"], ("status", "phase", "attempt", "stop_requested")
            news = (*(row[name] for name in plain), bool(row["waiting_on"]), bool(row["throttled"]))
            quiet = time.monotonic() - self._told_at.get(pk, float("-inf"))
            if self._told.get(pk) == news and (row["terminal"] or quiet < REPORT_SECONDS):
                continue
            self._told[pk], self._told_at[pk] = news, time.monotonic()
            self._tell(row)


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

    def show(self, rows: Iterable[Row]) -> None:
        for row in rows:
            pk, percent = row["id"], row["progress"]["percent"]
            if pk not in self._ids:
                self._ids[pk] = self._bars.add_task("", total=None, head="", note="")
            self._bars.update(
                self._ids[pk],
                head=f"{row['name'].rpartition('.')[2]} on {row['database']}",
                total=100 if percent is not None else (1 if row["terminal"] else None),
                completed=percent or 0,
                note=printable(shortly(row)),
            )
            if row["terminal"]:
                self._bars.stop_task(self._ids[pk])
