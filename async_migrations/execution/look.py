"""One look at a target: what all checks of a preflight share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..conf import conf
from ..models import AsyncMigrationStatus
from .definition import Definition
from .findings import ERROR, INFO, WARNING, Finding
from .keyset import Keyset, keyset
from .session import Session
from .statements import Effect, Statement


@dataclass
class Look:
    """One look at a target, for one migration.

    deadline: on the monotonic clock, until when it is to have ended. statements: what is still to be done, in order.
    definition: of a backfill. tables: name of each table that was found so far to its oid. role: that this process has
    in the target, before the migration sets any. may_be_the_workers: whether the workers may have the same role; False
    where it lacks what each of them needs.
    """

    session: Session
    migration: AsyncMigrationStatus
    direction: str
    deadline: float
    statements: tuple[Statement, ...] = ()
    definition: Definition | None = None
    tables: dict[str, int] = field(default_factory=dict)
    role: str = ""
    may_be_the_workers: bool = False

    @property
    def own(self) -> str:
        """What the names of the migration's own sessions begin with."""
        return f"async-migrations/{self.migration.pk}/"

    @property
    def knows_the_role(self) -> bool:
        """Whether the privileges that are looked at may be those of the workers; other ones refuse nothing."""
        return conf.preflight_role is not None or self.may_be_the_workers

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


def unseen(check: str, reason: str, code: str | None = None, hint: str | None = None) -> Finding:
    """Return the finding that something could not be looked for."""
    return Finding("not_checked", INFO, f"Not looked at: {check}: {reason}.", {"check": check, "error": code}, hint)


def forbidden(check: str, lack: str, hint: str) -> Finding:
    """Return the finding that the role of this process may not look at what the migration is about.

    lack: a sentence without its dot, with the role and what it lacks. It is no error: the worker has a role of its own,
    and PostgreSQL refuses it before anything is done.
    """
    message = f"Could not be looked at from here: {lack}. The worker finds out, before it changes anything."
    return Finding("not_checked", WARNING, message, {"check": check, "error": "not_allowed"}, hint)
