"""Equal copies of one table, so that whoever changes its rows begins from the same start."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg2
import psycopg2.errors

from examples.demo.errors import CannotGoOn
from examples.demo.screen import Step

from .project.trials.backfills import COPY

_BASE = "bench_base"
_CHUNK = 100_000

_TABLE = f"""
CREATE TABLE IF NOT EXISTS {_BASE} (
    id bigint NOT NULL, project_id int NOT NULL, title text NOT NULL, data jsonb NOT NULL,
    updated_at timestamptz NOT NULL, total int
)
"""
_ROWS = f"""
INSERT INTO {_BASE} (id, project_id, title, data, updated_at)
SELECT n, 1 + n %% 50, 'Task ' || n,
       jsonb_build_object('text', repeat(md5(n::text), 2), 'width', 640 + n %% 1280, 'source', 'import'), now()
FROM generate_series(%(first)s, %(last)s) AS n
"""
_WRONG = f"SELECT count(*) FROM {COPY} WHERE total IS DISTINCT FROM octet_length(data::text) AND id <= %(upto)s"


class Copies:
    """The table that is backfilled, made anew as often as it is asked for; `rows` of about 190 bytes each."""

    def __init__(self, connection: psycopg2.extensions.connection, rows: int) -> None:
        self._connection, self.rows = connection, rows

    def load(self, step: Step) -> None:
        """Make what is copied."""
        self._execute(_TABLE)
        for first in range(1, self.rows + 1, _CHUNK):
            step.show(100 * first / self.rows)
            self._execute(_ROWS, first=first, last=min(first + _CHUNK - 1, self.rows))

    def fresh(self) -> None:
        """Make the copy anew, as an application's table is: indexed, vacuumed, analysed, nothing left to be written."""
        self._execute(f"DROP TABLE IF EXISTS {COPY}")
        self._execute(f"CREATE TABLE {COPY} AS SELECT * FROM {_BASE} ORDER BY id")
        self._execute(f"ALTER TABLE {COPY} ADD PRIMARY KEY (id)")
        self._execute(f"CREATE INDEX ON {COPY} (project_id)")
        self._execute(f"VACUUM (ANALYZE) {COPY}")
        level(self._connection)

    def check(self, upto: int) -> None:
        """Raise CannotGoOn unless every row up to this id says what it should."""
        if wrong := self._one(_WRONG, upto=upto):
            raise CannotGoOn(f"{wrong:,} of {upto:,} rows are not what they should be")

    def size(self) -> int:
        """Return the bytes of the copy with its indexes."""
        return self._one(f"SELECT pg_total_relation_size('{COPY}')")

    def drop(self) -> None:
        """Give the disk back."""
        self._execute(f"DROP TABLE IF EXISTS {COPY}, {_BASE}")

    def _one(self, sql: str, **parameters: Any) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return int((cursor.fetchone() or (0,))[0])

    def _execute(self, sql: str, **parameters: Any) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)


def level(connection: psycopg2.extensions.connection) -> None:
    """Give what is measured next the same start: nothing of what went before still has to be written to disk."""
    with suppress(psycopg2.errors.InsufficientPrivilege), connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")
