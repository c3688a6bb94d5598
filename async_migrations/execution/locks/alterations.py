"""ALTER TABLE: which lock each of its actions takes, the strongest counts for the table; and what it takes away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..statements import Identifier
from .modes import Claim, Claims, Loss, Mode, Of, strength
from .reading import Text


def altered(text: Text) -> Claims | None:
    """Read what stands behind ALTER TABLE; None for ALL IN TABLESPACE."""
    if text.took("ALL"):
        return None
    name, only, actions = _read(text)
    strongest = max((action.mode for action in actions), key=strength)
    below = not only and any(action.below for action in actions)
    further = tuple(claim for action in actions for claim in action.further)
    return Claims((Claim(strongest, name, below=below), *further), any(action.lasting for action in actions))


def taken(text: Text) -> list[Loss]:
    """Return what the actions behind ALTER TABLE take away; nothing for ALL IN TABLESPACE."""
    if text.took("ALL"):
        return []
    _, _, actions = _read(text)
    return [action.takes for action in actions if action.takes]


def _read(text: Text) -> tuple[Identifier, bool, list[_Action]]:
    """Read [IF EXISTS] [ONLY] table action [, ...]: the table, whether ONLY is there, the actions."""
    text.skip("IF EXISTS")
    only, name = text.took("ONLY"), text.name()
    return name, only, [_action(part, name) for part in text.parts()]


@dataclass(frozen=True)
class _Action:
    """One action of an ALTER TABLE. further: what it locks beside its table. takes: what it takes away."""

    mode: Mode = Mode.ACCESS_EXCLUSIVE
    lasting: bool = False
    below: bool = False
    further: tuple[Claim, ...] = ()
    takes: Loss | None = None


def _action(text: Text, table: Identifier) -> _Action:
    verb = text.next()
    reader = _ACTIONS.get(verb)
    return reader(text, table) if reader else _Action()


def _add(text: Text, table: Identifier) -> _Action:
    """Read ADD [COLUMN] and ADD [CONSTRAINT name]."""
    if text.took("CONSTRAINT"):
        text.name()
    referred = tuple(Claim(Mode.SHARE_ROW_EXCLUSIVE, name) for name in text.ahead().all_behind("REFERENCES"))
    at_once = "NOT VALID" in " ".join(text.words)
    if text.took("FOREIGN KEY"):
        return _Action(Mode.SHARE_ROW_EXCLUSIVE, not at_once, below=True, further=referred)
    if text.took("CHECK") or text.took("NOT NULL") or text.took("EXCLUDE"):
        return _Action(lasting=not at_once, below=True)
    if text.took("PRIMARY KEY") or text.took("UNIQUE"):
        # A primary key may have to read all rows for NULLs.
        return _Action(lasting="USING" not in text.words or "PRIMARY" in text.words, below=True)
    return _Action(lasting=_fills(text), below=True, further=referred)


_FILL = {"GENERATED", "CHECK", "UNIQUE", "PRIMARY", "REFERENCES", "SERIAL", "BIGSERIAL", "SMALLSERIAL"}


def _fills(text: Text) -> bool:
    """Whether a new column may make all rows be read or written anew: checks, a default that is told row by row."""
    words = text.rest()
    default = words[words.index("DEFAULT") :] if "DEFAULT" in words else []
    return bool(_FILL & set(words)) or ("(" in default and default[1:3] != ["NOW", "("])


def _drop_action(text: Text, table: Identifier) -> _Action:
    constraint = text.took("CONSTRAINT")
    text.skip("COLUMN", "IF EXISTS")
    name = text.name().name
    further = [Of.REFERENCED, *([Of.REFERENCING] if "CASCADE" in text.rest() else [])]
    whole = Claim(Mode.ACCESS_EXCLUSIVE, table)
    about = replace(whole, constraint=name) if constraint else replace(whole, column=name)
    locks = tuple(replace(about, of=of) for of in further)
    takes = _constraint("drops", name) if constraint else _column("drops", name, table)
    return _Action(below=True, further=locks, takes=takes)


def _constraint(verb: str, name: str) -> Loss:
    return Loss(f"{verb} the constraint {name}", Identifier(name))


def _column(verb: str, name: str, table: Identifier) -> Loss:
    return Loss(f"{verb} the column {name} of the table {table}", table, name)


def _alter_column(text: Text, table: Identifier) -> _Action:
    if text.took("CONSTRAINT"):
        return _Action()
    text.skip("COLUMN")
    column = text.name().name
    if text.took("TYPE") or text.took("SET DATA TYPE"):
        both = (Of.REFERENCED, Of.REFERENCING)
        locks = tuple(Claim(Mode.ACCESS_EXCLUSIVE, table, of, column=column) for of in both)
        takes = _column("changes the type of", column, table)
        return _Action(lasting=True, below=True, further=locks, takes=takes)
    if text.took("SET STATISTICS") or text.took("SET (") or text.took("RESET"):
        return _Action(Mode.SHARE_UPDATE_EXCLUSIVE, below=True)
    return _Action(lasting=text.took("SET NOT NULL") or text.took("SET EXPRESSION"), below=True)


def _validate(text: Text, table: Identifier) -> _Action:
    text.took("CONSTRAINT")
    constraint = text.name().name
    further = (Claim(Mode.ROW_SHARE, table, Of.REFERENCED, constraint=constraint),)
    return _Action(Mode.SHARE_UPDATE_EXCLUSIVE, lasting=True, below=True, further=further)


def _switch(text: Text, table: Identifier) -> _Action:
    """Read ENABLE and DISABLE."""
    text.skip("ALWAYS", "REPLICA")
    return _Action(Mode.SHARE_ROW_EXCLUSIVE, below=True) if text.took("TRIGGER") else _Action()


def _set(text: Text, table: Identifier) -> _Action:
    """Read SET and RESET."""
    if text.took("WITHOUT CLUSTER") or (text.took("(") and "USER_CATALOG_TABLE" not in text.words):
        return _Action(Mode.SHARE_UPDATE_EXCLUSIVE)
    return _Action(lasting=text.next() in {"LOGGED", "UNLOGGED", "TABLESPACE", "ACCESS"})


def _attach(text: Text, table: Identifier) -> _Action:
    text.took("PARTITION")
    partition = Claim(Mode.ACCESS_EXCLUSIVE, text.name(), below=True)
    further = (partition, Claim(Mode.ACCESS_EXCLUSIVE, table, Of.DEFAULT))
    return _Action(Mode.SHARE_UPDATE_EXCLUSIVE, lasting=True, further=further)


def _detach(text: Text, table: Identifier) -> _Action:
    text.took("PARTITION")
    partition = Claim(Mode.ACCESS_EXCLUSIVE, text.name(), below=True)
    concurrently, finishes = text.took("CONCURRENTLY"), text.took("FINALIZE")
    mode = Mode.SHARE_UPDATE_EXCLUSIVE if concurrently or finishes else Mode.ACCESS_EXCLUSIVE
    return _Action(mode, lasting=concurrently, further=(partition, Claim(Mode.ACCESS_EXCLUSIVE, table, Of.DEFAULT)))


def _inherit(text: Text, table: Identifier) -> _Action:
    return _Action(further=(Claim(Mode.SHARE_UPDATE_EXCLUSIVE, text.name()),))


def _rename(text: Text, table: Identifier) -> _Action:
    if text.took("TO"):
        return _Action(takes=Loss(f"renames the table {table}", table))
    if text.took("CONSTRAINT"):
        return _Action(below=True, takes=_constraint("renames", text.name().name))
    text.took("COLUMN")
    return _Action(below=True, takes=_column("renames", text.name().name, table))


_ACTIONS: dict[str, Callable[[Text, Identifier], _Action]] = {
    "ADD": _add,
    "DROP": _drop_action,
    "ALTER": _alter_column,
    "VALIDATE": _validate,
    "ENABLE": _switch,
    "DISABLE": _switch,
    "SET": _set,
    "RESET": _set,
    "CLUSTER": lambda text, table: _Action(Mode.SHARE_UPDATE_EXCLUSIVE),
    "ATTACH": _attach,
    "DETACH": _detach,
    "INHERIT": _inherit,
    "RENAME": _rename,
}
