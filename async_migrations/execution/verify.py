"""Post-conditions: is what was asked for really there.

What a definition means is PostgreSQL's to say: the index that is asked for is built on an empty copy of its table, and
the catalogue's words for both are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ExecutionError
from .session import Session
from .statements import Identifier, Index, IndexAction

_PROBE = "async_migrations_probe"

# The names in a definition are the probe's or the table's; the method, columns and conditions behind them are what
# counts.
_NAME = r'(?:"(?:[^"]|"")+"|[^\s".]+)'
_DEFINITION = re.compile(rf"CREATE (?:UNIQUE )?INDEX {_NAME} ON (?:ONLY )?{_NAME}\.{_NAME} (USING .*)", re.DOTALL)


@dataclass(frozen=True)
class FoundIndex:
    """An index as the catalogue has it.

    on_table: it belongs to the table that the statement names. valid: complete and kept up to date, so that queries may
    use it. partitioned: it is a partitioned table's.
    """

    oid: int
    schema: str
    name: str
    on_table: bool
    valid: bool
    partitioned: bool
    unique: bool
    definition: str


def quoted(name: Identifier) -> str:
    """Return a name as SQL text that means exactly it."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (name.schema, name.name) if part)


def find(session: Session, index: Index) -> FoundIndex | None:
    """Return the index that a statement is about, None when there is none of that name."""
    if index.action is IndexAction.CREATE:
        assert index.table is not None
        row = session.one("created_index", name=index.name.name, table=quoted(index.table))
    else:
        row = session.one("named_index", name=quoted(index.name))
    return FoundIndex(**row) if row else None


def qualified(session: Session, index: Index) -> Index | None:
    """Return the index with the schema in which this session means it, for sessions that have another search path.

    None when there is no such table; of a DROP or REINDEX, no such index.
    """
    schema = session.one("schema_of", name=quoted(index.table or index.name)).get("schema")
    if schema is None:
        return None
    table = None if index.table is None else replace(index.table, schema=schema)
    return replace(index, name=replace(index.name, schema=schema), table=table)


def is_whole(index: Index, found: FoundIndex) -> bool:
    """Whether an index is all that its statement makes: ON ONLY a partitioned table an INVALID one.

    That one becomes valid when an index of each partition is attached.
    """
    return found.valid or (index.only and found.partitioned)


def builders(session: Session, found: FoundIndex, *, perhaps: bool = True) -> list[dict[str, Any]]:
    """Return the sessions that build the index right now; `perhaps`: also those that may, for all that locks show."""
    return session.all("builder", oid=found.oid, perhaps=perhaps)


def tables_of(session: Session, names: Iterable[Identifier]) -> dict[int, int]:
    """Return the tables that names of tables or indexes mean in this session: oid to bytes."""
    return {row["oid"]: row["bytes"] for row in session.all("tables_of", names=[quoted(name) for name in names])}


def require_valid(session: Session, index: Index) -> FoundIndex:
    """Return the index if it is there and valid; else raise ExecutionError `effect_missing` or `effect_invalid`."""
    found = find(session, index)
    if found is None:
        raise ExecutionError(
            code="effect_missing",
            message=f"The statement returned, but there is no index {index.name}.",
            hint="Something else dropped it meanwhile; run the migration again.",
            retryable=True,
        )
    if not is_whole(index, found):
        raise ExecutionError(
            code="effect_invalid",
            message=f"The statement returned, but the index {index.name} is INVALID.",
            detail=found.definition,
            hint="Run the migration again: it drops what is left and builds anew.",
            retryable=True,
        )
    return found


def require_gone(session: Session, index: Index) -> None:
    """Raise ExecutionError `effect_missing` if an index that was dropped is still there."""
    found = find(session, index)
    if found is not None:
        raise ExecutionError(
            code="effect_missing",
            message=f"The statement returned, but the index {index.name} is still there.",
            detail=found.definition,
            hint="Run the migration again.",
            retryable=True,
        )


def require_reindexed(session: Session, tables: list[int]) -> None:
    """Raise ExecutionError `left_invalid` if a REINDEX CONCURRENTLY of these tables (oids) passed an index over."""
    if names := [row["name"] for row in session.all("skipped_by_reindex", tables=tables)]:
        raise ExecutionError(
            code="left_invalid",
            message=f"The statement returned, but it skipped what is INVALID: {', '.join(names)}.",
            hint="REINDEX INDEX CONCURRENTLY builds one anew, DROP INDEX CONCURRENTLY removes it; then run again.",
        )


def require_maintainable(session: Session, tables: list[int]) -> None:
    """Raise ExecutionError `not_allowed` if VACUUM and ANALYZE would skip one of these tables (oids)."""
    if names := [row["name"] for row in session.all("not_maintained", tables=tables)]:
        raise ExecutionError(
            code="not_allowed",
            message=f"PostgreSQL would skip {', '.join(names)}: VACUUM and ANALYZE are for the owner of a table.",
            hint="Give the role of the target the owner's role, or from PostgreSQL 17 on MAINTAIN, then run again.",
        )


def drop(session: Session, found: FoundIndex) -> None:
    """Drop an index without blocking anybody. Raises ExecutionError."""
    session.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(Identifier(found.name, found.schema))}")


def sweep(session: Session, tables: list[int]) -> list[str]:
    """Drop what a REINDEX CONCURRENTLY of these tables (oids) left behind and nobody is at work on; return the names.

    Raises ExecutionError.
    """
    found = session.all("reindexed", tables=tables)
    left = [Identifier(row["name"], row["schema"]) for row in found if not row["busy"]]
    for name in left:
        session.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(name)}")
    return [str(name) for name in left]


def require_as_asked(session: Session, index: Index, found: FoundIndex) -> None:
    """Raise ExecutionError `index_differs`, with both definitions, if an index is not the one that is asked for."""
    asked = _canonical(session, index)
    there = _tail(found.definition)
    if asked == there and index.unique == found.unique and found.on_table:
        return
    unique = "UNIQUE " if index.unique else ""
    raise ExecutionError(
        code="index_differs",
        message=f"There is an index {index.name} already, with another definition.",
        detail=f"asked for: {unique}{asked}; there: {found.definition}",
        hint="Drop or rename the one that is there, or give the new one another name, then run the migration again.",
    )


def _canonical(session: Session, index: Index) -> str:
    """Return the definition that is asked for in the catalogue's words, from USING on."""
    with probed(session, index) as probe:
        return _tail(session.one("definition", name=probe)["definition"])


@contextmanager
def probed(session: Session, index: Index) -> Iterator[str]:
    """Build an index on an empty copy of its table that is gone behind the block; yield the name that it has.

    The copy has the table's name, by which a condition may call it.
    """
    assert index.table is not None
    unique = "UNIQUE " if index.unique else ""
    copy = f"pg_temp.{quoted(Identifier(index.table.name))}"
    with session.undone():
        # Last, else the bare name would mean the copy to whoever asks for the table within the block.
        session.one("search_temporary_last")
        session.execute(f"CREATE TABLE {copy} (LIKE {quoted(index.table)})")
        session.execute(f"CREATE {unique}INDEX {_PROBE} ON {copy} {index.tail}")
        yield f"pg_temp.{_PROBE}"


def _tail(definition: str) -> str:
    """Return a definition from USING on."""
    found = _DEFINITION.fullmatch(definition)
    assert found is not None, definition
    return found[1]
