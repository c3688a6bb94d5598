"""Which keys keep a UNIQUE index from being built: a few samples with their counts, if they can be had in a moment.

The keys are PostgreSQL's own reading of the index: its columns and expressions, collations, condition, and whether two
NULLs are the same, looked up on an empty copy of the table.
"""

from __future__ import annotations

import logging
from typing import Any

from ..errors import ExecutionError
from . import verify
from .session import Session
from .statements import Index

logger = logging.getLogger("async_migrations")

_SECONDS = 3
_SAMPLES = 5
_KEY_CHARACTERS = 200


def samples(session: Session, index: Index) -> list[dict[str, Any]] | None:
    """Return the keys with the most rows, as `{"key": {column or expression: text}, "count": rows}`.

    In the session that was to build the index, since its search path and role decide what the names mean. None when it
    takes longer than a few seconds, or cannot be told: this is an answer beside the error, never one in its place.
    """
    try:
        session.set("statement_timeout", f"{_SECONDS}s")
        return find(session, index) or None
    except ExecutionError as error:
        logger.info("duplicates not counted", extra={"index": str(index.name), "reason": str(error)})
        return None


def find(session: Session, index: Index) -> list[dict[str, Any]]:
    """Return the same, empty where no key has two rows; it takes as long as it is let. Raises ExecutionError."""
    assert index.table is not None
    with verify.probed(session, index) as probe:
        keys = session.all("index_keys", name=probe, table=verify.quoted(index.table))
    return [_sample(keys, row) for row in session.select(_query(index, keys))]


def _query(index: Index, keys: list[dict[str, Any]]) -> str:
    """Return the SQL that groups the table as the index does."""
    assert index.table is not None
    expressions = [key["expression"] for key in keys]
    conditions = [f"({keys[0]['condition']})"] if keys[0]["condition"] else []
    if not keys[0]["nulls_not_distinct"]:
        conditions += [f"{expression} IS DISTINCT FROM NULL" for expression in expressions]
    shown = ", ".join(f"left(({text})::text, {_KEY_CHARACTERS}) AS key_{at}" for at, text in enumerate(expressions))
    # Not those of other tables that inherit from it, while the index of a partitioned table is about its partitions.
    only = "" if keys[0]["partitioned"] else "ONLY "
    return (
        f"SELECT {shown}, count(*) AS count FROM {only}{verify.quoted(index.table)} "  # noqa: S608
        f"WHERE {' AND '.join(conditions) or 'true'} GROUP BY {', '.join(expressions)} "
        f"HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT {_SAMPLES}"
    )


def _sample(keys: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    return {"key": {key["label"]: row[f"key_{at}"] for at, key in enumerate(keys)}, "count": row["count"]}
