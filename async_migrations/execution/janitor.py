"""What builds have left behind in a target, whoever made them: INVALID indexes that nobody is working on.

An INVALID index is of no use to any query, costs every write, and keeps its name from others. The `_ccnew` and `_ccold`
indexes of a REINDEX CONCURRENTLY that did not end well are such, too; one with such a name that is valid is no
leftover, since queries use it. Nor is the index of a partitioned table, or one that is attached to it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.db import connections
from django.db.models import Q

from .. import lifecycle
from ..errors import InvalidDefinition, NotALeftover
from ..lifecycle import Origin
from ..models import AsyncMigrationStatus
from ..states import Status
from . import verify
from .attempt import advisory_key, reserve
from .session import Session
from .statements import Identifier, parse

logger = logging.getLogger("async_migrations")

# Looking must not take long, for somebody waits for the answer; dropping waits for whoever uses the table.
_LOOK_SECONDS = 10
_REINDEXED = re.compile(r"_cc(?:new|old)\d*$")


@dataclass(frozen=True)
class Leftover:
    """An INVALID index that nobody builds or drops.

    kind: `_ccnew` or `_ccold` for what a REINDEX CONCURRENTLY left, `invalid` for all others.
    table: with its schema. size_bytes: on disk. migration: id of the one of ours that made it, None for somebody
    else's. running: that migration is in progress and looks after it by itself.
    """

    database: str
    schema: str
    name: str
    table: str
    kind: str
    size_bytes: int
    definition: str
    migration: int | None
    running: bool


def databases() -> list[str]:
    """Return the aliases that can be looked at: those of PostgreSQL."""
    return [alias for alias in connections if connections[alias].vendor == "postgresql"]


def leftovers(alias: str) -> list[Leftover]:
    """Return what is left over in a target, the largest first. Raises ExecutionError."""
    with _session(alias) as session:
        found = session.all("leftovers")
    makers = _Makers(alias, [row["name"] for row in found])
    return [makers.leftover(row) for row in found]


def look(alias: str, schema: str, name: str) -> Leftover | None:
    """Return one leftover that may be dropped, None when there is no index of this name.

    Raises NotALeftover for an index that is valid, is being built or dropped, or belongs to a migration in progress;
    ExecutionError.
    """
    with _session(alias) as session:
        return _look(session, alias, schema, name)


def drop(alias: str, schema: str, name: str, origin: Origin) -> Leftover | None:
    """Drop one leftover without blocking anybody, and return what it was; None when there is none of this name.

    Looks again before, with the locks held by which our own attempts would see that somebody is at work, so that no
    attempt can begin to build an index of this name meanwhile. It is an event of the migration that made it. Raises
    NotALeftover like `look`; ExecutionError.
    """
    with _session(alias) as session:
        found = _look(session, alias, schema, name)
        if found is None:
            return None
        _reserve(session, found)
        if _look(session, alias, schema, name) is None:
            return None
        session.set("statement_timeout", "0")
        session.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {verify.quoted(Identifier(name, schema))}")
    _tell(found, origin)
    return found


def _session(alias: str) -> Session:
    session = Session(alias, "async-migrations/janitor")
    session.set("statement_timeout", f"{_LOOK_SECONDS}s")
    return session


def _look(session: Session, alias: str, schema: str, name: str) -> Leftover | None:
    index = verify.quoted(Identifier(name, schema))
    if not session.one("named_index", name=index):
        return None
    found = next((row for row in session.all("leftovers") if (row["schema"], row["name"]) == (schema, name)), None)
    if found is None:
        raise NotALeftover(
            f"The index {schema}.{name} on database {alias!r} is no leftover: it is valid, part of a partitioned "
            "index, or somebody is building or dropping it now. It stays."
        )
    leftover = _Makers(alias, [name]).leftover(found)
    if leftover.running:
        raise NotALeftover(
            f"The index {schema}.{name} on database {alias!r} belongs to migration {leftover.migration}, which is in "
            "progress and repairs or removes it by itself. It stays."
        )
    return leftover


def _reserve(session: Session, found: Leftover) -> None:
    """Take the advisory locks that an attempt of the same migration, or a build on the same table, takes."""
    free = reserve(session, [row["oid"] for row in session.all("tables_of", names=[found.table])])
    if free and found.migration is not None:
        key = advisory_key(lifecycle.get(found.migration).name)
        free = session.one("try_advisory_lock", key=key)["locked"]
    if not free:
        raise NotALeftover(
            f"A migration is at work on {found.table} or on the index {found.schema}.{found.name}. It stays; "
            "look again when that migration has ended."
        )


def _tell(found: Leftover, origin: Origin) -> None:
    """Write down what was dropped: in the history of the migration that made it, and in the log in any case."""
    detail = {"index": f"{found.schema}.{found.name}", "table": found.table, "size_bytes": found.size_bytes}
    logger.info(
        "leftover_dropped",
        extra={"database": found.database, "by": origin.by, "request_id": origin.request_id, "detail": detail},
    )
    if found.migration is not None:
        lifecycle.remark(found.migration, "leftover_dropped", origin, **detail)


class _Makers:
    """Which of our migrations of a target made these indexes, by the names in their SQL."""

    def __init__(self, alias: str, names: Iterable[str]) -> None:
        self.alias, self.names = alias, {_REINDEXED.sub("", name) for name in names}

    def leftover(self, row: dict[str, Any]) -> Leftover:
        maker = self._maker(row["schema"], _REINDEXED.sub("", row["name"]))
        suffix = _REINDEXED.search(row["name"])
        return Leftover(
            database=self.alias,
            kind=suffix[0].rstrip("0123456789") if suffix else "invalid",
            migration=maker.pk if maker else None,
            running=maker is not None and maker.status == Status.IN_PROGRESS,
            **row,
        )

    def _maker(self, schema: str, name: str) -> AsyncMigrationStatus | None:
        """Return the migration that has the index in its SQL: one in progress before the others, then the newest."""
        made = [row for row in self._rows if any(_is_made(index, schema, name) for index in _made_by(row))]
        return min(made, key=lambda row: (row.status != Status.IN_PROGRESS, -row.pk), default=None)

    @cached_property
    def _rows(self) -> list[AsyncMigrationStatus]:
        naming = Q()
        for name in self.names:
            # Parsing all SQL would take seconds. A quote in a name is there twice: what is between is looked for.
            part = max(name.split('"'), key=len)
            naming |= Q(sql_forwards__icontains=part) | Q(sql_backwards__icontains=part)
        return list(lifecycle.rows().filter(naming, database=self.alias))


def _made_by(row: AsyncMigrationStatus) -> set[Identifier]:
    """Return the indexes that a migration creates, rebuilds or drops: each can leave one that is INVALID."""
    found = set()
    for sql in (row.sql_forwards, row.sql_backwards):
        try:
            found |= {index.name for statement in parse(sql) for index in statement.indexes}
        except InvalidDefinition:  # It could not have run.
            continue
    return found


def _is_made(index: Identifier, schema: str, name: str) -> bool:
    return index.name == name and index.schema in {None, schema}
