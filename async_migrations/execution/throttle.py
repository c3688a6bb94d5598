"""Reasons to wait now: what the target tells of itself, and functions of the project's own.

This is about a database that is unhealthy, whoever made it so. How much work it gets when it is healthy is decided
elsewhere.

replica_lag_seconds  for how long, at least, a standby has replayed nothing newer
lock_waiters         sessions that have waited for over 0.1 s for a lock of the table or of its rows; one or two are
                     there now and then in any application, more are a queue
active_sessions      client sessions at work in the whole server; many more than cores only slow one another
wal_archive_queue    WAL files that are not archived yet: the disk fills up
wraparound_vacuum    autovacuums of the table that cannot be put off, and that every dead row makes longer

Our own sessions count for none of them.

One signal is no reason to wait but to go gently, in small batches with long rests:

foreground_writes    writing transactions a second of others in the whole server. Each waits as it commits until all
                     that was written before it, by a batch most of all, is on the disk
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.module_loading import import_string

from ..conf import conf
from ..limits import THRESHOLDS, check
from .session import Session

#: Seconds that a session may wait for a lock before it counts: whoever queues for shorter is of no interest.
PATIENCE_SECONDS = 0.1

#: Seconds between two looks into the directory of the archiver, which may hold thousands of files.
ARCHIVE_SECONDS = 5.0

_GENTLY = "foreground_writes"

#: Of what a broken function says, so much goes into the row.
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Throttling:
    """Why to wait, as JSON has it.

    reason: the signal, or what a function of the project said. value: of the signal, or the path of that function.
    limit: of the signal, in the same unit.
    """

    reason: str
    value: float | str | None
    limit: float | str | None


def limits(overrides: bool | Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits of the signals that are on.

    overrides: True for those of the settings, False for none, or limits that win over the settings, by signal, None for
    a signal that is off.

    Raises InvalidDefinition where a signal is unknown or a limit makes no sense.
    """
    check({"throttle": overrides})
    if overrides is False:
        return {}
    usual = {name: getattr(conf, f"throttle_{name}") for name in THRESHOLDS}
    chosen = usual if overrides is True else usual | dict(overrides)
    return {name: limit for name, limit in chosen.items() if limit is not None}


class Throttle:
    """Looks at the target for one table.

    session: where to ask; with a transaction open in it, what it sees stands still. relation: name of the table,
    quoted, perhaps with its schema. overrides: see `limits`; False turns functions off too.

    `unavailable` names the signals that the role may not look at, or in part: they are healthy as far as it can see.

    Raises ExecutionError as Session does, InvalidDefinition as `limits` does.
    """

    def __init__(self, session: Session, relation: str, overrides: bool | Mapping[str, Any]) -> None:
        self.session, self.relation = session, relation
        self.functions = conf.throttle_callables if overrides is not False else ()
        self.limits = limits(overrides)
        self.unavailable: tuple[str, ...] = ()
        self._behind: dict[str, float] = {}
        self._archive = (float("-inf"), 0)
        self._transactions: int | None = None
        self._counted: tuple[float, int, int] | None = None
        if self.limits:
            self._learn_abilities()

    def _learn_abilities(self) -> None:
        able = self.session.one("throttle_abilities")
        if self.limits.get("active_sessions") == "auto":
            self.limits["active_sessions"] = able["auto_sessions"]
        if not able["archives"]:
            self.limits.pop("wal_archive_queue", None)
        blind = {
            "replica_lag_seconds": not able["reads_statistics"],
            "active_sessions": able["hidden_sessions"],
            "wal_archive_queue": not able["reads_archive"],
            "wraparound_vacuum": not able["reads_statistics"],
        }
        self.unavailable = tuple(name for name in self.limits if blind.get(name))

    def look(self) -> Throttling | None:
        """Return the first reason to wait, None when there is none. Raises ExecutionError."""
        values = self._values() if self.limits else {}
        for name, limit in self.limits.items():
            if name != _GENTLY and (value := values[name]) > limit:
                return Throttling(name, value, limit)
        reasons = (_ask(path, self.session.alias) for path in self.functions)
        return next((reason for reason in reasons if reason), None)

    def foreground(self, own: int) -> float | None:
        """Return the writing transactions a second of others since this was asked before, None if they are too few.

        As of the last look. own: how many we have made ourselves, in all.
        """
        if self._transactions is None or _GENTLY not in self.limits:
            return None
        now = (time.monotonic(), self._transactions, own)
        before, self._counted = self._counted or now, now
        seconds, transactions, ours = (new - old for new, old in zip(now, before, strict=True))
        others = (transactions - ours) / max(seconds, 1.0)
        return others if others > self.limits[_GENTLY] else None

    def _values(self) -> dict[str, Any]:
        values = self.session.one("throttle_signals", relation=self.relation, patience=PATIENCE_SECONDS)
        self._transactions = values["transactions"]
        return values | {
            "replica_lag_seconds": self._replica_lag(values["behind"]),
            "wal_archive_queue": self._archive_queue(),
        }

    def _replica_lag(self, behind: dict[str, float]) -> float:
        """Return for how many seconds a standby has replayed nothing newer; behind: what each says, by its position.

        What a standby says stands still, or is NULL, as soon as its replay does. So we remember since when somebody has
        been behind at that position: there was newer WAL then. It does not matter who, or whether it has reconnected.
        """
        now = time.monotonic()
        self._behind = {position: self._behind.get(position, now) for position in behind}
        stood = now - min(self._behind.values(), default=now)
        return round(max([stood, *behind.values()]), 1)

    def _archive_queue(self) -> int:
        if "wal_archive_queue" not in self.limits or "wal_archive_queue" in self.unavailable:
            return 0
        if time.monotonic() - self._archive[0] > ARCHIVE_SECONDS:
            self._archive = (time.monotonic(), self.session.one("throttle_archive")["wal_archive_queue"])
        return self._archive[1]


def _ask(path: str, alias: str) -> Throttling | None:
    """Ask one function of the project. A broken one is a reason too: nobody may take it for a healthy answer."""
    try:
        function: Callable[[str], str | None] = import_string(path)
        reason = function(alias)
    except Exception as exc:
        reason = f"callable failed: {type(exc).__name__}: {exc}"[:_LONGEST_REASON]
    return Throttling(str(reason), path, None) if reason else None
