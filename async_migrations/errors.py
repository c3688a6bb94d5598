"""The errors of the product.

    AsyncMigrationError
    ├── InvalidDefinition     a migration file asks for what cannot be carried out (also a ValueError)
    ├── TablesMissing         the tables of this app are not in the database yet
    ├── NotFinished           a migration file needs an async migration that is not FINISHED
    ├── TransitionRefused     the table of transitions has no such move from where the migration is
    ├── PreflightFailed       something stands in the way of a migration before it has begun
    ├── LeaseLost             somebody else owns the migration now; this attempt must write nothing more
    ├── NotALeftover          an index is not to be dropped by the janitor: it is valid, or somebody is at work on it
    ├── WebhookRefused        a webhook cannot be made so, or nothing is sent to it
    ├── NotAllTried           the control database failed while many migrations were asked for
    ├── BrokerAway            a message could not be sent, and nothing else would bring it about
    └── ExecutionError        a statement failed or its effect is not there; carries what the row will say

Each has a stable, machine-readable `code`, which the API and `meta.error` repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class AsyncMigrationError(Exception):
    """Root of all errors that this app raises on purpose."""

    code: str


class InvalidDefinition(AsyncMigrationError, ValueError):
    """A migration file asks for what cannot be carried out."""

    code = "invalid_definition"


class TablesMissing(AsyncMigrationError):
    """The tables of this app are not in the database yet."""

    code = "tables_missing"


class NotFinished(AsyncMigrationError):
    """A migration file needs an async migration that is not FINISHED."""

    code = "not_finished"


class TransitionRefused(AsyncMigrationError):
    """The table of transitions has no such move from where the migration is.

    `status` is where the migration is, `allowed` the verbs that it would accept now.
    """

    code = "invalid_transition"

    def __init__(self, message: str, *, status: str, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.status = status
        self.allowed = allowed


class PreflightFailed(AsyncMigrationError):
    """Something stands in the way of a migration before it has begun; `findings` says what, as the API shows it."""

    code = "preflight_failed"

    def __init__(self, message: str, *, findings: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.findings = findings


class LeaseLost(AsyncMigrationError):
    """Somebody else owns the migration now; this attempt must write nothing more."""

    code = "lease_lost"


class NotALeftover(AsyncMigrationError):
    """An index is not to be dropped by the janitor: it is valid, or somebody is at work on it."""

    code = "not_a_leftover"


class WebhookRefused(AsyncMigrationError):
    """A webhook cannot be made so, or nothing is sent to it."""

    code = "webhook_refused"


class NotAllTried(AsyncMigrationError):
    """The control database failed while many migrations were asked for; `done` has the ids of those that were done.

    Its cause is what the database said.
    """

    code = "database_unavailable"

    def __init__(self, done: list[int], of: int) -> None:
        super().__init__(
            f"The control database failed when {len(done)} of {of} migrations were done. They stay so. One more may "
            "be; the others were refused or not tried. Ask for the same again: what is done already is left as it is."
        )
        self.done = done


class BrokerAway(AsyncMigrationError):
    """A message could not be sent, and nothing else would bring about what was asked for."""

    code = "broker_unavailable"


@dataclass(eq=False)
class ExecutionError(AsyncMigrationError):
    """A statement failed, or its effect is not there.

    code: stable name of the kind of failure, a key of `codes.ERRORS`.
    message: what happened; PostgreSQL's own words where it spoke.
    sqlstate: the five characters of PostgreSQL, None where it did not speak.
    detail, hint: PostgreSQL's, or ours; the hint says what to do next.
    statement: number of the statement, from 1; None before the first.
    retryable: another attempt may succeed without anybody changing anything.
    key: with `bad_row` the texts of the row's key columns.
    samples: with `duplicate_key` some of the keys, as `{"key": {column: text}, "count": rows}`; None when not counted.
    """

    code: str
    message: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    statement: int | None = None
    retryable: bool = False
    samples: list[dict[str, Any]] | None = None
    key: list[str] | None = None

    def __str__(self) -> str:
        return self.message

    def as_meta(self) -> dict[str, Any]:
        """Return the shape of `meta.error`."""
        return {
            "code": self.code,
            "message": self.message.replace("\0", "\N{REPLACEMENT CHARACTER}"),  # No text of PostgreSQL can hold it.
            "sqlstate": self.sqlstate,
            "detail": self.detail,
            "hint": self.hint,
            "statement": self.statement,
            **({"samples": self.samples} if self.samples else {}),
            **({"key": self.key} if self.key else {}),
        }
