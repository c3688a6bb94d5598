"""What the steps of one attempt share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from ..lifecycle import Lease
from ..models import AsyncMigrationStatus
from . import guard
from .heartbeat import Heartbeat, shutdown
from .session import Session
from .statements import Index, Statement

#: Seconds between two looks at a thing that another session must finish first.
POLL_SECONDS = 0.2


class Interrupted(Exception):
    """The heartbeat says to stop; raised between two statements."""


class Postponed(Exception):
    """It cannot go on here and now; the text says why. seconds: when to look again."""

    def __init__(self, reason: str, seconds: float = 1.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


@dataclass
class Attempt:
    """What the steps of one attempt share.

    leftovers: indexes that would be left INVALID if it ended now. reindexed: tables (oids) whose REINDEX CONCURRENTLY
    would leave such. session: what is left open because all went well. proven: the last statement's event, and
    counted: the progress of a backfill, which are written together with the end. advanced: a backfill has got on in it.
    reserved: it has kept others off a table.
    """

    lease: Lease
    heartbeat: Heartbeat
    statements: tuple[Statement, ...] = ()
    done: list[str] = field(default_factory=list)
    begun: str = ""
    leftovers: list[Index] = field(default_factory=list)
    reindexed: list[int] = field(default_factory=list)
    current: int | None = None
    session: Session | None = None
    advanced: bool = False
    reserved: bool = False
    counted: dict[str, Any] = field(default_factory=dict)
    proven: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def migration(self) -> AsyncMigrationStatus:
        """The row as it was when the attempt began."""
        return self.lease.migration

    @property
    def lock_key(self) -> str:
        """The advisory lock of the migration; PostgreSQL keeps it per database."""
        return advisory_key(self.migration.name)

    def still_done(self, marked: Iterable[str]) -> list[str]:
        """Return the digests that are marked as done, as far as the statements are still those of the file."""
        return [digest for digest, _ in takewhile(_is_same, zip(marked, self.statements, strict=False))]

    @property
    def is_last(self) -> bool:
        """Whether a retryable error is final. What fails now and then, days apart, must not use up a long backfill."""
        anew = self.advanced and self.migration.max_attempts > 1
        return self.lease.attempt >= self.migration.max_attempts and not anew

    def option(self, name: str, default: float) -> float:
        """Return an option of the migration file that is a number, or the default."""
        value = self.migration.options.get(name)
        return default if value is None else float(value)

    @property
    def guard_mode(self) -> guard.Mode:
        """What is done about sessions that queue behind a statement."""
        return guard.Mode(self.migration.options.get("guard", guard.Mode.REPORT.value))

    def go_on(self) -> None:
        """Raise when there is a reason to stop here, between two statements."""
        if self.heartbeat.stop is not None or shutdown.is_set():
            raise Interrupted


def _is_same(pair: tuple[str, Statement]) -> bool:
    digest, statement = pair
    return digest == statement.digest


def advisory_key(name: str) -> str:
    """Return the text from which the advisory lock of a migration is made."""
    return f"async_migrations:{name}"


def table_key(oid: int) -> str:
    """Return the text from which the advisory lock of a table is made, on which one build at a time is at work."""
    return f"async_migrations:table:{oid}"


def reserve(session: Session, tables: Iterable[int]) -> bool:
    """Keep other builds of ours off these tables (oids) as long as the session lasts; False: one is at work there.

    Two on one table, or a session that waits for its lock while one is at work, end in a deadlock and an INVALID index.
    Partitions of one table do not keep each other away, but the whole of it and each of them do: with one lock for each
    level above, for there may be thousands below.
    """
    for oid in tables:
        above = session.all("ancestors", oid=oid)
        if not _locked(session, "try_advisory_lock", oid) or not all(
            _locked(session, "try_shared_lock", row["oid"]) for row in above
        ):
            return False
    return True


def _locked(session: Session, how: str, oid: int) -> bool:
    return bool(session.one(how, key=table_key(oid))["locked"])
