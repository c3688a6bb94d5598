"""What an act of the demo works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg2

from .control_plane import Row
from .rows import Loaded

Proof = tuple[bool, str]


@dataclass(frozen=True)
class Scene:
    """What the proofs of an act look at: the database, what was loaded, and the row at the end of the act.

    database_url: where connection leads. seen: what was found out in the course of the act.
    """

    connection: psycopg2.extensions.connection
    database_url: str
    loaded: Loaded
    row: Row = field(default_factory=dict)
    seen: list[Proof] = field(default_factory=list)

    def value(self, sql: str, **parameters: Any) -> Any:
        """Return the first column of the first row of a query."""
        return self.values(sql, **parameters)[0]

    def values(self, sql: str, **parameters: Any) -> tuple[Any, ...]:
        """Return the first row of a query; one NULL where there is none."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchone() or (None,)
