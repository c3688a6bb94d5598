"""Which locks a statement takes, as far as its text tells: modes by PostgreSQL's names, on what, and for how long.

Pure: what only the catalogue knows (foreign keys, partitions, the table of an index) is named here and looked up by
the check. Where a text leaves it open, the stronger or the longer is said.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import InvalidDefinition
from ..statements import Identifier, Statement
from .alterations import altered
from .modes import Claim, Claims, Mode, Of
from .reading import Text, text_of


def claims_of(statement: Statement) -> Claims | None:
    """Return which locks a statement takes, None where its text does not tell."""
    text = text_of(statement.text)
    reader = _READERS.get(text.next())
    try:
        return reader(text, statement) if reader else None
    except (InvalidDefinition, ValueError, IndexError):  # It ends too early: PostgreSQL will say so.
        return None


def _one(mode: Mode, name: Identifier, *, lasting: bool = False, below: bool = False) -> Claims:
    return Claims((Claim(mode, name, below=below),), lasting)


# --- rows ------------------------------------------------------------------------------------------------------------

_NO_STATEMENT = {"FOR", "KEY", "DO", "THEN"}  # Before an UPDATE: it belongs to another statement, or is a lock of rows.


def _rows(text: Text, statement: Statement) -> Claims:
    """Read whatever changes rows; what is only read takes ACCESS SHARE, which is left out."""
    found, text.at = [], 0
    for at, word in enumerate(text.words):
        before = text.words[at - 1] if at else ""
        text.at = at + 1
        into = (word in {"INSERT", "MERGE"} and text.took("INTO")) or (word == "DELETE" and text.took("FROM"))
        if into or (word == "UPDATE" and before not in _NO_STATEMENT):
            text.took("ONLY")
            found.append(Claim(Mode.ROW_EXCLUSIVE, text.name()))
    return Claims(tuple(found), lasting=True)


def _copy(text: Text, statement: Statement) -> Claims:
    if text.took("("):
        return Claims((), lasting=True)
    name = text.name()
    return _one(Mode.ROW_EXCLUSIVE, name, lasting=True) if "FROM" in text.words else Claims((), lasting=True)


# --- tables ----------------------------------------------------------------------------------------------------------

_NEW = {"FUNCTION", "PROCEDURE", "SCHEMA", "TYPE", "DOMAIN", "SEQUENCE", "VIEW", "MATERIALIZED"}


def _create(text: Text, statement: Statement) -> Claims | None:
    replaces = text.took("OR REPLACE")
    text.skip("GLOBAL", "LOCAL", "TEMPORARY", "TEMP", "UNLOGGED", "UNIQUE", "CONSTRAINT", "RECURSIVE")
    kind = text.next()
    if kind == "INDEX":
        (index,) = statement.indexes
        assert index.table is not None
        mode = Mode.SHARE_UPDATE_EXCLUSIVE if index.concurrently else Mode.SHARE
        return _one(mode, index.table, lasting=True, below="ONLY" not in text.words)
    if kind == "TRIGGER":
        return _one(Mode.SHARE_ROW_EXCLUSIVE, text.behind("ON"), below=True)
    if kind in {"RULE", "POLICY"}:
        return _one(Mode.ACCESS_EXCLUSIVE, text.behind("TO" if kind == "RULE" else "ON"))
    if kind == "STATISTICS":
        return _one(Mode.SHARE_UPDATE_EXCLUSIVE, [*text.all_behind("FROM")][-1])
    if kind == "TABLE":
        return _create_table(text)
    if kind == "VIEW" and replaces:
        return _one(Mode.ACCESS_EXCLUSIVE, text.name())
    return Claims((), lasting=False) if kind in _NEW else None


def _create_table(text: Text) -> Claims:
    """Read what a new table has to do with those that are there; nobody waits for the new one."""
    text.skip("IF NOT EXISTS")
    new, at = text.name(), text.at
    locks = [Claim(Mode.SHARE_ROW_EXCLUSIVE, name) for name in text.all_behind("REFERENCES") if name != new]
    text.at = at
    if text.took("PARTITION OF"):
        parent = text.name()
        locks += [Claim(Mode.ACCESS_EXCLUSIVE, parent, of) for of in (Of.ITSELF, Of.DEFAULT)]
    elif "INHERITS" in text.rest():
        text.at = text.words.index("INHERITS", at) + 2
        locks += [Claim(Mode.SHARE_UPDATE_EXCLUSIVE, name) for name in text.names()]
    return Claims(tuple(locks), lasting=False)


def _drop(text: Text, statement: Statement) -> Claims | None:
    kind = "VIEW" if text.took("MATERIALIZED VIEW") else text.next()
    cascades = text.words[-1] == "CASCADE"
    if kind == "INDEX":
        concurrently = any(index.concurrently for index in statement.indexes)
        mode = Mode.SHARE_UPDATE_EXCLUSIVE if concurrently else Mode.ACCESS_EXCLUSIVE
        names, both = [index.name for index in statement.indexes], (Of.TABLE, Of.ITSELF)
        locks = [Claim(mode, name, of, below=of is Of.TABLE) for name in names for of in both]
        return Claims(tuple(locks), lasting=concurrently)
    text.skip("IF EXISTS")
    if kind in {"TRIGGER", "POLICY", "RULE"}:
        return _one(Mode.ACCESS_EXCLUSIVE, text.behind("ON"), below=kind == "TRIGGER")
    if kind == "TABLE":
        what = [Of.ITSELF, Of.REFERENCED, Of.PARENT, *([Of.REFERENCING] if cascades else [])]
        locks = [Claim(Mode.ACCESS_EXCLUSIVE, name, of, of is Of.ITSELF) for name in text.names() for of in what]
        return Claims(tuple(locks), lasting=False)
    if kind in {"VIEW", "SEQUENCE"} and not cascades:
        return Claims(tuple(Claim(Mode.ACCESS_EXCLUSIVE, name) for name in text.names()), lasting=False)
    return Claims((), lasting=False) if kind in {"FUNCTION", "PROCEDURE"} and not cascades else None


def _truncate(text: Text, statement: Statement) -> Claims:
    text.skip("TABLE", "ONLY")
    names = text.names()
    of = Of.TRUNCATED if "CASCADE" in text.rest() else Of.ITSELF
    below = "ONLY" not in text.words
    return Claims(tuple(Claim(Mode.ACCESS_EXCLUSIVE, name, of, below) for name in names), lasting=False)


def _lock(text: Text, statement: Statement) -> Claims | None:
    text.skip("TABLE", "ONLY")
    names = text.names()
    wanted = " ".join(text.rest()).partition(" MODE")[0] if text.took("IN") else "ACCESS EXCLUSIVE"
    mode = next((mode for mode in Mode if mode.words == wanted), None)
    below = "ONLY" not in text.words
    return Claims(tuple(Claim(mode, name, below=below) for name in names), lasting=False) if mode else None


def _vacuum(text: Text, statement: Statement) -> Claims | None:
    if statement.relations:
        locks = tuple(Claim(Mode.SHARE_UPDATE_EXCLUSIVE, name, below=True) for name in statement.relations)
        return Claims(locks, lasting=True)
    full = "FULL" in text.words
    text.skip_options({"FULL", "FREEZE", "VERBOSE", "ANALYZE"})
    return _one(Mode.ACCESS_EXCLUSIVE, text.name(), lasting=True, below=True) if full else None


def _cluster(text: Text, statement: Statement) -> Claims:
    text.skip_options({"VERBOSE"})
    return _one(Mode.ACCESS_EXCLUSIVE, text.name(), lasting=True)


def _reindex(text: Text, statement: Statement) -> Claims | None:
    text.skip_options(set())
    kind = text.next()
    concurrently = text.took("CONCURRENTLY")
    if kind not in {"INDEX", "TABLE"}:
        return None
    name, index = text.name(), kind == "INDEX"
    table, indexes = (Of.TABLE, Of.ITSELF) if index else (Of.ITSELF, Of.INDEXES)
    modes = (Mode.SHARE, Mode.ACCESS_EXCLUSIVE) if not concurrently else (Mode.SHARE_UPDATE_EXCLUSIVE,) * 2
    return Claims((Claim(modes[0], name, table, below=not index), Claim(modes[1], name, indexes)), lasting=True)


def _refresh(text: Text, statement: Statement) -> Claims:
    text.skip("MATERIALIZED VIEW")
    mode = Mode.EXCLUSIVE if text.took("CONCURRENTLY") else Mode.ACCESS_EXCLUSIVE
    return _one(mode, text.name(), lasting=True)


def _comment(text: Text, statement: Statement) -> Claims | None:
    text.took("ON")
    kind = text.next()
    return _one(Mode.SHARE_UPDATE_EXCLUSIVE, text.name()) if kind in {"TABLE", "INDEX", "VIEW"} else None


def _alter(text: Text, statement: Statement) -> Claims | None:
    kind = text.next()
    if kind == "TABLE":
        return altered(text)
    if kind in {"TRIGGER", "POLICY", "RULE"}:
        return _one(Mode.ACCESS_EXCLUSIVE, text.behind("ON"))
    if kind != "INDEX":
        return None
    text.skip("IF EXISTS")
    name = text.name()
    if text.took("SET TABLESPACE"):
        return _one(Mode.ACCESS_EXCLUSIVE, name, lasting=True)
    weak = text.took("RENAME") or text.took("SET (") or text.took("RESET") or text.took("ALTER")
    return _one(Mode.SHARE_UPDATE_EXCLUSIVE, name) if weak else None


_READERS: dict[str, Callable[[Text, Statement], Claims | None]] = {
    **dict.fromkeys(
        ("SELECT", "VALUES", "TABLE", "SHOW", "WITH", "EXPLAIN", "INSERT", "UPDATE", "DELETE", "MERGE"), _rows
    ),
    "COPY": _copy,
    "CREATE": _create,
    "ALTER": _alter,
    "DROP": _drop,
    "TRUNCATE": _truncate,
    "LOCK": _lock,
    "VACUUM": _vacuum,
    "ANALYZE": _vacuum,
    "CLUSTER": _cluster,
    "REINDEX": _reindex,
    "REFRESH": _refresh,
    "COMMENT": _comment,
}
