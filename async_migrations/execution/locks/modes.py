"""The locks of PostgreSQL's tables: their modes by name, what has to wait for each, and what a statement claims."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..statements import Identifier


class Mode(Enum):
    """The modes, the weakest first, with what has to wait while one is held."""

    ACCESS_SHARE = ("ACCESS SHARE", ("ddl",))
    ROW_SHARE = ("ROW SHARE", ("ddl",))
    ROW_EXCLUSIVE = ("ROW EXCLUSIVE", ("ddl",))
    SHARE_UPDATE_EXCLUSIVE = ("SHARE UPDATE EXCLUSIVE", ("maintenance", "ddl"))
    SHARE = ("SHARE", ("writes", "maintenance", "ddl"))
    SHARE_ROW_EXCLUSIVE = ("SHARE ROW EXCLUSIVE", ("writes", "maintenance", "ddl"))
    EXCLUSIVE = ("EXCLUSIVE", ("writes", "maintenance", "ddl"))
    ACCESS_EXCLUSIVE = ("ACCESS EXCLUSIVE", ("reads", "writes", "maintenance", "ddl"))

    def __init__(self, words: str, blocks: tuple[str, ...]) -> None:
        self.words, self.blocks = words, blocks


_STRENGTH = {mode: at for at, mode in enumerate(Mode)}


def strength(mode: Mode) -> int:
    """Return a number that is the higher, the stronger the mode is."""
    return _STRENGTH[mode]


class Of(Enum):
    """What is locked, seen from the name in the text."""

    ITSELF = "itself"
    TABLE = "the table of an index"
    INDEXES = "the indexes of a table"
    REFERENCED = "the tables that its foreign keys refer to"
    REFERENCING = "the tables whose foreign keys refer to it"
    TRUNCATED = "those, and whoever refers to them in turn"
    PARENT = "the table that it is a partition of, and the default partition of that"
    DEFAULT = "its default partition"


@dataclass(frozen=True)
class Claim:
    """A lock. below: partitions and children as well. constraint, column: only foreign keys that these are about."""

    mode: Mode
    name: Identifier
    of: Of = Of.ITSELF
    below: bool = False
    constraint: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class Loss:
    """What a statement takes away from others that name it: dropped, renamed, or of another type.

    what: in words. name: of the table, index or constraint; empty for all that is in its schema. column: only this one
    of the table.
    """

    what: str
    name: Identifier
    column: str | None = None


@dataclass(frozen=True)
class Claims:
    """The locks of a statement. lasting: as long as it works with the rows, not for an instant at the catalogue."""

    locks: tuple[Claim, ...]
    lasting: bool
