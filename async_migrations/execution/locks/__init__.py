"""Which locks a migration takes, on what, whom each keeps waiting and for how long: its text and the catalogue tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import verify
from ..definition import trial
from ..findings import INFO, WARNING, Finding
from ..look import Look
from ..statements import Effect, Lock, Statement, parse
from .claims import claims_of
from .modes import Claim, Claims, Mode, Of, strength

# Who has to wait, by the words in the detail of a finding.
_WAITING = {
    "reads": "readers",
    "writes": "writers",
    "maintenance": "VACUUM and concurrent builds",
    "ddl": "ALTER TABLE and the like",
}

_IN_LINE = " Those behind it in line wait with it, for its lock_timeout at most."

_UNKNOWN = {
    Lock.ROWS: (INFO, "what it locks is not told by its text"),
    Lock.MAINTENANCE: (INFO, "which tables it locks is not told by its text; it blocks no reader and no writer"),
    Lock.BLOCKING: (
        WARNING,
        "which locks it takes is not told by its text. It may take up to ACCESS EXCLUSIVE, and then readers and "
        "writers wait until it ends",
    ),
}


def lock(look: Look, statement: Statement) -> Iterator[Finding]:
    """Which locks a statement takes, and whom it blocks."""
    if statement.effect is Effect.SESSION:
        return
    detail = {"statement": statement.number, "sql": statement.summary, "class": statement.lock.name.lower()}
    claims = claims_of(statement)
    if claims is None:
        level, words = _UNKNOWN[statement.lock]
        detail |= {"locks": None, "blocks": None, "lasts": None}
        yield Finding("lock", level, f"Statement {statement.number}: {words}.", detail)
    else:
        yield _told(look, f"Statement {statement.number}", statement.lock, claims, detail)


def lock_of_backfill(look: Look) -> Iterator[Finding]:
    """Which locks each batch of a backfill takes; what a function of the project does is not known."""
    assert look.definition is not None
    if not look.definition.text:
        return
    for statement in parse(trial(look.definition.text)):
        detail = {"sql": statement.summary, "class": statement.lock.name.lower()}
        if claims := claims_of(statement):
            yield _told(look, "Each batch", statement.lock, claims, detail)


def _told(look: Look, who: str, kind: Lock, claims: Claims, detail: dict[str, Any]) -> Finding:
    strongest: dict[str, tuple[Mode, int]] = {}
    for claim in claims.locks:
        for relation, below in _found(look, claim):
            known = strongest.get(relation)
            if known is None or strength(claim.mode) > strength(known[0]):
                strongest[relation] = (claim.mode, below)
    waiting = {each for mode, _ in strongest.values() for each in mode.blocks}
    blocks = [each for each in _WAITING if each in waiting]
    detail |= {
        "locks": [
            {"relation": relation, "mode": mode.words, "partitions": below}
            for relation, (mode, below) in strongest.items()
        ],
        "blocks": blocks,
        "lasts": "statement" if claims.lasting else "instant",
    }
    stops = bool({"reads", "writes"} & waiting)
    message = f"{who} {_taken(strongest)}{_for_long(kind, claims.lasting, blocks)}.{_IN_LINE if stops else ''}"
    return Finding("lock", WARNING if stops else INFO, message, detail)


def _found(look: Look, claim: Claim) -> Iterator[tuple[str, int]]:
    """Yield what a claim is about, by the catalogue, and how many partitions or children below."""
    rows = look.session.all(
        "preflight_locked",
        name=verify.quoted(claim.name),
        of=claim.of.name,
        below=claim.below,
        constraint=claim.constraint,
        column=claim.column,
    )
    yield from ((row["relation"], row["below"]) for row in rows)
    if not rows and claim.of is Of.ITSELF:  # A statement before it may make it.
        yield str(claim.name), 0


def _taken(strongest: dict[str, tuple[Mode, int]]) -> str:
    if not strongest:
        return "takes no lock of a table but to read"
    by_mode: dict[Mode, list[str]] = {}
    for relation, (mode, below) in strongest.items():
        by_mode.setdefault(mode, []).append(f"{relation} with {below} below it" if below else relation)
    taken = (f"{mode.words} on {', '.join(relations)}" for mode, relations in by_mode.items())
    return f"takes {' and '.join(taken)}"


def _for_long(kind: Lock, lasting: bool, blocks: list[str]) -> str:
    """Return for how long, and who waits meanwhile."""
    if not blocks:
        return ": nobody waits for it"
    long = "for as long as it works" if lasting else "for an instant"
    *others, last = (_WAITING[each] for each in blocks)
    waiting = f"{', '.join(others)}, and {last}" if others else last
    rows = ", and whoever changes the same rows, until it commits" if kind is Lock.ROWS else ""
    return f" {long}; meanwhile {waiting} wait{rows}"
