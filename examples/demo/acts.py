"""The acts of the demo: what is asked of the control plane, how it has to end, and what has to be true then.

What is true is looked up in the database, by SQL of the demo's own; nothing is believed because the service says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .backfill import each_row_once, paused_and_tuned
from .control_plane import ControlPlane, Row
from .database import operators_may_force
from .scene import Proof, Scene

Course = Callable[[ControlPlane, Scene, int], Iterator[Row]]


def asked(verb: str) -> Course:
    """Return the course of an act that is one request: ask, and follow to the end."""

    def course(control: ControlPlane, scene: Scene, pk: int) -> Iterator[Row]:
        yield control.ask(verb, pk)
        yield from control.follow(pk)

    return course


def forced(control: ControlPlane, scene: Scene, pk: int) -> Iterator[Row]:
    """Run what the preflight refuses where it sees it, which it may not in the time that it has for a large table."""
    with operators_may_force(scene.database_url):
        row = control.ask("run", pk, force=True)
    yield row
    yield from control.follow(pk)


@dataclass(frozen=True)
class Act:
    """What is asked of the control plane about one migration.

    name: the migration's, which is the dotted path of its file. course: asks, and yields the row again and again until
    it has ended. ends: the status that it has to end in. proofs: what has to be true then.
    """

    title: str
    name: str
    course: Course
    ends: str
    proofs: Callable[[Scene], Iterator[Proof]]


def _index_is_there(scene: Scene) -> Iterator[Proof]:
    state = scene.value(_INDEX_STATE, name="task_proj_octlen_idx")
    yield state == "valid", f"in the catalogue task_proj_octlen_idx is {state or 'missing'}"


def _rows_changed_once(scene: Scene) -> Iterator[Proof]:
    once, otherwise, untouched, touched = scene.values(_UPDATED)
    yield (
        once > 0 and otherwise == 0,
        f"{once:,} closed tasks were changed exactly once and hold the size of their document, {otherwise:,} otherwise",
    )
    yield touched == 0, f"{untouched:,} open tasks were left alone, {touched:,} were not"


def _duplicate_is_named(scene: Scene) -> Iterator[Proof]:
    error = scene.row["meta"].get("error", {})
    project, number = scene.loaded.doubled_key
    named = f"=({project}, {number})" in str(error.get("detail"))
    yield named and error.get("code") == "duplicate_key", f"it names the key that two rows share: {_told(error)}"
    yield _no_invalid_index(scene)


def _index_is_gone(scene: Scene) -> Iterator[Proof]:
    gone = scene.value("SELECT to_regclass('task_proj_octlen_idx') IS NULL")
    yield gone, f"task_proj_octlen_idx is {'gone' if gone else 'still there'}"
    yield _no_invalid_index(scene)


_TASKS = "tasks.migrations."

ACTS = (
    Act(
        "run 0003: CREATE INDEX CONCURRENTLY",
        f"{_TASKS}0003_task_proj_octlen_idx_async",
        asked("run"),
        "FINISHED",
        _index_is_there,
    ),
    Act(
        "run 0004: UPDATE of all closed tasks",
        f"{_TASKS}0004_task_total_async",
        asked("run"),
        "FINISHED",
        _rows_changed_once,
    ),
    Act(
        "run 0005: UNIQUE index over a duplicate",
        f"{_TASKS}0005_task_number_uniq_async",
        forced,
        "ERROR",
        _duplicate_is_named,
    ),
    Act(
        "rollback 0003: DROP INDEX CONCURRENTLY",
        f"{_TASKS}0003_task_proj_octlen_idx_async",
        asked("rollback"),
        "ROLLED BACK",
        _index_is_gone,
    ),
    Act(
        "run 0006: backfill, paused, resumed, tuned",
        f"{_TASKS}0006_task_checksum_async",
        paused_and_tuned,
        "FINISHED",
        each_row_once,
    ),
)


def _no_invalid_index(scene: Scene) -> Proof:
    names = scene.value(_INVALID)
    return not names, f"INVALID indexes left behind: {', '.join(names) if names else 'none'}"


def _told(error: dict[str, Any]) -> str:
    return str(error.get("detail") or error.get("message")) if error else "there is no error in the row"


_INDEX_STATE = """
SELECT CASE WHEN i.indisvalid AND i.indisready THEN 'valid' ELSE 'INVALID' END
FROM pg_class AS c JOIN pg_index AS i ON i.indexrelid = c.oid WHERE c.oid = to_regclass(%(name)s)
"""

_INVALID = """
SELECT array_agg(c.relname ORDER BY c.relname)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE NOT (i.indisvalid AND i.indisready)
"""

_UPDATED = """
SELECT count(*) FILTER (WHERE closed AND once), count(*) FILTER (WHERE closed AND NOT once),
       count(*) FILTER (WHERE NOT closed AND untouched), count(*) FILTER (WHERE NOT closed AND NOT untouched)
FROM (
    SELECT closed_at IS NOT NULL AS closed,
           revision = 1 AND total IS NOT DISTINCT FROM octet_length(data::text) AS once,
           revision = 0 AND total IS NULL AS untouched
    FROM task
) AS t
"""
