"""One look at a target: what all checks of a preflight share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..models import AsyncMigrationStatus
from .definition import Definition
from .findings import ERROR, INFO, WARNING, Finding
from .keyset import Keyset, keyset
from .session import Session
from .statements import Effect, Statement


@dataclass
class Look:
    """One look at a target, for one migration.

    statements: what is still to be done, in order. definition: of a backfill. tables: name of each table that was found
    so far to its oid.
    """

    session: Session
    migration: AsyncMigrationStatus
    direction: str
    statements: tuple[Statement, ...] = ()
    definition: Definition | None = None
    tables: dict[str, int] = field(default_factory=dict)

    @property
    def own(self) -> str:
        """What the names of the migration's own sessions begin with."""
        return f"async-migrations/{self.migration.pk}/"

    @cached_property
    def keyset(self) -> Keyset:
        """How the backfill walks its table. Raises ExecutionError."""
        assert self.definition is not None
        return keyset(self.session, self.definition.table, self.definition.key)

    def standing(self, statement: Statement, code: str, message: str, hint: str, **detail: Any) -> Finding:
        """Return an error; a warning where a statement before this one may see to it."""
        detail = {"statement": statement.number, **detail}
        before = [other for other in self.statements if other.number < statement.number]
        if any(other.effect is not Effect.SESSION for other in before):
            return Finding(code, WARNING, f"{message} A statement before it may change that.", detail, hint)
        return Finding(code, ERROR, message, detail, hint)


def unseen(check: str, reason: str, code: str | None = None) -> Finding:
    """Return the finding that something could not be looked for."""
    return Finding("not_checked", INFO, f"Not looked at: {check}: {reason}.", {"check": check, "error": code})
