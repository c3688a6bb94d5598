"""Walking a table by a unique key: from the first row to the last, in constant memory, whatever its size.

Keys travel as texts, each cast back to its column's type, so that integers, UUIDs, texts and times are all one. A
B-tree finds the next key from the last one directly: no OFFSET over what is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from ..errors import ExecutionError
from .definition import Condition

#: A key as it is stored: the text of each column.
Key = list[str]

# Rows that are looked at to cut a table into ranges of about equal size: with 10,000 of them the ranges differ by a
# hundredth or two.
_SAMPLE = 10_000


class Asks(Protocol):
    """Whoever can ask a target: a session, or Django's connection within `migrate`."""

    def all(self, query: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of a named query."""

    def select(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query that was made for one table."""

    def literal(self, value: str) -> str:
        """Return a text as an SQL literal."""


@dataclass(frozen=True)
class Column:
    """A column of a key: its quoted name, and its type as SQL."""

    name: str
    type: str


@dataclass(frozen=True)
class Keyset:
    """A table and the unique key that its rows are walked by."""

    asks: Asks
    relation: str
    name: str
    columns: tuple[Column, ...]
    rows: int

    def between(self, after: Key | None, upto: Key | None, part: int | None = None) -> Condition:
        """Return the condition for the rows behind `after` up to `upto`; None: from the beginning, to the end.

        part: only of those that a stretch is divided into; for a key that is a whole number.
        """
        return Condition(self._names, self.name, self._literals(after), self._literals(upto), part=part)

    def at(self, key: Key) -> Condition:
        """Return the condition for the one row of this key."""
        return Condition(self._names, self.name, (), self._literals(key), exactly=True)

    def said(self, key: Key) -> str:
        """Return a key in words, e.g. "id = 5"."""
        return ", ".join(f"{name} = {text}" for name, text in zip(self._names, key, strict=True)).replace('"', "")

    def step(self, condition: Condition, size: int, where: str = "") -> Key | None:
        """Return the key of the `size`-th row that meets the condition, None when there are fewer."""
        found = self._keys(condition, where, f"OFFSET {size - 1} LIMIT 1")
        return found[0] if found else None

    def size(self, condition: Condition) -> int:
        """Return how many rows meet the condition."""
        sql = f"SELECT count(*) AS rows FROM {self.relation} WHERE {condition.sql()}"  # noqa: S608
        return int(self.asks.select(sql)[0]["rows"])

    @property
    def whole(self) -> bool:
        """Whether the key is one whole number."""
        return [column.type for column in self.columns] in (["smallint"], ["integer"], ["bigint"])

    def last(self) -> Key | None:
        """Return the last key of the table, None when it is empty."""
        order = ", ".join(f"{column.name} DESC" for column in self.columns)
        found = self.asks.select(f"SELECT {self._texts()} FROM {self.relation} ORDER BY {order} LIMIT 1")  # noqa: S608
        return self._key(found[0]) if found else None

    def cuts(self, lanes: int) -> list[Key]:
        """Return the keys at which the table falls into so many ranges of about equal size, from a sample."""
        # Of the table as large as it is now: a partitioned or a fresh one has no statistics of its own.
        rows = int(self._plan(f"SELECT FROM {self.relation}")["Plan Rows"])
        percent = 100.0 if rows <= _SAMPLE * 10 else 100.0 * _SAMPLE / rows
        found = self.asks.select(
            f"SELECT {self._texts()} FROM {self.relation} TABLESAMPLE SYSTEM ({percent:.6f}) "  # noqa: S608
            f"ORDER BY {self._order()}"
        )
        places = (len(found) * number // lanes for number in range(1, lanes))
        keys = [self._key(found[place]) for place in places] if found else []
        return [key for key, _ in groupby(keys)]

    def estimate(self, where: str) -> int:
        """Return how many rows meet a condition, by the statistics.

        The planner's number is of the table as large as it is now, dead rows and all: only its share is of use.
        """
        every, meant = (
            int(self._plan(f"SELECT FROM {self.relation}{condition}")["Plan Rows"])
            for condition in ("", f" WHERE ({where}\n)" if where else "")
        )
        return round(self.rows * meant / every) if self.rows and every else meant

    def count(self, where: str) -> int:
        """Return how many rows meet a condition: all of them are read."""
        filtered = f" WHERE ({where}\n)" if where else ""
        return int(self.asks.select(f"SELECT count(*) AS rows FROM {self.relation}{filtered}")[0]["rows"])  # noqa: S608

    def cost(self, condition: Condition, size: int, where: str = "") -> float:
        """Return what the planner says that a step costs."""
        return float(self._plan(self._step(condition, where, f"LIMIT {size}"))["Total Cost"])

    def left(self, condition: Condition, where: str, spared: str) -> tuple[int, Key | None]:
        """Return how many rows meet both, apart from those in the subquery `spared`, and the key of one of them.

        All are counted: for a plain search of the first, PostgreSQL would not use more than one process.
        """
        keys = ", ".join(f"{self.name}.{name}::text" for name in self._names)
        rest = (
            f"FROM {self.relation} WHERE ({where}\n) AND {condition.sql()} "
            f"AND jsonb_build_array({keys}) NOT IN ({spared})"
        )
        count = int(self.asks.select(f"SELECT count(*) AS rows {rest}")[0]["rows"])
        found = self.asks.select(f"SELECT {self._texts()} {rest} LIMIT 1") if count else []
        return count, self._key(found[0]) if found else None

    def _keys(self, condition: Condition, where: str, limit: str) -> list[Key]:
        return [self._key(row) for row in self.asks.select(self._step(condition, where, limit))]

    def _step(self, condition: Condition, where: str, limit: str) -> str:
        meant = f"({where}\n) AND " if where else ""
        return (
            f"SELECT {self._texts()} FROM {self.relation} WHERE {meant}{condition.sql()} "  # noqa: S608
            f"ORDER BY {self._order()} {limit}"
        )

    def _plan(self, sql: str) -> dict[str, Any]:
        plan: dict[str, Any] = self.asks.select(f"EXPLAIN (FORMAT JSON) {sql}")[0]["QUERY PLAN"][0]["Plan"]
        return plan

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def _texts(self) -> str:
        return ", ".join(f"{column.name}::text AS k{number}" for number, column in enumerate(self.columns))

    def _order(self) -> str:
        # Qualified: by the bare name the texts of the select list would be sorted, and 10 comes before 9 there.
        return ", ".join(f"{self.name}.{column.name}" for column in self.columns)

    def _key(self, row: dict[str, Any]) -> Key:
        return [row[f"k{number}"] for number in range(len(self.columns))]

    def _literals(self, key: Key | None) -> tuple[str, ...]:
        if key is None:
            return ()
        return tuple(
            f"{self.asks.literal(text)}::{column.type}" for text, column in zip(key, self.columns, strict=True)
        )


def keyset(asks: Asks, table: str, wanted: Sequence[str] = ()) -> Keyset:
    """Return how the rows of a table are walked: by the columns wanted, else by the primary key.

    Raises ExecutionError: `undefined_table`, or `no_key` when no unique B-tree index fits.
    """
    found = asks.all("relation", table=table)
    if not found:
        raise ExecutionError(
            code="undefined_table",
            message=f"There is no table {table} in this database.",
            hint="Was it dropped or renamed, or is the migration that creates it not applied here? Then run again.",
        )
    relation = found[0]
    rows = asks.all("key_columns", table=table)
    indexes = [list(group) for _, group in groupby(rows, key=lambda row: row["index"])]
    chosen = next((index for index in indexes if _fits(index, wanted)), None)
    if chosen is None:
        raise _no_key(table, wanted, indexes)
    columns = tuple(Column(_quoted(row["name"]), row["type"]) for row in chosen)
    return Keyset(asks, relation["relation"], _quoted(relation["name"]), columns, relation["rows"])


def _fits(index: list[dict[str, Any]], wanted: Sequence[str]) -> bool:
    return [row["name"] for row in index] == list(wanted) if wanted else bool(index[0]["primary"])


def _no_key(table: str, wanted: Sequence[str], indexes: list[list[dict[str, Any]]]) -> ExecutionError:
    usable = "; ".join(", ".join(row["name"] for row in index) for index in indexes)
    what = f"no unique B-tree index on ({', '.join(wanted)})" if wanted else "no primary key"
    return ExecutionError(
        code="no_key",
        message=f"The table {table} has {what} to walk its rows by.",
        hint=f"Say key= in the migration file with one of these: {usable}."
        if usable
        else "Give it a unique index, ascending and complete, on columns that are NOT NULL; then run again.",
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
