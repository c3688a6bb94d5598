"""What can stand in the way of a statement or of a backfill, each looked for in the target by one function.

A function yields findings. An error of PostgreSQL in it is no obstacle by itself: it says that this one could not be
looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..conf import conf
from ..errors import ExecutionError
from . import duplicates, fitting, verify
from .findings import ERROR, INFO, WARNING, Finding
from .look import Look, forbidden
from .statements import Index, IndexAction, Statement, subjects

# What a role needs on the table of a statement that begins with this word.
_NEEDED = {"CREATE": ("OWNER", "CREATE"), "DROP": ("OWNER",), "ALTER": ("OWNER",)} | {
    word: (word,) for word in ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
}


# --- of one statement ------------------------------------------------------------------------------------------------


def tables_and_privileges(look: Look, statement: Statement) -> Iterator[Finding]:
    """Whether the tables are there, and the role may do with them what it has to."""
    head, names = subjects(statement)
    made = [index for index in statement.indexes if index.action is not IndexAction.CREATE]
    for name in names:
        row = _subject(look, verify.quoted(name))
        if row:
            yield from _lacking(look, statement, row, head)
        elif not made:  # What a DROP or REINDEX of an index finds is looked at by itself.
            yield _elsewhere(look, verify.quoted(name)) or look.standing(
                statement,
                "undefined_table",
                f"Statement {statement.number} is about {name}, and there is no such table in this database.",
                "Apply the migration that makes it to this database first.",
                table=str(name),
            )


def _subject(look: Look, name: str) -> dict[str, Any]:
    row = look.session.one("preflight_subject", name=name, role=conf.preflight_role)
    if row:
        look.tables[row["table"]] = row["oid"]
    return row


def _lacking(look: Look, statement: Statement, row: dict[str, Any], head: str) -> Iterator[Finding]:
    missing = [need for need in _NEEDED.get(head, ()) if need not in row["allowed"]]
    if missing and not look.knows_the_role:
        yield _of_another_role(row, missing)
    elif missing:
        yield look.standing(
            statement,
            "not_allowed",
            f"Statement {statement.number} needs {_in_words(missing, row['table'])}, which {row['role']} has not.",
            _ALLOW,
            **_privileges(row, missing),
        )


_ALLOW = (
    "Give it to the role that the workers connect as. If that is another one than here, name it in "
    "ASYNC_MIGRATIONS_PREFLIGHT_ROLE."
)


def _of_another_role(row: dict[str, Any], missing: list[str]) -> Finding:
    """Return that the role of this process lacks a privilege, and is not that of the workers."""
    lack = (
        f"whether the workers may do it, because {row['role']}, the role of this process, lacks "
        f"{_in_words(missing, row['table'])}, and is no worker's: it may not write to the table of checkpoints"
    )
    hint = "Name the role of the workers in ASYNC_MIGRATIONS_PREFLIGHT_ROLE: then its privileges are looked at."
    return forbidden("tables_and_privileges", lack, hint)


def _elsewhere(look: Look, name: str) -> Finding | None:
    """Return that the workers may know a name that means nothing to this role; None if they cannot."""
    found = look.session.one("preflight_elsewhere", name=name)
    if found and not found["usable"]:
        lack = f"{name}, because {look.role}, the role of this process, lacks USAGE on schema {found['schema']}"
        hint = f"Grant USAGE on schema {found['schema']} to {look.role}, or go by what the worker says."
        return forbidden("tables_and_privileges", lack, hint)
    if found and not look.may_be_the_workers:
        lack = f"{name}, because it is in schema {found['schema']}, which is not in the search path of {look.role}"
        hint = f"Write {found['schema']} before the name, or go by what the worker says: its own search path counts."
        return forbidden("tables_and_privileges", lack, hint)
    return None


def _privileges(row: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    return {"table": row["table"], "role": row["role"], "missing": missing}


def _in_words(needs: list[str], table: str) -> str:
    words = {"OWNER": f"the ownership of {table}", "CREATE": f"CREATE on the schema of {table}"}
    return " and ".join(words.get(need, f"{need} on {table}") for need in needs)


def indexes(look: Look, statement: Statement) -> Iterator[Finding]:
    """What there is already of the names of the indexes that a statement is about."""
    for index in statement.indexes:
        found = verify.find(look.session, index)
        detail = {"statement": statement.number, "index": str(index.name)}
        if found is None and index.action is IndexAction.CREATE:
            continue
        if found is None and index.tolerant:
            yield Finding("index_done", INFO, f"There is no index {index.name}: there is nothing to drop.", detail)
        elif found is None:
            yield _elsewhere(look, verify.quoted(index.name)) or look.standing(
                statement,
                "index_missing",
                f"Statement {statement.number} is about an index {index.name}, and there is none.",
                "Correct the name in the migration file; a DROP with IF EXISTS takes it for done.",
                index=str(index.name),
            )
        elif index.action is IndexAction.CREATE:
            yield from _of_the_same_name(look, statement, index, found)


def _of_the_same_name(look: Look, statement: Statement, index: Index, found: verify.FoundIndex) -> Iterator[Finding]:
    detail = {"index": str(index.name), "there": found.definition}
    if not index.concurrently and not index.tolerant:
        yield look.standing(
            statement,
            "already_exists",
            f"There is an index {index.name} already, and statement {statement.number} would fail of it.",
            "Drop or rename the one that is there, or say IF NOT EXISTS.",
            **detail,
        )
    elif not found.valid:
        yield Finding(
            "index_invalid",
            WARNING,
            f"There is an index {index.name}, and it is INVALID: somebody is building it, or a build has left it.",
            {"statement": statement.number, **detail},
            "The worker waits for who is building it; what is left over it drops, and builds anew."
            if index.concurrently
            else "Drop it, see `manage.py async_migrations janitor`: IF NOT EXISTS would leave it as it is.",
        )
    else:
        yield _valid(look, statement, index, found)


def _valid(look: Look, statement: Statement, index: Index, found: verify.FoundIndex) -> Finding:
    try:
        verify.require_as_asked(look.session, index, found)
    except ExecutionError as error:
        if error.code != "index_differs":
            raise
        detail = {"index": str(index.name), "there": found.definition, "difference": error.detail}
        return look.standing(statement, error.code, error.message, error.hint or "", **detail)
    return Finding(
        "index_done",
        INFO,
        f"The index {index.name} is there, valid and as asked for: statement {statement.number} has nothing to do.",
        {"statement": statement.number, "index": str(index.name), "there": found.definition},
    )


def duplicate_keys(look: Look, statement: Statement) -> Iterator[Finding]:
    """Which keys keep a UNIQUE index from being built."""
    for index in statement.indexes:
        if not index.unique or verify.find(look.session, index) is not None:
            continue
        if samples := duplicates.find(look.session, index):
            yield look.standing(
                statement,
                "duplicate_key",
                f"The UNIQUE index {index.name} cannot be built: there are keys that more than one row has.",
                "Remove the duplicate rows, then run the migration.",
                index=str(index.name),
                samples=samples,
            )


# --- of a backfill ---------------------------------------------------------------------------------------------------


def table_of_backfill(look: Look) -> Iterator[Finding]:
    """Whether there is a table, a key to walk it by that its rows keep, and the privilege to change it.

    Raises InvalidDefinition where they do not keep it.
    """
    assert look.definition is not None
    row = _subject(look, look.definition.table)
    try:
        assert look.keyset
    except ExecutionError as error:
        if error.code not in {"undefined_table", "no_key"}:
            raise
        finding = _elsewhere(look, look.definition.table) if error.code == "undefined_table" else None
        yield finding or Finding(error.code, ERROR, error.message, {"table": look.definition.table}, error.hint)
        return
    fitting.require_in_place(look.definition, look.keyset)
    head = look.definition.text.split(maxsplit=1)[0].upper() if look.definition.text else ""
    needed = ["SELECT", *(["UPDATE"] if head == "UPDATE" else [])]
    missing = [need for need in needed if need not in row["allowed"]]
    if missing and not look.knows_the_role:
        yield _of_another_role(row, missing)
    elif missing:
        message = f"The backfill needs {_in_words(missing, row['table'])}, which {row['role']} has not."
        yield Finding("not_allowed", ERROR, message, _privileges(row, missing), _ALLOW)


def condition_of_backfill(look: Look) -> Iterator[Finding]:
    """Whether PostgreSQL can read which rows are meant, where it is not all of them."""
    assert look.definition is not None
    if look.definition.where:
        yield from rows_of_backfill(look)


def rows_of_backfill(look: Look) -> Iterator[Finding]:
    """How many rows are to be changed, by the statistics."""
    assert look.definition is not None
    try:
        rows = look.keyset.estimate(look.definition.where)
    except ExecutionError as error:
        if error.code != "invalid_statement":
            raise
        message = f"The condition of the backfill cannot be read: {error.message}"
        yield Finding("invalid_statement", ERROR, message, {"where": look.definition.where}, error.hint)
        return
    detail = {"table": look.keyset.relation, "rows": rows, "where": look.definition.where, "basis": "statistics"}
    yield Finding("rows", INFO, f"About {rows:,} rows of {look.keyset.relation} are meant.", detail)
