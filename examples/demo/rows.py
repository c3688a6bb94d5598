"""The table that is too large for a deploy: so many tasks with JSON documents, made by the database itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg2

PROJECTS = 50
OPEN_EVERY = 10  # every tenth task is open, and people work on it; the others are closed
CHUNK = 50_000
BYTES_PER_ROW = 3000  # on disk at the worst moment: table twice, indexes, write-ahead log

_PROJECTS = "INSERT INTO project (id, name) SELECT n, 'Project ' || n FROM generate_series(1, %s) AS n"

_TASKS = """
INSERT INTO task (id, project_id, number, title, data, created_at, updated_at, closed_at, revision, checked)
SELECT n, 1 + n %% %(projects)s, n, 'Task ' || n,
       jsonb_build_object(
           'text', repeat(md5(n::text), 1 + n %% 8),
           'image', 's3://annotations/' || md5((n * 7)::text) || '.jpg',
           'meta', jsonb_build_object('width', 640 + n %% 1280, 'height', 480 + n %% 720, 'source', 'import')
       ),
       now(), now(), CASE WHEN n %% %(open_every)s <> 0 THEN now() END, 0, 0
FROM generate_series(%(first)s, %(last)s) AS n
"""

_DOUBLE = """
INSERT INTO task (id, project_id, number, title, data, created_at, updated_at, closed_at, revision, checked)
SELECT %(id)s, project_id, number, title || ' again', data, now(), now(), now(), 0, 0 FROM task WHERE id = %(of)s
RETURNING project_id, number
"""


@dataclass(frozen=True)
class Loaded:
    """What is in the table: its rows, how large it is, and the one key that two rows share."""

    rows: int
    bytes: int
    doubled_key: tuple[int, int]


def load(connection: psycopg2.extensions.connection, rows: int, progress: Callable[[int], None]) -> Loaded:
    """Fill `project` and `task` and leave the table as an application's table is: vacuumed and analysed.

    progress: called with the number of rows so far.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PROJECTS, (PROJECTS,))
        for first in range(1, rows, CHUNK):
            last = min(first + CHUNK, rows) - 1
            bounds = {"projects": PROJECTS, "open_every": OPEN_EVERY, "first": first, "last": last}
            cursor.execute(_TASKS, bounds)
            progress(last)
        cursor.execute(_DOUBLE, {"id": rows, "of": rows // 2})
        doubled_key = _row(cursor)
        cursor.execute("SELECT setval(pg_get_serial_sequence('task', 'id'), %s)", (rows,))
        cursor.execute("VACUUM (ANALYZE) task")
        cursor.execute("SELECT pg_total_relation_size('task')")
        return Loaded(rows, int(_row(cursor)[0]), (doubled_key[0], doubled_key[1]))


def _row(cursor: psycopg2.extensions.cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise LookupError("each of the queries here returns exactly one row")
    return row
