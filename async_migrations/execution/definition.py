"""What a backfill is to do, as its row has it: the text with the place of the batch, and the options.

Pure: no database is asked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidDefinition
from ..models import AsyncMigrationStatus
from ..states import Direction
from .statements import Effect, Lock, parse

#: Where the condition that makes up a batch goes in a statement: {batch}, or {batch:t} when the table has the alias t.
BATCH = re.compile(r"\{batch(?::(?P<alias>[A-Za-z_][A-Za-z0-9_$]*))?\}")

#: Into how many parts a stretch of keys is divided where its rows are changed in turn; a power of two. While one part
#: is changed, the old versions of the parts before it make room on their pages, so that most new versions stay where
#: they are, and need no entry in the indexes: 70 % of them with 4 parts, 0 % with one (3,000,000 rows; 1.2 GB of WAL
#: and not 1.9; a table of 0.9 GB and not 1.3 afterwards).
PARTS = 4

#: What stands for "nothing is undone on the way back" in the backward text of a row.
NOOP = "-- nothing is undone"

#: What the text of a row begins with where a function of the project does the work.
PROCESS = "process:"


@dataclass(frozen=True)
class Definition:
    """What a backfill does in one direction.

    text: one statement with `{batch}`, or empty where a function does the work. process: its dotted path, or empty.
    where: which rows are meant, as SQL, or empty: all. key: names of the columns to walk by, empty: the primary key.
    model: label of the model whose rows the function gets, or empty. update: whether the text is the plain UPDATE of
    the table that `update_text` makes. proven: whether `where` is seen to be false of what is done.
    """

    table: str
    text: str
    process: str
    where: str
    key: tuple[str, ...]
    update: bool = False
    model: str = ""
    proven: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 over all of it: lanes that were begun for something else are of no use."""
        whole = "\0".join((self.table, self.text, self.process, self.where, *self.key))
        return hashlib.sha256(whole.encode()).hexdigest()

    def statement(self, condition: Condition) -> str:
        """Return the statement for one batch."""
        return fill(self.text, condition)


@dataclass(frozen=True)
class Condition:
    """The condition that makes up one batch: the rows behind `after` up to `upto`, by the key's columns.

    columns: quoted names. table: the quoted name that they are qualified by unless the text gives an alias. after and
    upto: literals, one for each column; empty: from the beginning of the table on, or to its end. exactly: the one row
    at `upto`. part: of the rows only those of this part, by a key that is a whole number.
    """

    columns: tuple[str, ...]
    table: str
    after: tuple[str, ...]
    upto: tuple[str, ...]
    exactly: bool = False
    part: int | None = None

    def sql(self, alias: str | None = None) -> str:
        """Return the condition; `alias` is written as it is given."""
        key = _row([f"{alias or self.table}.{column}" for column in self.columns])
        if self.exactly:
            return f"{key} = {_row(self.upto)}"
        parts = [f"{key} > {_row(self.after)}"] if self.after else []
        parts += [f"{key} <= {_row(self.upto)}"] if self.upto else []
        parts += [f"({_folded(key)} & {PARTS - 1}) = {self.part}"] if self.part is not None else []
        return " AND ".join(parts) or "true"


def _folded(key: str) -> str:
    """Return a number whose last bits differ from row to row, also where those of the keys do not.

    Every fourth, sixteenth ... number, or a number with a time in front (Snowflake). By bits, for the remainder of a
    negative number would be negative. Of four keys in a row each is of another part.
    """
    return f"({' # '.join([key, *(f'({key} >> {shift})' for shift in (2, 4, 12, 22))])})"


def _row(parts: list[str] | tuple[str, ...]) -> str:
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def fill(text: str, condition: Condition) -> str:
    """Return the text with the condition at its place."""
    return BATCH.sub(lambda found: condition.sql(found["alias"]), text)


def definition_of(migration: AsyncMigrationStatus, direction: str | None = None) -> Definition | None:
    """Return what the row asks for in a direction, its own if None; None where nothing is undone on the way back."""
    backwards = (direction or migration.direction) == Direction.BACKWARDS
    return read(migration.options, migration.sql_backwards if backwards else migration.sql_forwards, backwards)


def read(options: Mapping[str, Any], text: str, backwards: bool = False) -> Definition | None:
    """Return what the options of a file ask for with its text in one direction; None where that is nothing."""
    if text == NOOP:
        return None
    process = text.removeprefix(PROCESS) if text.startswith(PROCESS) else ""
    where = "" if backwards else options.get("where", "")
    return Definition(
        table=options["table"],
        text="" if process else text,
        process=process,
        where=where,
        key=tuple(options.get("key", ())),
        update=bool(options.get("rollback_update" if backwards else "update")),
        model=options.get("model", ""),
        proven=bool(where) and options.get("verify", "take") == "take",
    )


def update_text(table: str, update: str, where: str = "") -> str:
    """Return the UPDATE of a table, with the place of the batch. A comment at the end of a part stays one."""
    condition = f"({where}\n)\n  AND {{batch}}" if where else "{batch}"
    return f"UPDATE {table}\nSET {update}\nWHERE {condition}"


def process_text(path: str) -> str:
    """Return the text that stands in a row for a Python function."""
    return f"{PROCESS}{path}"


def check_text(text: str) -> None:
    """Raise InvalidDefinition unless the text is one plain statement with the place of the batch in it."""
    if not BATCH.search(text):
        raise InvalidDefinition(
            "The statement of a backfill has no {batch}: it would change all rows in every batch. Write {batch} in its "
            "WHERE, or {batch:t} when the table has the alias t."
        )
    found = parse(BATCH.sub("true", text))
    if len(found) != 1:
        raise InvalidDefinition(f"The SQL of a backfill is one statement; here are {len(found)}.")
    if found[0].effect is not Effect.TRANSACTIONAL or found[0].lock is not Lock.ROWS:
        raise InvalidDefinition(
            "A backfill changes rows: INSERT, UPDATE, DELETE or MERGE. Use make_sql_migration for "
            f"{found[0].summary!r}."
        )


def trial(text: str) -> str:
    """Return the statement as it would be for a batch without rows, to have its names looked up by EXPLAIN."""
    return BATCH.sub("false", text)


def whole(text: str) -> str:
    """Return the statement for all rows at once; other texts stay as they are."""
    return BATCH.sub("1 = 1", text)
