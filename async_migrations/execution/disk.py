"""Whether the disk has room for the indexes that a migration builds, where both numbers can be known.

PostgreSQL does not tell over SQL what is free: a function of the project may know it, or the server is on this machine.
How large an index will be is told by the table's statistics, of a B-tree only; of any, where it is there already.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from django.db import connections
from django.utils.module_loading import import_string

from ..conf import conf
from ..errors import ExecutionError
from . import verify
from .findings import INFO, WARNING, Finding
from .look import Look
from .statements import Index, IndexAction, Statement

# An estimate may be off by so much, so less than this many times what is needed is too little.
_MARGIN = 1.2

# What is sorted is written to temporary files first, and the index to the WAL: that may be on the same disk.
_AMPLE = 2.5

# Of a B-tree, in bytes: a page and what it keeps for tuples as a build fills it; a tuple's header and line pointer.
_PAGE, _FILLED = 8192, 0.9 * (8192 - 40)
_TUPLE, _POINTER = 8, 4
_TUPLE_ID = 6  # All that is kept of a row whose key is there already.

# A function that asks a provider's monitoring is given so long.
_FUNCTION_SECONDS = 3.0

# What PostgreSQL takes for the tablespace of the database.
_DEFAULT = 0

# The clocks of postmaster.pid and of pg_postmaster_start_time() are read some moments apart.
_START_SECONDS = 60


@dataclass(frozen=True)
class _Need:
    """What one index needs: bytes, None where that is not known; oid and name of its tablespace."""

    statement: Statement
    index: Index
    bytes: int | None
    oid: int
    tablespace: str


def disk(look: Look) -> Iterator[Finding]:
    """Whether each tablespace has room for what is built in it."""
    builds = [
        (statement, index)
        for statement in look.statements
        for index in statement.indexes
        if index.action is not IndexAction.DROP
    ]
    needs: dict[str, list[_Need]] = {}
    for statement, index in builds:
        try:
            need = _need(look, statement, index)
        except ExecutionError as error:
            detail = {"indexes": [str(index.name)], "free_bytes": None, "needed_bytes": None}
            yield _unknown(f"it cannot be told how large {index.name} will be: {error.message}", detail)
            continue
        if need is not None:
            needs.setdefault(need.tablespace, []).append(need)
    for tablespace, together in needs.items():
        yield _judged(look, tablespace, together)


def shortage(look: Look) -> Iterator[Finding]:
    """The same where it can be known at all what is free; elsewhere nothing is asked to no end."""
    if conf.preflight_free_bytes or _place(look, _DEFAULT):
        yield from disk(look)


def _judged(look: Look, tablespace: str, needs: list[_Need]) -> Finding:
    known = [need.bytes for need in needs if need.bytes is not None]
    needed = sum(known) if len(known) == len(needs) else None
    names = [str(need.index.name) for need in needs]
    detail: dict[str, Any] = {"indexes": names, "tablespace": tablespace, "free_bytes": None, "needed_bytes": needed}
    try:
        free, basis = _free(look, needs[0].oid)
    except _Broken as exc:
        return _unknown(str(exc), detail)
    if free is None:
        return _unknown("PostgreSQL does not tell over SQL what is free, and its disk is not seen from here", detail)
    detail |= {"free_bytes": free, "basis": basis}
    if needed is None:
        return _unknown("there are no statistics to tell by how large the index will be (ANALYZE makes them)", detail)
    message = f"{', '.join(names)} will need about {needed:,} bytes in {tablespace}, and {free:,} are free."
    if free < needed * _MARGIN:
        message += f" Less than {_MARGIN:g} times what is needed is too little: the build would fill the disk and fail."
        return look.standing(needs[0].statement, "disk_space", message, _MAKE_ROOM, **detail)
    if free < needed * _AMPLE:
        message += f" Sorting and WAL may take as much again: below {_AMPLE:g} times it may become too little."
        return Finding("disk_space", WARNING, message, detail, _MAKE_ROOM)
    return Finding("disk_space", INFO, message, detail)


_MAKE_ROOM = "Make room or enlarge the disk first: a full one stops every writer of the server, not the build alone."


def _unknown(reason: str, detail: dict[str, Any]) -> Finding:
    return Finding(
        "disk_unknown",
        INFO,
        f"Whether the disk has room for the index is not known: {reason}.",
        detail,
        "Look on the server, or at what its operator shows; a function that asks the operator can be named in "
        "ASYNC_MIGRATIONS_PREFLIGHT_FREE_BYTES.",
    )


# --- what is needed --------------------------------------------------------------------------------------------------


def _need(look: Look, statement: Statement, index: Index) -> _Need | None:
    """Return what an index needs, None where nothing is to be built. Raises ExecutionError."""
    found = verify.find(look.session, index)
    if index.action is IndexAction.REINDEX:
        if found is None:
            return None
        there = look.session.one("preflight_index", oid=found.oid)
        return _Need(statement, index, there["bytes"], there["oid"], there["tablespace"])
    if found is not None and (found.valid or index.tolerant):
        return None
    assert index.table is not None
    table = verify.quoted(index.table)
    look.session.one("preflight_tablespace")  # The copy below then lies where the index would.
    with verify.probed(look.session, index) as probe:
        twin = look.session.one("preflight_twin", name=probe, table=table)
    share = _share(look, table, twin["condition"]) if twin["rows"] and twin["condition"] else 1.0
    return _Need(statement, index, _estimate(twin, share), twin["oid"], twin["tablespace"])


def _estimate(twin: dict[str, Any], share: float) -> int | None:
    """Return the bytes of a B-tree. share: of the rows that it is about."""
    if twin["method"] != "btree" or twin["rows"] is None or twin["width"] is None:
        return None
    rows = twin["rows"] * share
    tuples = min(rows, twin["distinct"])
    every = tuples * (_TUPLE + 8 * ceil(twin["width"] / 8) + _POINTER) + (rows - tuples) * _TUPLE_ID
    return int(ceil(every / _FILLED + 1) * _PAGE)


def _share(look: Look, table: str, condition: str) -> float:
    """Return which share of the rows meets the condition of a partial index, as the planner sees it."""
    every, meant = (
        look.session.select(f"EXPLAIN (FORMAT JSON) SELECT FROM {table}{where}")[0]["QUERY PLAN"][0]["Plan"]
        for where in ("", f" WHERE {condition}")
    )
    return min(1.0, float(meant["Plan Rows"] / max(1, every["Plan Rows"])))


# --- what is free ----------------------------------------------------------------------------------------------------


class _Broken(Exception):
    """The function of the project has not answered with a number or None."""


def _free(look: Look, tablespace: int) -> tuple[int | None, str]:
    """Return the bytes that are free for a tablespace, and who says so. Raises _Broken, ExecutionError."""
    if conf.preflight_free_bytes and (free := _asked(conf.preflight_free_bytes, look)) is not None:
        return free, conf.preflight_free_bytes
    place = _place(look, tablespace)
    return (shutil.disk_usage(place).free, "disk") if place else (None, "")


def _place(look: Look, tablespace: int) -> Path | None:
    """Return where the server keeps a tablespace, None where that is not on this machine, or not for us to see."""
    server = look.session.one("preflight_server", tablespace=tablespace)
    if server["directory"] is None:
        return None
    directory = Path(server["directory"])
    try:
        here = _is_here(directory, look.session.backend.pid, server["started"])
        return (directory / server["location"]).resolve(strict=True) if here else None
    except (OSError, ValueError, IndexError):
        return None


def _asked(path: str, look: Look) -> int | None:
    """Return what the function of the project says, in a thread: one that hangs is not waited for."""
    answers: SimpleQueue[int | Exception | None] = SimpleQueue()
    Thread(target=_answer, args=(path, look.session.alias, answers), daemon=True).start()
    seconds = min(_FUNCTION_SECONDS, max(0.0, look.deadline - time.monotonic()))
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        raise _Broken(f"{path} has not answered within {seconds:.1f} s") from None
    if isinstance(answer, Exception):
        raise _Broken(f"{path} failed: {type(answer).__name__}: {answer}"[:200]) from answer
    return answer


def _answer(path: str, alias: str, answers: SimpleQueue[int | Exception | None]) -> None:
    try:
        function: Callable[[str], int | None] = import_string(path)
        free = function(alias)
        answers.put(None if free is None else int(free))
    except Exception as exc:  # The function of the project may raise anything.
        answers.put(exc)
    finally:
        connections.close_all()  # Those of this thread, which nobody else would close.


def _is_here(directory: Path, backend: int, started: float) -> bool:
    """Whether the server whose session this is runs on this machine, out of this directory.

    A directory of the same name proves nothing: a forwarded port may lead anywhere. The session's process has to be a
    child of the server that has locked this directory, begun when the session says. Raises OSError, ValueError and
    IndexError where there is none to see.
    """
    pid, _, since, *_ = (directory / "postmaster.pid").read_text().splitlines()
    parent = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1]
    return parent == pid.strip() and abs(int(since) - started) < _START_SECONDS
